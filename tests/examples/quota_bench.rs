//! Kueue's performance test in real time, on the whole path: jobs are created
//! by the statements that the API uses, and the scheduler's own loop admits and
//! places them with durable commits in PostgreSQL. `cargo xtask bench quota`
//! runs it and shows what it prints, a JSON object with each figure.
//!
//! Arguments: GENERATOR.yaml, as in Kueue's `test/performance/scheduler/configs`,
//! and `--finish-chunks`.
//!
//! A workload is a job of one chunk. The workers are played: a share that was
//! placed is ready at once, and its chunk is done after the time that the load
//! says. An evicted share stops at once and its work is started anew when it is
//! placed again, as a workload in Kueue's runner. Our own workers let it finish
//! its chunk first, which loses no work but keeps the room longer: so it is with
//! `--finish-chunks`, and then the figures are not to be compared with Kueue's.
//!
//! Other differences from Kueue's runner, all to our disadvantage: workloads need
//! devices of a worker besides quota; what is done keeps its quota until the
//! scheduler has told its worker to let go and the worker has; commits reach the
//! disk, where the runner's etcd does not wait for it; and a wait begins when the
//! workload was due, not when it was created. To our advantage: creation and
//! workers write less than Kubernetes objects, and have no limit of requests.

#[path = "../../domain/examples/quota_virtual/generator.rs"]
mod generator;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::quotas::{Amount, Key, Policies, Quota, Reclaim, WithinTenant};
use domain::{JobId, TenantId, VersionId};
use generator::{Cohorts, Queues, Set, parse};
use serde_json::json;
use store::Store;
use store::quotas::NewNode;
use tests::bench::fleet::{self, Habits, Watcher, Workers};
use tests::bench::jobs::{self, Request};
use tests::bench::ministries::{Founder, Ministry};
use tests::bench::platform::Platform;

/// Creators at once.
const CREATORS: usize = 4;
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Nominal quota for each worker: some shares each, as workers have.
const MILLI_PER_WORKER: Amount = 40_000;
/// More cores of a worker than there is quota: a request that is large leaves a
/// rest on each of them.
const SPARE_MILLI: Amount = 20_000;

/// One workload of the load.
struct Planned {
    at: Duration,
    queue: usize,
    class: String,
    runtime: Duration,
    priority: i32,
    milli: u32,
}

struct Queue {
    ministry: Ministry,
    nominal: Amount,
}

/// What became of each job.
struct Seen {
    planned: Arc<Vec<Planned>>,
    /// When it was due, and which of the load it is.
    created: HashMap<JobId, (Instant, usize)>,
    /// When its share was last placed.
    admitted: HashMap<JobId, Instant>,
    ended: HashMap<JobId, Instant>,
    /// Milli-accelerators times seconds that shares held, also those evicted.
    held: f64,
    evicted: u64,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn with<T>(&self, does: impl FnOnce(&mut Seen) -> T) -> T {
        does(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watcher for Shared {
    fn placed(&mut self, job: JobId, _: TenantId, at: Instant) -> Duration {
        self.with(|seen| {
            seen.admitted.insert(job, at);
            seen.planned[seen.created[&job].1].runtime
        })
    }

    fn released(&mut self, job: JobId, at: Instant) {
        self.with(|seen| {
            let held = at.saturating_duration_since(seen.admitted[&job]).as_secs_f64();
            seen.held += held * f64::from(seen.planned[seen.created[&job].1].milli);
            seen.evicted += u64::from(!seen.ended.contains_key(&job));
        });
    }

    fn ended(&mut self, job: JobId, at: Instant) {
        self.with(|seen| seen.ended.insert(job, at));
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, files): (Vec<_>, Vec<_>) = arguments.iter().partition(|text| text.starts_with("--"));
    ensure!(options.iter().all(|text| *text == "--finish-chunks"), "there is no option {options:?}");
    let path = files.first().context("give GENERATOR.yaml")?;
    let cohorts = parse(&std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?);

    let platform = Platform::start().await?;
    let mut founder = Founder::new(&platform, &[]).await?;
    let (queues, planned) = prepare(&mut founder, &cohorts).await?;
    let nominal: Amount = queues.iter().map(|q| q.nominal).sum();
    eprintln!("{} workloads in {} queues of {nominal} milli together", planned.len(), queues.len());
    let count = nominal / MILLI_PER_WORKER + 1;
    let workers = Workers {
        count: count.try_into()?,
        devices: 1,
        class: "cpu",
        milli: (nominal / count + SPARE_MILLI).try_into()?,
        habits: Habits { finish_chunks: !options.is_empty(), leave_unasked: false },
    };
    let (planned, queues) = (Arc::new(planned), Arc::new(queues));
    let seen = Shared(Arc::new(Mutex::new(Seen {
        planned: planned.clone(),
        created: HashMap::new(),
        admitted: HashMap::new(),
        ended: HashMap::new(),
        held: 0.0,
        evicted: 0,
    })));
    let mut playing = fleet::play(&platform, &workers, seen.clone()).await?;
    let scheduling = platform.schedule(scheduler::Settings::default())?;
    platform.led().await?;

    let began = Instant::now();
    let creating = (0..CREATORS).map(|nth| {
        let creator = Creator {
            store: platform.store.clone(),
            version: founder.version,
            began,
            nth,
            planned: planned.clone(),
            queues: queues.clone(),
            seen: seen.clone(),
        };
        tokio::spawn(creator.run())
    });
    for creator in creating.collect::<Vec<_>>() {
        creator.await??;
    }
    eprintln!("created all after {:.1} s", began.elapsed().as_secs_f64());
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ended = seen.with(|seen| seen.ended.len());
        if ended == planned.len() {
            break;
        }
        ensure!(began.elapsed() < LIMIT, "{ended} of {} ended in {LIMIT:?}", planned.len());
        playing.check().await?;
        scheduling.check()?;
    }
    println!("{}", seen.with(|seen| figures(seen, nominal)));
    scheduling.stop().await?;
    platform.check_ledger().await
}

/// Ministries, their quotas and what they are going to ask for, by time.
async fn prepare(founder: &mut Founder, cohorts: &[Cohorts]) -> Result<(Vec<Queue>, Vec<Planned>)> {
    let (mut queues, mut planned) = (Vec::new(), Vec::new());
    for (cohort, number) in cohorts.iter().flat_map(|c| (0..c.count).map(move |n| (c, n))) {
        let parent = Some(founder.cohort(&format!("cohort-{number}"), &BTreeMap::new()).await?);
        for set in
            cohort.queues.iter().flat_map(|q| std::iter::repeat_n(q, usize::try_from(q.count).unwrap_or(0)))
        {
            let (policies, quotas) = quota(set);
            let node = NewNode { parent, weight_milli: 1000, policies, quotas: &quotas };
            let ministry = founder.ministry(&node).await?;
            planned.extend(set.sets.iter().flat_map(|kind| of_set(kind, queues.len())));
            queues.push(Queue { ministry, nominal: set.nominal * 1000 });
        }
    }
    planned.sort_by_key(|p| p.at);
    Ok((queues, planned))
}

fn quota(set: &Queues) -> (Policies, BTreeMap<Key, Quota>) {
    let policies = Policies {
        reclaim: if set.reclaim == "Any" { Reclaim::Any } else { Reclaim::Never },
        within: if set.within == "LowerPriority" { WithinTenant::LowerPriority } else { WithinTenant::Never },
        ..Policies::default()
    };
    let quota = Quota {
        nominal: set.nominal * 1000,
        lending_limit: None,
        borrowing_limit: Some(set.borrowing * 1000),
    };
    (policies, BTreeMap::from([(Key::milli("cpu"), quota)]))
}

fn of_set(kind: &Set, queue: usize) -> Vec<Planned> {
    let one = |nth: u64| Planned {
        at: Duration::from_millis(nth * kind.interval_ms),
        queue,
        class: kind.class.clone(),
        runtime: Duration::from_millis(kind.runtime_ms),
        priority: kind.priority,
        milli: u32::try_from(kind.request * 1000).unwrap_or(u32::MAX),
    };
    (1..=kind.count).map(one).collect()
}

/// Creates every [`CREATORS`]th workload when its time has come.
struct Creator {
    store: Store,
    version: VersionId,
    began: Instant,
    nth: usize,
    planned: Arc<Vec<Planned>>,
    queues: Arc<Vec<Queue>>,
    seen: Shared,
}

impl Creator {
    async fn run(self) -> Result<()> {
        for (index, one) in self.planned.iter().enumerate().skip(self.nth).step_by(CREATORS) {
            tokio::time::sleep_until((self.began + one.at).into()).await;
            let job = JobId::generate();
            // Counted from when it was due, by the load's own clock.
            self.seen.with(|seen| seen.created.insert(job, (self.began + one.at, index)));
            let request = Request { class: "cpu", milli: one.milli, priority: one.priority };
            let ministry = self.queues[one.queue].ministry;
            jobs::create(&self.store, ministry, self.version, job, &request).await?;
        }
        Ok(())
    }
}

/// As Kueue's runner counts them: quota is in use while it is held, also by what
/// is evicted later. `work_pct` counts only what was not for nothing.
fn figures(seen: &Seen, nominal: Amount) -> serde_json::Value {
    let begin = seen.created.values().map(|(at, _)| *at).min().unwrap_or_else(Instant::now);
    let end = seen.ended.values().max().copied().unwrap_or(begin);
    let (wall, nominal) = ((end - begin).as_secs_f64(), nominal as f64);
    let (mut work, mut held) = (0.0, seen.held);
    let mut waits: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (job, (created, index)) in &seen.created {
        let one = &seen.planned[*index];
        work += f64::from(one.milli) * one.runtime.as_secs_f64();
        let sum = waits.entry(&one.class).or_default();
        sum.0 += seen.admitted[job].saturating_duration_since(*created).as_secs_f64();
        sum.1 += 1.0;
    }
    // The last are not told to leave before this is counted.
    held = held.max(work);
    let mut figures = json!({
        "wall_s": wall, "usage_pct": 100.0 * held / (nominal * wall), "work_pct": 100.0 * work / (nominal * wall),
        "floor_s": work / nominal, "evicted": seen.evicted,
    });
    for (class, (sum, count)) in waits {
        figures[format!("mean_admission_s_{class}")] = (sum / count).into();
    }
    figures
}
