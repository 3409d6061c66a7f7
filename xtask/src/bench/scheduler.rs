//! `scheduler`: placements that the scheduler commits each second with a backlog
//! that keeps it busy, how long its ticks take, and how that grows with workers.

mod peer;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use postgres::Binaries;

use super::example::{self, Example};
use super::{Bar, Figures, Samples};
use crate::project::Project;

/// Seconds that each number of workers is measured for.
const SECONDS: u32 = 20;
const PER_SECOND_BAR: (u32, Bar) = (1000, Bar::AtLeast(3000.0));
/// The time of a decision with that many workers against that with fewer, which
/// may grow as their logarithms do: log 10000 / log 1000.
const GROWTH: (u32, u32) = (10_000, 1000);
const GROWTH_BAR: Bar = Bar::AtMost(4.0 / 3.0);
/// Nodes of the peer, and times that we place what it binds.
const PEER_NODES: u32 = 1000;
const PEER_BAR: Bar = Bar::AtLeast(10.0);

/// How it is measured.
pub struct Plan<'a> {
    pub workers: &'a [u32],
    /// Jobs that wait when the scheduler begins.
    pub backlog: u32,
    pub seconds: Option<u32>,
    /// Run the scheduler of Kubernetes after each of our runs.
    pub against_kube: bool,
    pub runs: Option<u32>,
}

pub fn run(project: &Project, binaries: &Binaries, plan: &Plan<'_>) -> Result<(u32, Figures)> {
    let (runs, seconds) = (plan.runs.unwrap_or(1), plan.seconds.unwrap_or(SECONDS));
    let example = Example::build(project, binaries, "scheduler_bench")?;
    let mut samples: BTreeMap<(String, u32), Samples> = BTreeMap::new();
    ensure!(
        !plan.against_kube || plan.workers.contains(&PEER_NODES),
        "the peer has {PEER_NODES} nodes: put that many workers among those that are measured"
    );
    let kube = plan.against_kube.then(|| peer::ensure(project)).transpose()?;
    let (mut growth, mut bound, mut ratio) = (None, Samples::default(), Samples::default());
    for run in 1..=runs {
        let (mut decisions, mut ours) = (BTreeMap::new(), 0.0);
        for &workers in plan.workers {
            eprintln!("run {run} of {runs}: {workers} workers");
            let mut command = example.command();
            command.args([workers, plan.backlog, seconds].map(|number| number.to_string()));
            for (name, value) in example::figures(&mut command)? {
                if name == "us_per_decision" {
                    decisions.insert(workers, value);
                }
                if name == "committed_per_s" && workers == PEER_NODES {
                    ours = value;
                }
                samples.entry((name, workers)).or_default().add(value);
            }
        }
        if let Some(programs) = &kube {
            eprintln!("run {run} of {runs}: kube-scheduler");
            let theirs = peer::bound_per_s(programs, PEER_NODES, seconds)?;
            bound.add(theirs);
            ratio.add(ours / theirs);
        }
        if let (Some(many), Some(few)) = (decisions.get(&GROWTH.0), decisions.get(&GROWTH.1)) {
            growth.get_or_insert_with(Samples::default).add(many / few);
        }
    }
    let mut figures = Figures::default();
    for ((name, workers), samples) in &samples {
        let unit = match name.as_str() {
            name if name.ends_with("per_s") => "1/s",
            name if name.ends_with("_mb") => "MB",
            name if name.ends_with("_ms") => "ms",
            _ => "µs",
        };
        let bar = (name == "committed_per_s" && *workers == PER_SECOND_BAR.0).then_some(PER_SECOND_BAR.1);
        figures.add(format!("{name}_at_{workers}"), unit, samples, bar);
    }
    if let Some(growth) = growth {
        let name = format!("us_per_decision_{}_over_{}", GROWTH.0, GROWTH.1);
        figures.add(name, "×", &growth, Some(GROWTH_BAR));
    }
    if kube.is_some() {
        figures.add(format!("kube_bound_per_s_at_{PEER_NODES}"), "1/s", &bound, None);
        figures.add(format!("ratio_per_s_at_{PEER_NODES}"), "×", &ratio, Some(PEER_BAR));
    }
    Ok((runs, figures))
}
