//! How many placements the scheduler commits each second, with a backlog that
//! keeps it busy. `cargo xtask bench scheduler` runs it once for each number of
//! workers and shows what it prints, a JSON object with each figure.
//!
//! Arguments: number of workers, jobs that wait, seconds to measure.
//!
//! The database is fresh and commits are durable. Ministries with quotas, in
//! cohorts, have all jobs waiting before the scheduler begins to lead: each job
//! asks for one whole device. The workers are played: a share is over as soon as
//! it is seen on its worker, many of them in one statement, so that there is
//! always room and the scheduler is what everybody waits for. Counted is what
//! is committed from the moment on that the scheduler was started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::quotas::{Amount, Key, Policies, Quota, Reclaim};
use domain::{JobId, TenantId};
use serde_json::json;
use store::quotas::NewNode;
use tests::bench::fleet::{self, Habits, Watcher, Workers};
use tests::bench::jobs::{self, Request};
use tests::bench::measure::{Ticks, peak_memory_mb, quantile};
use tests::bench::ministries::{Founder, Ministry};
use tests::bench::platform::Platform;
use tests::bench::sql;

const CLASS: &str = "nvidia-h100-80g";
const DEVICES: u32 = 8;
/// Milli-accelerators of a device, and what a job asks for.
const MILLI: u32 = 1000;
const COHORTS: usize = 10;
const MINISTRIES: usize = 100;
/// How long the first placement may take, where that is longer than what is
/// measured.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks whether all is placed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Counts what ends.
#[derive(Clone, Default)]
struct Ended(Arc<AtomicU64>);

impl Watcher for Ended {
    fn placed(&mut self, _: JobId, _: TenantId, _: Instant) -> Duration {
        Duration::ZERO
    }

    fn released(&mut self, _: JobId, _: Instant) {}

    fn ended(&mut self, _: JobId, _: Instant) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

// More threads than cores: while one plans, the others play what elsewhere are
// other machines.
#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [workers, backlog, seconds] = numbers[..] else {
        anyhow::bail!("give the number of workers, of jobs, and of seconds");
    };
    let limit = Duration::from_secs(seconds.into());
    let platform = Platform::start().await?;
    let mut su = platform.superuser().await?;
    let mut founder = Founder::new(&platform, &[CLASS]).await?;
    let ministries = found(&mut founder, workers).await?;
    let request = Request { class: CLASS, milli: MILLI, priority: 0 };
    jobs::create_many(&mut su, &ministries, founder.version, backlog, &request).await?;
    let ended = Ended::default();
    let workers = Workers {
        count: workers.try_into()?,
        devices: DEVICES,
        class: CLASS,
        milli: MILLI,
        habits: Habits { finish_chunks: false, leave_unasked: true },
    };
    let mut playing = fleet::play(&platform, &workers, ended.clone()).await?;
    // As autovacuum does in time.
    sql::execute(&mut su, "ANALYZE", &[]).await?;
    sql::execute(&mut su, "CHECKPOINT", &[]).await?;

    let ticks = Ticks::install()?;
    let began = Instant::now();
    let scheduling = platform.schedule(scheduler::Settings::default())?;
    let (mut count, mut took) = (0, Duration::ZERO);
    while count < u64::from(backlog) && took < if count > 0 { limit } else { limit.max(PATIENCE) } {
        tokio::time::sleep(LOOK_EVERY).await;
        (count, took) = (ended.0.load(Ordering::Relaxed), began.elapsed());
        playing.check().await?;
        scheduling.check()?;
    }
    let placed = sql::number(&mut su, "SELECT count(*) FROM placements").await?;
    let took = began.elapsed().as_secs_f64();
    let all_ended = Instant::now();
    let done = count == u64::from(backlog);
    // What is under way counts too: one tick may have taken all the time.
    while done && ticks.last_ended().is_none_or(|last| last < all_ended) {
        scheduling.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let under_way = (!done).then(|| ticks.last_ended().unwrap_or(began).elapsed().as_secs_f64());
    scheduling.stop().await?;
    let mut ticks: Vec<f64> = ticks.seconds().into_iter().chain(under_way).collect();
    ticks.sort_by(f64::total_cmp);
    ensure!(placed > 0, "nothing was placed in {took:.1} s");
    platform.check_ledger().await?;
    eprintln!("{placed} of {backlog} placed in {took:.1} s and {} ticks", ticks.len());
    let (p50, p99) = (quantile(&ticks, 0.5), quantile(&ticks, 0.99));
    println!(
        "{}",
        json!({
            "committed_per_s": placed as f64 / took, "us_per_decision": took * 1e6 / placed as f64,
            "tick_p50_ms": p50 * 1e3, "tick_p99_ms": p99 * 1e3, "peak_memory_mb": peak_memory_mb()?,
        })
    );
    Ok(())
}

/// Ministries that have all devices as quota and may borrow of each other.
async fn found(founder: &mut Founder, workers: u32) -> Result<Vec<Ministry>> {
    let all = Amount::from(workers) * Amount::from(DEVICES * MILLI);
    let each = Quota { nominal: all / MINISTRIES as Amount, lending_limit: None, borrowing_limit: None };
    let quotas = BTreeMap::from([(Key::milli(CLASS), each)]);
    let policies = Policies { reclaim: Reclaim::Any, ..Policies::default() };
    let mut ministries = Vec::with_capacity(MINISTRIES);
    for cohort in 0..COHORTS {
        let parent = founder.cohort(&format!("cohort-{cohort}"), &BTreeMap::new()).await?;
        for _ in 0..MINISTRIES / COHORTS {
            let node = NewNode { parent: Some(parent), weight_milli: 1000, policies, quotas: &quotas };
            ministries.push(founder.ministry(&node).await?);
        }
    }
    ensure!(ministries.len() == MINISTRIES, "cohorts are of one size");
    ministries.first().context("there are some")?;
    Ok(ministries)
}
