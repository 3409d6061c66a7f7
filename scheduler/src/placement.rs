//! The placement loop: read what changed, plan, apply, until nothing is left to
//! decide.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Timestamp;
use domain::planner::{Decision, Recorded, Recorder, Snapshot};
use domain::workloads::WorkloadState;
use store::leadership::{Term, fence};
use store::workloads::plans::{self, PlanRef};
use store::{Store, StoreError, workloads};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use crate::{Deps, ERROR_PAUSE, Settings};

/// Plans in one tick. Three settle a quiet fleet; more are needed only while
/// others change it, and then the next tick goes on.
const MAX_ROUNDS: u32 = 8;
/// Decisions applied in one transaction.
const BATCH: usize = 512;
/// Workloads that one plan admits, and as many reasons that it tells; the rest is
/// for the next, so that what changes meanwhile waits for neither.
const MOST: u32 = 1024;
/// Time between two times of forgetting what was read of changes.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks whether what is known is so.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// After so much of a record, in bytes, or time, the planner begins anew, so that
/// making a plan again does not take long.
const RECORD_BYTES: usize = 256 << 20;
const RECORD_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Time between two countings of everything for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What a tick did and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Decisions that became true.
    pub applied: u64,
    /// Decisions that the world had overtaken.
    pub refused: u64,
    /// Workloads that wait.
    pub pending: usize,
    /// Placements that have not ended.
    pub placements: usize,
    /// Whether nothing was left to decide.
    pub settled: bool,
}

/// Ticks until the lead is lost.
pub(crate) async fn run(settings: Settings, deps: Deps, term: Term, wake: Arc<Notify>) {
    let mut board = None;
    loop {
        let mut done = true;
        match turn(&mut board, &settings, &deps, term).await {
            Ok(settled) => done = settled,
            Err(StoreError::NotLeader) => return,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Placing failed; reading all anew");
                board = None;
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        if done {
            let _ = tokio::time::timeout(settings.tick_interval(), wake.notified()).await;
        }
    }
}

/// One tick of a board, which is made if there is none; whether to wait for
/// what comes next.
async fn turn(
    board: &mut Option<Board>,
    settings: &Settings,
    deps: &Deps,
    term: Term,
) -> Result<bool, StoreError> {
    let now = deps.clock.now();
    let board = match board {
        Some(board) => board,
        None => board.insert(Board::read(&deps.store, settings, term).await?),
    };
    board.tick(&deps.store, settings, term, now, Until::Applied).await?;
    board.look_after(&deps.store, settings, term).await?;
    Ok(board.recorder.planner().is_settled())
}

/// When a tick ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// When a plan has found nothing to decide.
    Settled,
    /// Already when everything that was decided became true and nothing new was
    /// made: what that changed wakes the loop again.
    Applied,
}

/// A planner that is kept up with the database, and recorded.
pub struct Board {
    recorder: Recorder,
    /// What it knows is of this moment.
    moment: workloads::Moment,
    /// What it is to be told anew, changed or not.
    doubted: workloads::Ids,
    pruned: Instant,
    checked: Instant,
    began: Instant,
    counted: Instant,
}

impl Board {
    /// Reads everything.
    pub async fn read(store: &Store, settings: &Settings, term: Term) -> Result<Self, StoreError> {
        let (snapshot, moment) =
            workloads::snapshot(store, term.since, settings.share_limits(), settings.fair_sharing).await?;
        let (doubted, now) = (workloads::Ids::default(), Instant::now());
        let first = plans::next(&mut store.system().await?, term.epoch).await?;
        let recorder = Recorder::new(first, env!("CARGO_PKG_VERSION"), snapshot);
        Ok(Self { recorder, moment, doubted, pruned: now, checked: now, began: now, counted: now })
    }

    /// Reads what changed.
    async fn catch_up(
        &mut self,
        store: &Store,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut also = std::mem::take(&mut self.doubted);
        self.recorder.planner().silent(now).into_iter().for_each(|worker| also.worker(worker));
        let (changes, moment) =
            workloads::changes(store, &self.moment, also, settings.share_limits()).await?;
        changes.into_iter().for_each(|change| self.recorder.tell(change));
        self.moment = moment;
        Ok(())
    }

    /// Plans and applies until nothing is left to decide.
    pub async fn settle(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
    ) -> Result<Summary, StoreError> {
        self.tick(store, settings, term, now, Until::Settled).await
    }

    /// What it takes for true.
    pub fn facts(&self) -> &Snapshot {
        self.recorder.planner().facts()
    }

    async fn tick(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
        until: Until,
    ) -> Result<Summary, StoreError> {
        let started = Instant::now();
        let mut summary = Summary::default();
        for _ in 0..MAX_ROUNDS {
            self.catch_up(store, settings, now).await?;
            let (decisions, page) = self.recorder.plan(now, MOST);
            let decisions = decisions.to_vec();
            let plan = match page {
                Some(page) => Some(keep(store, &page, term, now).await?),
                None => None,
            };
            let Some(plan) = plan.filter(|_| !decisions.is_empty()) else {
                if self.recorder.planner().is_settled() {
                    summary.settled = true;
                    break;
                }
                continue;
            };
            let before = summary.refused;
            for (n, batch) in decisions.chunks(BATCH).enumerate() {
                let refused = apply_batch(store, self.recorder.planner().facts(), plan, batch, now).await?;
                summary.applied += (batch.len() - refused.len()) as u64;
                summary.refused += refused.len() as u64;
                for place in refused {
                    self.recorder.refused(n * BATCH + place);
                    self.doubted.concerned(&batch[place]);
                }
            }
            let made = decisions.iter().any(|d| matches!(d, Decision::CreateWorkloads { .. }));
            if until == Until::Applied && !made && summary.refused == before {
                break;
            }
        }
        metrics::counter!("chancery_scheduler_decisions_total", "result" => "applied")
            .increment(summary.applied);
        metrics::counter!("chancery_scheduler_decisions_total", "result" => "refused")
            .increment(summary.refused);
        metrics::histogram!("chancery_scheduler_tick_seconds").record(started.elapsed().as_secs_f64());
        if until == Until::Settled || self.counted.elapsed() >= COUNT_EVERY {
            self.counted = Instant::now();
            self.count(&mut summary);
        }
        Ok(summary)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn count(&self, summary: &mut Summary) {
        let facts = self.recorder.planner().facts();
        summary.pending = facts.workloads.values().filter(|w| w.state == WorkloadState::Pending).count();
        summary.placements = facts.placements.len();
        metrics::gauge!("chancery_scheduler_pending_workloads").set(summary.pending as f64);
        metrics::gauge!("chancery_scheduler_placements").set(summary.placements as f64);
    }

    /// From time to time, forgets what was read, and looks whether what is known
    /// is what the database says. A difference is a defect: all is known anew.
    async fn look_after(&mut self, store: &Store, settings: &Settings, term: Term) -> Result<(), StoreError> {
        if self.pruned.elapsed() >= PRUNE_EVERY {
            self.pruned = Instant::now();
            let mut tx = store.system().await?;
            fence(&mut tx, term.epoch).await?;
            workloads::prune(&mut tx, &self.moment).await?;
            tx.commit().await?;
        }
        if self.checked.elapsed() < CHECK_EVERY {
            return Ok(());
        }
        self.checked = Instant::now();
        let doubted = std::mem::take(&mut self.doubted);
        let (changes, snapshot, moment) = workloads::changes_and_all(
            store,
            &self.moment,
            doubted,
            term.since,
            settings.share_limits(),
            settings.fair_sharing,
        )
        .await?;
        changes.into_iter().for_each(|change| self.recorder.tell(change));
        self.moment = moment;
        let same = self.recorder.planner().facts().agrees(&snapshot);
        metrics::gauge!("chancery_scheduler_board_differs").set(if same { 0.0 } else { 1.0 });
        if !same {
            error!("What the scheduler knew was not what the database says: it knows all anew; report this");
        }
        if !same || self.began.elapsed() >= RECORD_EVERY || self.recorder.written() >= RECORD_BYTES {
            self.began = Instant::now();
            self.recorder.begin_anew(snapshot);
        }
        Ok(())
    }
}

/// Keeps what a plan was made from, before anything of it is carried out.
async fn keep(store: &Store, page: &Recorded, term: Term, now: Timestamp) -> Result<PlanRef, StoreError> {
    let mut tx = store.system().await?;
    fence(&mut tx, term.epoch).await?;
    plans::keep(&mut tx, page, now).await?;
    tx.commit().await?;
    Ok(page.into())
}

/// Applies decisions together, or where one is refused each by itself, so that
/// it takes no other with it. Returns the places of those that did not become
/// true.
async fn apply_batch(
    store: &Store,
    facts: &Snapshot,
    plan: PlanRef,
    batch: &[Decision],
    now: Timestamp,
) -> Result<Vec<usize>, StoreError> {
    if apply(store, facts, plan, batch, now).await? {
        return Ok(Vec::new());
    }
    let mut refused = Vec::new();
    for (place, decision) in batch.iter().enumerate() {
        let alone = std::slice::from_ref(decision);
        if batch.len() == 1 || !apply(store, facts, plan, alone, now).await? {
            refused.push(place);
        }
    }
    Ok(refused)
}

/// Applies decisions in one transaction. Returns whether they became true.
async fn apply(
    store: &Store,
    snapshot: &Snapshot,
    plan: PlanRef,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = store.system().await?;
    match workloads::apply(&mut tx, plan, decisions, now).await {
        Ok(()) => tx.commit().await?,
        Err(error @ (StoreError::Conflict(_) | StoreError::NoCapacity | StoreError::NoQuota)) => {
            debug!(?decisions, %error, "Refused: {error}");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    decisions.iter().for_each(|decision| tell(snapshot, decision));
    Ok(true)
}

/// One line for each decision that an operator would ask about.
fn tell(snapshot: &Snapshot, decision: &Decision) {
    let name = |id| snapshot.workers.get(id).map_or("a worker", |w| w.name.as_str());
    match decision {
        Decision::DeclareLost { worker, seen_at } => {
            warn!(worker.id = %worker, "Worker {} is lost: last heard {seen_at}", name(worker));
        }
        Decision::EndPlacement { placement, worker, .. } => {
            info!(placement.id = %placement, "Ended placement {placement} on {}", name(worker));
        }
        Decision::CreateWorkloads { owner, count, .. } => info!("Created {count} workloads for {owner:?}"),
        Decision::EndWorkload { workload, .. } => {
            info!(workload.id = %workload, "Ended workload {workload}");
        }
        Decision::Drain { placement, .. } => {
            info!(placement.id = %placement, "Draining placement {placement}");
        }
        Decision::Evict { placement, preemptor, rule, .. } => {
            info!(placement.id = %placement, "Evicting placement {placement} for workload {preemptor}: {}", rule.as_str());
        }
        Decision::Place { workload, worker, .. } => {
            info!(workload.id = %workload, worker.id = %worker, "Placed workload {workload} on {}", name(worker));
        }
        Decision::Wait { workload, reason, .. } => {
            info!(workload.id = %workload, "Workload {workload} waits: {reason}");
        }
    }
}
