//! Times the key check and the policy decision of `chancery api`, each alone,
//! on one core; prints them as JSON for `cargo xtask bench auth`.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use api::bench::Admission;

/// Credentials, as many as the API remembers.
const CREDENTIALS: u32 = 10_000;
const WARM_UP: usize = 20_000;
const TIMES: usize = 200_000;

fn main() -> Result<()> {
    let admission = Admission::new(CREDENTIALS)?;
    let (mut checks, mut decisions) = (Vec::with_capacity(TIMES), Vec::with_capacity(TIMES));
    // A stride that visits every credential and none twice in a row.
    for n in (0..WARM_UP + TIMES).map(|n| n * 7919) {
        let started = Instant::now();
        let known = black_box(admission.check(black_box(n)));
        let checked = started.elapsed();
        let known = known.context("a credential is not remembered")?;
        let started = Instant::now();
        let allowed = black_box(admission.decide(black_box(&known)))?;
        let decided = started.elapsed();
        ensure!(allowed, "a decision is wrong");
        checks.push(checked.as_secs_f64() * 1e6);
        decisions.push(decided.as_secs_f64() * 1e6);
    }
    let quantile = |times: &[f64], share: f64| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() as f64 * share) as usize]
    };
    // Each credential's first turn comes before any second one.
    let first = &decisions[..CREDENTIALS as usize];
    let (checks, decisions) = (&checks[WARM_UP..], &decisions[WARM_UP..]);
    let figures = serde_json::json!({
        "first_decision_p50_us": quantile(first, 0.5),
        "first_decision_p99_us": quantile(first, 0.99),
        "key_check_p50_us": quantile(checks, 0.5),
        "key_check_p99_us": quantile(checks, 0.99),
        "decision_p50_us": quantile(decisions, 0.5),
        "decision_p99_us": quantile(decisions, 0.99),
    });
    println!("{figures}");
    Ok(())
}
