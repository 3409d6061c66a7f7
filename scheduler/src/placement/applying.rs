//! Makes a plan true: its page is kept, then its decisions are applied, many in
//! one transaction, while the next plan is made.

use domain::Timestamp;
use domain::planner::{Decision, Recorded, Snapshot};
use store::leadership::{Term, fence};
use store::workloads::plans::{self, PlanRef};
use store::{Store, StoreError, workloads};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// Decisions applied in one transaction.
const BATCH: usize = 512;

/// A plan that is becoming true. Dropped, it goes no further.
pub(super) struct Applying {
    concerned: workloads::Ids,
    task: JoinHandle<Result<Applied, StoreError>>,
}

/// A plan that became true as far as the world let it.
pub(super) struct Applied {
    pub decisions: Vec<Decision>,
    /// Places of those that did not, in their order: the world had overtaken them.
    pub refused: Vec<usize>,
}

impl Applying {
    /// Begins with a plan of which `page` is the record.
    pub fn begin(
        store: &Store,
        page: Recorded,
        decisions: Vec<Decision>,
        term: Term,
        now: Timestamp,
    ) -> Self {
        let mut concerned = workloads::Ids::default();
        decisions.iter().for_each(|decision| concerned.concerned(decision));
        let store = store.clone();
        let task = tokio::spawn(async move {
            let plan = keep(&store, &page, term, now).await?;
            let mut refused = Vec::new();
            for (n, batch) in decisions.chunks(BATCH).enumerate() {
                let of_batch = apply_batch(&store, plan, batch, now).await?;
                refused.extend(of_batch.into_iter().map(|place| n * BATCH + place));
            }
            Ok(Applied { decisions, refused })
        });
        Self { concerned, task }
    }

    /// What it changes.
    pub fn concerned(&self) -> &workloads::Ids {
        &self.concerned
    }

    /// When it is done.
    pub async fn end(mut self) -> Result<Applied, StoreError> {
        match (&mut self.task).await {
            Ok(applied) => applied,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The program ends, and the tasks before what awaits them.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for Applying {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Applied {
    /// Tells what became true, with names from the facts.
    pub fn tell(&self, facts: &Snapshot) {
        let mut refused = self.refused.iter().peekable();
        for (place, decision) in self.decisions.iter().enumerate() {
            if refused.next_if_eq(&&place).is_none() {
                tell(facts, decision);
            }
        }
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
    plan: PlanRef,
    batch: &[Decision],
    now: Timestamp,
) -> Result<Vec<usize>, StoreError> {
    if apply(store, plan, batch, now).await? {
        return Ok(Vec::new());
    }
    let mut refused = Vec::new();
    for (place, decision) in batch.iter().enumerate() {
        let alone = std::slice::from_ref(decision);
        if batch.len() == 1 || !apply(store, plan, alone, now).await? {
            refused.push(place);
        }
    }
    Ok(refused)
}

/// Applies decisions in one transaction. Returns whether they became true.
async fn apply(
    store: &Store,
    plan: PlanRef,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = store.system().await?;
    match workloads::apply(&mut tx, plan, decisions, now).await {
        Ok(()) => tx.commit().await?,
        Err(
            error @ (StoreError::Conflict(_)
            | StoreError::NoCapacity
            | StoreError::NoQuota
            | StoreError::NoBudget),
        ) => {
            debug!(?decisions, %error, "Refused: {error}");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
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
        Decision::Drain { placement, why, .. } => {
            info!(placement.id = %placement, "Draining placement {placement}: {}", why.as_str());
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
