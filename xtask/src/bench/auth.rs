//! `auth`: what knowing the caller and asking the policies cost, each alone in
//! one process, and together as a share of the shortest request.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::api::{self, Shortest};
use super::{Bar, Figures, Samples};
use crate::process;

const RUNS: u32 = 5;
/// Microseconds of each.
const EACH_BAR: Bar = Bar::AtMost(20.0);
/// Percent of the shortest request.
const SHARE_BAR: Bar = Bar::AtMost(2.0);

/// What `cli/examples/admission.rs` prints.
#[derive(Deserialize)]
struct Admission {
    key_check_p50_us: f64,
    key_check_p99_us: f64,
    decision_p50_us: f64,
    decision_p99_us: f64,
    /// Of facts that were not asked about before.
    first_decision_p50_us: f64,
    first_decision_p99_us: f64,
}

/// `admission` is the example's program.
pub fn run(admission: &Path, runs: Option<u32>, shortest: &Shortest<'_>) -> Result<(u32, Figures)> {
    let runs = runs.unwrap_or(RUNS);
    let requests = api::shortest_request_ms(shortest, runs)?;
    let mut samples: [Samples; 8] = Default::default();
    let [key_p50, key_p99, decision_p50, decision_p99, first_p50, first_p99, request, share] = &mut samples;
    for millis in requests {
        let printed = process::output(&mut Command::new(admission))?;
        let found: Admission = serde_json::from_str(&printed).context("the example prints figures")?;
        key_p50.add(found.key_check_p50_us);
        key_p99.add(found.key_check_p99_us);
        decision_p50.add(found.decision_p50_us);
        decision_p99.add(found.decision_p99_us);
        first_p50.add(found.first_decision_p50_us);
        first_p99.add(found.first_decision_p99_us);
        request.add(millis * 1000.0);
        share.add((found.key_check_p50_us + found.decision_p50_us) / (millis * 1000.0) * 100.0);
    }
    let mut figures = Figures::default();
    figures.add("key_check_p50_us", "µs", key_p50, None);
    figures.add("key_check_p99_us", "µs", key_p99, Some(EACH_BAR));
    figures.add("decision_p50_us", "µs", decision_p50, None);
    figures.add("decision_p99_us", "µs", decision_p99, Some(EACH_BAR));
    figures.add("first_decision_p50_us", "µs", first_p50, None);
    figures.add("first_decision_p99_us", "µs", first_p99, None);
    figures.add("shortest_request_p50_us", "µs", request, None);
    figures.add("share_of_shortest_request", "%", share, Some(SHARE_BAR));
    Ok((runs, figures))
}
