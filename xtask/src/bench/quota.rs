//! `quota`: Kueue's performance test on the whole path, in real time. The loads
//! are Kueue's own generators, given as files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Bar, Figures, Samples};
use crate::process;
use crate::project::Project;

/// Seconds, and percent of nominal quota in use, for the loads that have a bar.
const BARS: [(&str, f64, Option<f64>); 2] = [("baseline", 76.0, Some(85.0)), ("large-scale", 40.0, None)];

pub fn run(
    project: &Project,
    binaries: &postgres::Binaries,
    generator: &Path,
    runs: Option<u32>,
) -> Result<(u32, Figures)> {
    let runs = runs.unwrap_or(1);
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    let example = ["run", "--release", "--locked", "--package", "tests", "--example", "quota_bench", "--"];
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        let mut command = project.cargo();
        command.args(example).arg(generator).env(postgres::BIN_VARIABLE, binaries.dir());
        let printed = process::output(&mut command)?;
        let found: BTreeMap<String, f64> =
            serde_json::from_str(printed.trim()).context("the example prints figures")?;
        for (name, value) in found {
            samples.entry(name).or_default().add(value);
        }
    }
    let shape = generator.file_name().unwrap_or_default().to_string_lossy();
    let bars = BARS.iter().find(|(name, ..)| shape.starts_with(name));
    let mut figures = Figures::default();
    for (name, samples) in &samples {
        let bar = match (name.as_str(), bars) {
            ("wall_s", Some((_, wall, _))) => Some(Bar::AtMost(*wall)),
            ("usage_pct", Some((_, _, usage))) => usage.map(Bar::AtLeast),
            _ => None,
        };
        figures.add(name.as_str(), if name.ends_with("pct") { "%" } else { "s" }, samples, bar);
    }
    Ok((runs, figures))
}
