//! `fairness`: what a ministry that submits a hundred times its share costs the
//! others in waiting time, and how evenly is shared what all want.

use std::collections::BTreeMap;

use anyhow::Result;
use postgres::Binaries;

use super::example::{self, Example};
use super::{Bar, Figures, Samples};
use crate::project::Project;

/// Seconds of each of the three runs.
const SECONDS: u32 = 60;
/// Percent that the others wait longer.
const INCREASE_BAR: Bar = Bar::AtMost(10.0);

/// How it is measured.
pub struct Plan {
    pub finish_chunks: bool,
    pub seconds: Option<u32>,
    pub runs: Option<u32>,
}

pub fn run(project: &Project, binaries: &Binaries, plan: &Plan) -> Result<(u32, Figures)> {
    let (runs, seconds) = (plan.runs.unwrap_or(1), plan.seconds.unwrap_or(SECONDS));
    let example = Example::build(project, binaries, "fairness_bench")?;
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        let mut command = example.command();
        command.arg(seconds.to_string()).args(plan.finish_chunks.then_some("--finish-chunks"));
        for (name, value) in example::figures(&mut command)? {
            samples.entry(name).or_default().add(value);
        }
    }
    let mut figures = Figures::default();
    for (name, samples) in &samples {
        let (unit, bar) = match name.as_str() {
            "others_wait_increase_pct" => ("%", Some(INCREASE_BAR)),
            "jain" => ("", None),
            _ => ("s", None),
        };
        figures.add(name.as_str(), unit, samples, bar);
    }
    Ok((runs, figures))
}
