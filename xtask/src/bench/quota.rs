//! `quota`: Kueue's performance test on the whole path, in real time. The loads
//! are Kueue's own generators, given as files.
//!
//! Where a share is evicted, the test does as Kueue's runner: it stops at once
//! and its work starts anew when it is placed again. Our workers finish the chunk
//! first; `--finish-chunks` measures that instead.

mod peer;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use postgres::Binaries;

use super::example::{self, Example};
use super::{Bar, Figures, Samples};
use crate::kueue;
use crate::project::Project;

/// Seconds, and percent of nominal quota in use, for the loads that have a bar.
const BARS: [(&str, f64, Option<f64>); 2] = [("baseline", 76.0, Some(85.0)), ("large-scale", 40.0, None)];
/// Times that a workload of any class waits longer with Kueue.
const SOONER_BAR: Bar = Bar::AtLeast(1.0);

/// How it is measured.
pub struct Plan<'a> {
    pub generator: &'a Path,
    pub finish_chunks: bool,
    /// Run Kueue after each of our runs.
    pub against_kueue: bool,
    pub runs: Option<u32>,
}

pub fn run(project: &Project, binaries: &Binaries, plan: &Plan<'_>) -> Result<(u32, Figures)> {
    ensure!(
        !(plan.finish_chunks && plan.against_kueue),
        "with --finish-chunks it is not Kueue's test any more: leave one of the two out"
    );
    let runs = plan.runs.unwrap_or(1);
    // All is built before anything is measured.
    let peer = plan.against_kueue.then(|| kueue::ensure(project)).transpose()?;
    let example = Example::build(project, binaries, "quota_bench")?;
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        let mut command = example.command();
        command.arg(plan.generator).args(plan.finish_chunks.then_some("--finish-chunks"));
        let mut found = example::figures(&mut command)?;
        if let Some(kueue) = &peer {
            eprintln!("run {run} of {runs}: Kueue");
            let theirs = peer::figures(&kueue.run(plan.generator)?)?;
            found.append(&mut peer::ratios(&found, &theirs));
            found.extend(theirs.into_iter().map(|(name, value)| (format!("kueue_{name}"), value)));
        }
        for (name, value) in found {
            samples.entry(name).or_default().add(value);
        }
    }
    let shape = plan.generator.file_name().unwrap_or_default().to_string_lossy();
    let bars = BARS.iter().find(|(name, ..)| shape.starts_with(name));
    let mut figures = Figures::default();
    for (name, samples) in &samples {
        let bar = match (name.as_str(), bars) {
            ("wall_s", Some((_, wall, _))) => Some(Bar::AtMost(*wall)),
            ("usage_pct", Some((_, _, usage))) => usage.map(Bar::AtLeast),
            (name, _) if name.starts_with(peer::ADMISSION_RATIO) => Some(SOONER_BAR),
            _ => None,
        };
        let unit = match name.as_str() {
            name if name.starts_with(peer::RATIO) => "×",
            name if name.ends_with("evicted") => "shares",
            name if name.ends_with("pct") => "%",
            _ => "s",
        };
        figures.add(name.as_str(), unit, samples, bar);
    }
    Ok((runs, figures))
}
