//! Workers that are played: ready at once, done in time, gone when told.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use domain::accelerators::DeviceReport;
use domain::outbox::Topic;
use domain::quotas::Amount;
use domain::workers::{JoinRequest, ObservedState, PlacementReport};
use domain::{Clock, JobId, PlacementId, WorkerId};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use store::listen::Change;
use store::{Store, outbox};
use tests::database::rows;
use tokio::sync::Mutex;

use super::{Planned, Seen};

/// Workers that share the load.
const WORKERS: usize = 32;
/// How often a worker reports when it has nothing to say.
const REPORT_EVERY: Duration = Duration::from_secs(3);

/// Workers with more cores than there is quota, and memory without end.
pub async fn join(store: &Store, nominal: Amount) -> Result<Vec<WorkerId>> {
    // Requests of 20 cores leave a rest on each device.
    let milli = u32::try_from(nominal / i64::try_from(WORKERS)? + 20_000)?;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let request = JoinRequest {
            name: format!("worker-{number}").parse()?,
            pool: "default".parse()?,
            zone: "here".parse()?,
            address: "http://127.0.0.1:1".to_owned(),
            devices: vec![DeviceReport { ordinal: 0, class: "cpu".to_owned(), memory_bytes: 1 << 50, milli }],
        };
        let mut tx = store.system().await?;
        let hash = [u8::try_from(number)?; 32];
        workers.push(store::workers::join(&mut tx, &request, &hash, Clock::system().now()).await?);
        tx.commit().await?;
    }
    Ok(workers)
}

/// A share on its worker.
struct Share {
    placement: PlacementId,
    generation: i64,
}

/// What all workers hold, and when the chunks under way are done.
struct Fleet {
    store: Store,
    su: PgConnection,
    shares: HashMap<WorkerId, HashMap<PlacementId, Share>>,
    timers: BinaryHeap<Reverse<(Instant, JobId)>>,
    done: HashSet<JobId>,
    planned: Arc<Vec<Planned>>,
    seen: Arc<Mutex<Seen>>,
}

pub async fn play(
    store: Store,
    su: PgConnection,
    workers: Vec<WorkerId>,
    planned: Arc<Vec<Planned>>,
    seen: Arc<Mutex<Seen>>,
) -> Result<()> {
    let mut changes = store.changes().await?;
    let shares = workers.iter().map(|worker| (*worker, HashMap::new())).collect();
    let mut fleet =
        Fleet { store, su, shares, timers: BinaryHeap::new(), done: HashSet::new(), planned, seen };
    let mut reported = Instant::now();
    loop {
        let due = fleet.timers.peek().map_or(REPORT_EVERY, |Reverse((at, _))| {
            at.saturating_duration_since(Instant::now()).min(REPORT_EVERY)
        });
        let changed = match tokio::time::timeout(due, changes.next()).await {
            Ok(change) => matches!(change?, Change::Of(Topic::Placements, _) | Change::Anything),
            Err(_) => false,
        };
        // One that was made to leave goes when its chunk is done.
        if fleet.finish().await? || changed {
            fleet.obey().await?;
        }
        if reported.elapsed() > REPORT_EVERY {
            reported = Instant::now();
            for worker in &workers {
                fleet.report(*worker, &[]).await?;
            }
        }
    }
}

impl Fleet {
    /// Commits the chunks whose time has come; whether there were any.
    async fn finish(&mut self) -> Result<bool> {
        let now = Instant::now();
        let mut jobs = Vec::new();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            jobs.extend(self.timers.pop().map(|Reverse((_, job))| job));
        }
        let Some(first) = jobs.first().copied() else { return Ok(false) };
        let list: Vec<String> = jobs.iter().map(|job| format!("'{job}'")).collect();
        let list = list.join(", ");
        for sql in [
            format!("UPDATE job_chunks SET state = 'done' WHERE job_id IN ({list})"),
            format!(
                "UPDATE jobs SET state = 'completed', completed_lines = 1, ended_at = now() WHERE id IN ({list})"
            ),
        ] {
            rows(&mut self.su, &sql).await?;
        }
        let mut tx = self.store.system().await?;
        outbox::publish(&mut tx, Topic::Desired, first, Clock::system().now()).await?;
        tx.commit().await?;
        let mut seen = self.seen.lock().await;
        for job in jobs {
            seen.ended.insert(job, now);
            self.done.insert(job);
        }
        Ok(true)
    }

    /// Takes up what is placed, and lets go of what drains and is done.
    async fn obey(&mut self) -> Result<()> {
        let now = Instant::now();
        let sql = "SELECT p.id, p.worker_id, p.generation, p.state, w.job_id FROM placements p
                   JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
                   WHERE p.state IN ('assigned', 'draining')";
        let mut touched: HashMap<WorkerId, Vec<PlacementId>> = HashMap::new();
        for row in rows(&mut self.su, sql).await? {
            let (placement, worker) = (PlacementId(row.get(0)), WorkerId(row.get(1)));
            let job = JobId(row.get(4));
            if let Entry::Vacant(new) = self.shares.entry(worker).or_default().entry(placement) {
                let mut seen = self.seen.lock().await;
                let (_, index) = seen.created[&job];
                seen.admitted.insert(job, now);
                self.timers.push(Reverse((now + self.planned[index].runtime, job)));
                new.insert(Share { placement, generation: row.get(2) });
                touched.entry(worker).or_default();
            }
            if row.get::<&str, _>(3) == "draining" && self.done.contains(&job) {
                touched.entry(worker).or_default().push(placement);
            }
        }
        for (worker, leaves) in touched {
            self.report(worker, &leaves).await?;
        }
        Ok(())
    }

    async fn report(&mut self, worker: WorkerId, leaves: &[PlacementId]) -> Result<()> {
        let shares = self.shares.entry(worker).or_default();
        let of = |share: &Share| {
            let leaves = leaves.contains(&share.placement);
            PlacementReport {
                placement_id: share.placement,
                generation: share.generation,
                state: if leaves { ObservedState::Ended } else { ObservedState::Ready },
                detail: None,
            }
        };
        let reports: Vec<PlacementReport> = shares.values().map(of).collect();
        shares.retain(|id, _| !leaves.contains(id));
        let mut tx = self.store.system().await?;
        store::workers::report(&mut tx, worker, &reports, Clock::system().now()).await?;
        Ok(tx.commit().await?)
    }
}
