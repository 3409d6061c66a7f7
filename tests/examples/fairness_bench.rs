//! What a ministry that submits a hundred times its share costs the others, and
//! how evenly is shared what all want. `cargo xtask bench fairness` runs it and
//! shows what it prints, a JSON object with each figure.
//!
//! Arguments: seconds of each run, and `--finish-chunks` (see `quota_bench`).
//!
//! Ten ministries submit at nine tenths of the rate that their nominal quota
//! carries, at random times, and never borrow: they wait for their own work.
//! The same again, at the same times, with an eleventh of the same quota that
//! submits a hundred times its share, and borrows what is idle. Then all eleven,
//! of unequal weights, have more to do than there is room for, and half of the
//! room is lent by their cohort.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::quotas::{Amount, Key, Policies, Quota, Reclaim};
use domain::{JobId, TenantId, VersionId};
use serde_json::json;
use store::Store;
use store::quotas::NewNode;
use tests::bench::fleet::{self, Habits, Playing, Watcher, Workers};
use tests::bench::jobs::{self, Request};
use tests::bench::measure::quantile;
use tests::bench::ministries::{Founder, Ministry};
use tests::bench::platform::{Platform, Scheduling};
use tests::bench::random::Random;

const CLASS: &str = "nvidia-h100-80g";
const MILLI: u32 = 1000;
const REQUEST: Request<'static> = Request { class: CLASS, milli: MILLI, priority: 0 };
/// Those that keep to their share.
const OTHERS: usize = 10;
/// Devices of each ministry.
const NOMINAL: u32 = 10;
/// How long a job runs on average, from half to one and a half times.
const RUNTIME: Duration = Duration::from_secs(2);
/// Share of their nominal quota that the others submit work for.
const LOAD: f64 = 0.9;
/// Times its share that the eleventh submits.
const FLOOD: u32 = 100;
/// Jobs of each of the others, and of the eleventh, where all have too many.
const BACKLOG: (u32, u32) = (500, 5000);
/// Of ministries that all have too much to do, in turn.
const WEIGHTS: [u32; 2] = [1, 2];
/// Before what is shared is measured, and before anything is submitted.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the others' work is waited for after the last was submitted. What
/// is not placed then counts as if it were.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What became of jobs and ministries.
struct Seen {
    random: Random,
    /// Jobs of the others that wait, since when, and how long they will run.
    waiting: HashMap<JobId, (Instant, Duration)>,
    waits: Vec<f64>,
    running: HashMap<JobId, (TenantId, Instant)>,
    /// Device seconds since `since`.
    used: HashMap<TenantId, f64>,
    since: Instant,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn with<T>(&self, does: impl FnOnce(&mut Seen) -> T) -> T {
        does(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seen {
    fn uses(&mut self, tenant: TenantId, from: Instant, to: Instant) {
        let used = to.saturating_duration_since(from.max(self.since));
        *self.used.entry(tenant).or_default() += used.as_secs_f64();
    }
}

impl Watcher for Shared {
    fn placed(&mut self, job: JobId, tenant: TenantId, at: Instant) -> Duration {
        self.with(|seen| {
            seen.running.insert(job, (tenant, at));
            let Some((since, runtime)) = seen.waiting.remove(&job) else { return seen.random.about(RUNTIME) };
            seen.waits.push(at.saturating_duration_since(since).as_secs_f64());
            runtime
        })
    }

    fn released(&mut self, job: JobId, at: Instant) {
        self.with(|seen| {
            if let Some((tenant, from)) = seen.running.remove(&job) {
                seen.uses(tenant, from, at);
            }
        });
    }

    fn ended(&mut self, _: JobId, _: Instant) {}
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let finish_chunks = arguments.iter().any(|text| text == "--finish-chunks");
    arguments.retain(|text| text != "--finish-chunks");
    let seconds: u64 = arguments.first().context("give seconds")?.parse().context("give seconds")?;
    let (length, habits) = (Duration::from_secs(seconds), Habits { finish_chunks, leave_unasked: false });
    let alone = waits(length, habits, 0).await?;
    let crowded = waits(length, habits, FLOOD).await?;
    let jain = shared(length, habits).await?;
    let mean = |waits: &[f64]| waits.iter().sum::<f64>() / waits.len() as f64;
    println!(
        "{}",
        json!({
            "others_wait_s": mean(&alone), "others_wait_p99_s": quantile(&alone, 0.99),
            "others_crowded_wait_s": mean(&crowded), "others_crowded_wait_p99_s": quantile(&crowded, 0.99),
            "others_wait_increase_pct": 100.0 * (mean(&crowded) / mean(&alone) - 1.0), "jain": jain,
        })
    );
    Ok(())
}

/// A platform with ministries, their scheduler and their workers.
struct Stage {
    platform: Platform,
    scheduling: Scheduling,
    playing: Playing,
    seen: Shared,
    version: VersionId,
    ministries: Vec<Ministry>,
}

impl Stage {
    /// `node` says the weight and quota of each ministry, the eleventh last.
    async fn set(
        habits: Habits,
        fair_sharing: bool,
        cohort: u32,
        node: impl Fn(usize) -> (u32, Quota),
    ) -> Result<Self> {
        let platform = Platform::start().await?;
        let mut founder = Founder::new(&platform, &[CLASS]).await?;
        let own = BTreeMap::from([(Key::milli(CLASS), quota(cohort, None))]);
        let parent = Some(founder.cohort("country", &own).await?);
        let policies = Policies { reclaim: Reclaim::Any, ..Policies::default() };
        let mut ministries = Vec::new();
        for nth in 0..=OTHERS {
            let (weight, quota) = node(nth);
            let quotas = BTreeMap::from([(Key::milli(CLASS), quota)]);
            let node = NewNode { parent, weight_milli: weight * 1000, policies, quotas: &quotas };
            ministries.push(founder.ministry(&node).await?);
        }
        // Exactly as many devices as there is quota.
        let count = OTHERS + 1;
        let workers = Workers { count, devices: NOMINAL, class: CLASS, milli: MILLI, habits };
        let seen = Shared(Arc::new(Mutex::new(Seen {
            random: Random(7),
            waiting: HashMap::new(),
            waits: Vec::new(),
            running: HashMap::new(),
            used: HashMap::new(),
            since: Instant::now(),
        })));
        let playing = fleet::play(&platform, &workers, seen.clone()).await?;
        let settings = scheduler::Settings { fair_sharing, ..scheduler::Settings::default() };
        let scheduling = platform.schedule(settings)?;
        tokio::time::sleep(SETTLE).await;
        Ok(Self { platform, scheduling, playing, seen, version: founder.version, ministries })
    }

    async fn end(self) -> Result<()> {
        self.scheduling.stop().await?;
        self.platform.check_ledger().await
    }
}

fn quota(devices: u32, borrowing: Option<Amount>) -> Quota {
    let nominal = Amount::from(devices * MILLI);
    Quota { nominal, lending_limit: None, borrowing_limit: borrowing }
}

/// Seconds that each job of the others waited, the shortest first, where the
/// eleventh submits `flood` times its share.
async fn waits(length: Duration, habits: Habits, flood: u32) -> Result<Vec<f64>> {
    let own = |nth| (1, quota(NOMINAL, if nth < OTHERS { Some(0) } else { None }));
    let mut stage = Stage::set(habits, false, 0, own).await?;
    let began = Instant::now();
    let mut submitting = Vec::new();
    for (nth, ministry) in stage.ministries[..OTHERS].iter().enumerate() {
        let submitter = Submitter {
            store: stage.platform.store.clone(),
            version: stage.version,
            ministry: *ministry,
            random: Random(42 + nth as u64),
            seen: stage.seen.clone(),
        };
        submitting.push(tokio::spawn(submitter.run(began, length)));
    }
    let mut su = stage.platform.superuser().await?;
    let eleventh = &stage.ministries[OTHERS..];
    let each_second = flood * NOMINAL / u32::try_from(RUNTIME.as_secs())?;
    let mut due = began;
    while each_second > 0 && due < began + length {
        tokio::time::sleep_until(due.into()).await;
        jobs::create_many(&mut su, eleventh, stage.version, each_second, &REQUEST).await?;
        due += Duration::from_secs(1);
    }
    for submitter in submitting {
        submitter.await??;
    }
    while stage.seen.with(|seen| !seen.waiting.is_empty()) && began.elapsed() < length + LIMIT {
        stage.playing.check().await?;
        stage.scheduling.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut waits = stage.seen.with(|seen| {
        if !seen.waiting.is_empty() {
            eprintln!("{} jobs of the others still wait: the figures are too low", seen.waiting.len());
        }
        let left = seen.waiting.drain().map(|(_, (since, _))| since.elapsed().as_secs_f64());
        seen.waits.extend(left);
        std::mem::take(&mut seen.waits)
    });
    stage.end().await?;
    ensure!(!waits.is_empty(), "nothing was submitted in {length:?}");
    waits.sort_by(f64::total_cmp);
    Ok(waits)
}

/// Submits the work of a ministry that keeps to its share.
struct Submitter {
    store: Store,
    version: VersionId,
    ministry: Ministry,
    random: Random,
    seen: Shared,
}

impl Submitter {
    async fn run(mut self, began: Instant, length: Duration) -> Result<()> {
        let every = RUNTIME.div_f64(f64::from(NOMINAL) * LOAD);
        let mut due = began + self.random.until_next(every);
        while due < began + length {
            tokio::time::sleep_until(due.into()).await;
            let job = JobId::generate();
            let runtime = self.random.about(RUNTIME);
            self.seen.with(|seen| seen.waiting.insert(job, (due, runtime)));
            jobs::create(&self.store, self.ministry, self.version, job, &REQUEST).await?;
            due += self.random.until_next(every);
        }
        Ok(())
    }
}

/// Jain's index of what ministries use, by their weights: 1 where all have the
/// same, 1/n where one has everything (Jain, Chiu, Hawe 1984).
async fn shared(length: Duration, habits: Habits) -> Result<f64> {
    let weight = |nth: usize| WEIGHTS[nth % WEIGHTS.len()];
    let weights: u32 = (0..=OTHERS).map(weight).sum();
    let all = NOMINAL * u32::try_from(OTHERS + 1)?;
    // Half of the devices belong to ministries, by their weights.
    let unit = all / 2 / weights;
    let own = |nth| (weight(nth), quota(weight(nth) * unit, None));
    let mut stage = Stage::set(habits, true, all - weights * unit, own).await?;
    let mut su = stage.platform.superuser().await?;
    let (others, eleventh) = stage.ministries.split_at(OTHERS);
    for (of, count) in [(eleventh, BACKLOG.1), (others, BACKLOG.0 * u32::try_from(OTHERS)?)] {
        jobs::create_many(&mut su, of, stage.version, count, &REQUEST).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let since = Instant::now();
    stage.seen.with(|seen| {
        seen.used.clear();
        seen.since = since;
    });
    tokio::time::sleep(length).await;
    stage.playing.check().await?;
    stage.scheduling.check()?;
    let used = stage.seen.with(|seen| {
        let now = Instant::now();
        for (tenant, from) in seen.running.values().copied().collect::<Vec<_>>() {
            seen.uses(tenant, from, now);
        }
        std::mem::take(&mut seen.used)
    });
    let of = |(nth, ministry): (usize, &Ministry)| {
        used.get(&ministry.tenant).copied().unwrap_or(0.0) / f64::from(weight(nth))
    };
    let shares: Vec<f64> = stage.ministries.iter().enumerate().map(of).collect();
    eprintln!("device seconds by weight: {shares:.1?}");
    stage.end().await?;
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|x| x * x).sum::<f64>());
    ensure!(squares > 0.0, "nothing ran");
    Ok(sum * sum / (shares.len() as f64 * squares))
}
