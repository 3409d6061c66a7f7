//! Kueue's performance test in real time, on the whole path: jobs are created
//! by the statements that the API uses, the scheduler's own loop admits and
//! places them with durable commits in PostgreSQL, and workers report as they
//! do. `cargo xtask bench quota` runs it and shows what it prints, a JSON object
//! with each figure.
//!
//! Arguments: GENERATOR.yaml, as in Kueue's `test/performance/scheduler/configs`.
//!
//! A workload is a job of one chunk. The workers are played: a share that was
//! placed is ready at once, its chunk is done after the time that the load says,
//! and a share that is to leave finishes its chunk first, as ours do.

#[path = "../../domain/examples/quota_virtual/generator.rs"]
mod generator;
#[path = "quota_bench/workers.rs"]
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::accelerators::ResourceRequest;
use domain::certificates::SigningKey;
use domain::jobs::ChunkRange;
use domain::keys::Pepper;
use domain::quotas::{Amount, Key, Policies, Quota, Reclaim, WithinTenant};
use domain::{Clock, FileId, JobId, ProjectId, TenantId, VersionId};
use generator::{Cohorts, Queues, Set, parse};
use serde_json::json;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use store::jobs::NewJob;
use store::quotas::NewNode;
use store::{Store, audit};
use tests::database::rows;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Creators at once.
const CREATORS: usize = 4;
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(900);

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
    tenant: TenantId,
    file: FileId,
    nominal: Amount,
}

/// What became of each job.
#[derive(Default)]
struct Seen {
    /// When it was due, and which of the load it is.
    created: HashMap<JobId, (Instant, usize)>,
    /// When its share was last placed.
    admitted: HashMap<JobId, Instant>,
    ended: HashMap<JobId, Instant>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("give GENERATOR.yaml")?;
    let cohorts = parse(&std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?);
    let folder = tempfile::tempdir()?;
    let server = postgres::Server::start(&postgres::Options {
        binaries: postgres::Binaries::find()?,
        data_dir: folder.path().join("postgres"),
        port: 0,
        settings: postgres::Settings::Durable,
    })?;
    let database = "chancery";
    store::migrate::bootstrap(&server.url(postgres::SUPERUSER, "postgres"), database, "owner", "app").await?;
    let url = |role: &str, password: &str| {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", server.port())
    };
    store::migrate::migrate(&url("chancery_owner", "owner")).await?;
    let store = Store::connect(&url("chancery_app", "app"), 12).await?;
    let mut su = PgConnection::connect(&server.url(postgres::SUPERUSER, database)).await?;

    let version = VersionId::generate();
    let (queues, mut planned) = prepare(&store, &mut su, &cohorts, version).await?;
    planned.sort_by_key(|p| p.at);
    let nominal: Amount = queues.iter().map(|q| q.nominal).sum();
    let fleet = workers::join(&store, nominal).await?;
    eprintln!("{} workloads in {} queues of {nominal} milli together", planned.len(), queues.len());

    let stop = CancellationToken::new();
    let deps = scheduler::Deps {
        store: store.clone(),
        objects: store::objects::Objects::local(&folder.path().join("objects"))?,
        clock: Clock::system(),
        signing_key: SigningKey::derive(&Pepper::new([1; 32])),
    };
    let scheduling = tokio::spawn(scheduler::run(scheduler::Settings::default(), deps, stop.clone()));
    let (planned, queues) = (Arc::new(planned), Arc::new(queues));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let playing = tokio::spawn(workers::play(store.clone(), su, fleet, planned.clone(), seen.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;

    let began = Instant::now();
    let creating = (0..CREATORS).map(|nth| {
        let creator = Creator { store: store.clone(), version, began, nth, planned: planned.clone() };
        tokio::spawn(creator.run(queues.clone(), seen.clone()))
    });
    for creator in creating.collect::<Vec<_>>() {
        creator.await??;
    }
    eprintln!("created all after {:.1} s", began.elapsed().as_secs_f64());
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ended = seen.lock().await.ended.len();
        if ended == planned.len() {
            break;
        }
        anyhow::ensure!(began.elapsed() < LIMIT, "{ended} of {} ended in {LIMIT:?}", planned.len());
        if playing.is_finished() {
            playing.await?.context("the workers ended by themselves")?;
            anyhow::bail!("the workers ended");
        }
        anyhow::ensure!(!scheduling.is_finished(), "the scheduler ended by itself");
    }
    println!("{}", figures(&*seen.lock().await, &planned, &queues));
    stop.cancel();
    scheduling.await??;
    playing.abort();
    let differences = store::quotas::differences(&store).await?;
    anyhow::ensure!(differences.is_empty(), "the ledger differs: {differences:?}");
    Ok(())
}

/// Ministries, their quotas and what they are going to ask for.
async fn prepare(
    store: &Store,
    su: &mut PgConnection,
    cohorts: &[Cohorts],
    version: VersionId,
) -> Result<(Vec<Queue>, Vec<Planned>)> {
    let hash = "00".repeat(32);
    for sql in [
        format!("INSERT INTO models VALUES ('{version}', NULL, 'small', now())"),
        format!(
            "INSERT INTO model_versions VALUES ('{version}', '{version}', NULL, decode('{hash}', 'hex'), '{{\"format\":\"gguf\",\"files\":[]}}', now())"
        ),
    ] {
        rows(su, &sql).await?;
    }
    let (mut queues, mut planned) = (Vec::new(), Vec::new());
    let now = Clock::system().now();
    for (cohort, number) in cohorts.iter().flat_map(|c| (0..c.count).map(move |n| (c, n))) {
        let name = format!("cohort-{number}").parse()?;
        let none = BTreeMap::new();
        let new = NewNode { parent: None, weight_milli: 1000, policies: Policies::default(), quotas: &none };
        let mut tx = store.system().await?;
        store::quotas::put_cohort(&mut tx, &name, &new, now).await?;
        let parent = Some(store::quotas::cohort(&mut tx, &name).await?);
        tx.commit().await?;
        for set in
            cohort.queues.iter().flat_map(|q| std::iter::repeat_n(q, usize::try_from(q.count).unwrap_or(0)))
        {
            let (tenant, file) = (TenantId::generate(), FileId::generate());
            for sql in [
                format!("INSERT INTO tenants VALUES ('{tenant}', 'q-{}', 'Queue', now())", queues.len()),
                format!("INSERT INTO projects VALUES ('{tenant}', '{tenant}', 'sandbox', 'Sandbox', now())"),
                format!(
                    "INSERT INTO files VALUES ('{file}', '{tenant}', '{tenant}', 'batch', 'in.jsonl', 100, decode('{hash}', 'hex'), now())"
                ),
            ] {
                rows(su, &sql).await?;
            }
            let (policies, quotas) = quota(set);
            let new = NewNode { parent, weight_milli: 1000, policies, quotas: &quotas };
            let mut tx = store.system().await?;
            store::quotas::put_tenant(&mut tx, tenant, &new, now).await?;
            tx.commit().await?;
            planned.extend(set.sets.iter().flat_map(|kind| of_set(kind, queues.len())));
            queues.push(Queue { tenant, file, nominal: set.nominal * 1000 });
        }
    }
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
}

impl Creator {
    async fn run(self, queues: Arc<Vec<Queue>>, seen: Arc<Mutex<Seen>>) -> Result<()> {
        let clock = Clock::system();
        for (index, one) in self.planned.iter().enumerate().skip(self.nth).step_by(CREATORS) {
            tokio::time::sleep_until((self.began + one.at).into()).await;
            let queue = &queues[one.queue];
            let job = NewJob {
                id: JobId::generate(),
                project_id: ProjectId(queue.tenant.0),
                operation: "/v1/chat/completions".to_owned(),
                model: "small".to_owned(),
                version_id: self.version,
                resources: ResourceRequest { class: "cpu".to_owned(), memory_bytes: 1, milli: one.milli },
                priority: one.priority,
                input_file_id: queue.file,
                metadata: json!({}),
            };
            let chunk = ChunkRange { first_line: 0, lines: 1, first_byte: 0, bytes: 100 };
            let now = clock.now();
            // Counted from when it was due, by the load's own clock.
            seen.lock().await.created.insert(job.id, (self.began + one.at, index));
            let mut tx = self.store.tenant(queue.tenant).await?;
            store::jobs::create(&mut tx, &job, &[chunk], now).await?;
            let object = format!("job:{}", job.id);
            let event = audit::allowed(Some(queue.tenant), now, "bench", "create_job", object);
            audit::record(&mut tx, &event).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

fn figures(seen: &Seen, planned: &[Planned], queues: &[Queue]) -> serde_json::Value {
    let begin = seen.created.values().map(|(at, _)| *at).min().unwrap_or_else(Instant::now);
    let end = seen.ended.values().max().copied().unwrap_or(begin);
    let wall = (end - begin).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "quotas stay far below 2^53")]
    let nominal: f64 = queues.iter().map(|q| q.nominal as f64).sum();
    let (mut work, mut waits): (f64, BTreeMap<&str, (f64, f64)>) = (0.0, BTreeMap::new());
    for (job, (created, index)) in &seen.created {
        let one = &planned[*index];
        work += f64::from(one.milli) * one.runtime.as_secs_f64();
        let sum = waits.entry(&one.class).or_default();
        sum.0 += seen.admitted[job].saturating_duration_since(*created).as_secs_f64();
        sum.1 += 1.0;
    }
    let mut figures = json!({
        "wall_s": wall, "usage_pct": 100.0 * work / (nominal * wall), "floor_s": work / nominal,
    });
    for (class, (sum, count)) in waits {
        figures[format!("mean_admission_s_{class}")] = (sum / count).into();
    }
    figures
}
