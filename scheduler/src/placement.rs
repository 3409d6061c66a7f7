//! The placement loop: snapshot, plan, apply, until nothing is left to decide.

use std::sync::Arc;
use std::time::Instant;

use domain::Timestamp;
use domain::planner::{Decision, Snapshot, plan};
use domain::workloads::WorkloadState;
use store::leadership::{Leader, Term};
use store::{Store, StoreError, workloads};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::{Deps, ERROR_PAUSE, Settings};

/// Plans in one tick. Three settle a quiet fleet; more are needed only while
/// others change it, and then the next tick goes on.
const MAX_ROUNDS: u32 = 8;
/// Decisions applied in one transaction.
const BATCH: usize = 256;

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

/// Ticks until the lead is lost. Gives the leader back if its connection may
/// still be closed.
pub(crate) async fn run(
    settings: Settings,
    deps: Deps,
    mut leader: Leader,
    wake: Arc<Notify>,
) -> Option<Leader> {
    let term = leader.term();
    loop {
        if leader.check().await.is_err() {
            return None;
        }
        match tick(&deps.store, &settings, term, deps.clock.now(), Until::Applied).await {
            Ok(_) => {}
            Err(StoreError::NotLeader) => return Some(leader),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Placing failed; trying again");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        let _ = tokio::time::timeout(settings.tick_interval(), wake.notified()).await;
    }
}

/// When a tick ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// When a plan has found nothing to decide.
    Settled,
    /// Already when everything that was decided became true and nothing new was
    /// made: what that changed wakes the loop again.
    Applied,
}

/// Plans and applies until nothing is left to decide.
pub(crate) async fn tick(
    store: &Store,
    settings: &Settings,
    term: Term,
    now: Timestamp,
    until: Until,
) -> Result<Summary, StoreError> {
    let started = Instant::now();
    let mut summary = Summary::default();
    for _ in 0..MAX_ROUNDS {
        let snapshot =
            workloads::snapshot(store, term.since, settings.share_limits(), settings.fair_sharing).await?;
        summary.pending = snapshot.workloads.values().filter(|w| w.state == WorkloadState::Pending).count();
        summary.placements = snapshot.placements.len();
        let decisions = plan(&snapshot, now);
        if decisions.is_empty() {
            summary.settled = true;
            break;
        }
        for batch in decisions.chunks(BATCH) {
            let applied = apply_batch(store, &snapshot, batch, term, now).await?;
            summary.applied += applied;
            summary.refused += batch.len() as u64 - applied;
        }
        let made = decisions.iter().any(|d| matches!(d, Decision::CreateWorkloads { .. }));
        if until == Until::Applied && !made && summary.refused == 0 {
            break;
        }
    }
    publish(&summary, started);
    Ok(summary)
}

/// Applies decisions together, or where one is refused each by itself, so that
/// it takes no other with it. Returns how many became true.
async fn apply_batch(
    store: &Store,
    snapshot: &Snapshot,
    batch: &[Decision],
    term: Term,
    now: Timestamp,
) -> Result<u64, StoreError> {
    if apply(store, snapshot, batch, term, now).await? {
        return Ok(batch.len() as u64);
    }
    let mut applied = 0;
    if batch.len() > 1 {
        for decision in batch {
            applied += u64::from(apply(store, snapshot, std::slice::from_ref(decision), term, now).await?);
        }
    }
    Ok(applied)
}

/// Applies decisions in one transaction. Returns whether they became true.
async fn apply(
    store: &Store,
    snapshot: &Snapshot,
    decisions: &[Decision],
    term: Term,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = store.system().await?;
    match workloads::apply(&mut tx, term.epoch, decisions, now).await {
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

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn publish(summary: &Summary, started: Instant) {
    metrics::gauge!("chancery_scheduler_pending_workloads").set(summary.pending as f64);
    metrics::gauge!("chancery_scheduler_placements").set(summary.placements as f64);
    metrics::counter!("chancery_scheduler_decisions_total", "result" => "applied").increment(summary.applied);
    metrics::counter!("chancery_scheduler_decisions_total", "result" => "refused").increment(summary.refused);
    metrics::histogram!("chancery_scheduler_tick_seconds").record(started.elapsed().as_secs_f64());
}
