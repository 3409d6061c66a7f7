//! Workloads and placements: what a plan is made from, and how its decisions
//! become true. Every change states what it expects to find.

mod apply;
mod explain;
mod feed;
mod make;
mod place;
mod snapshot;

use domain::outbox::Topic;
use domain::workloads::WorkloadOwner;
use domain::{EndpointId, JobId, PlacementId, Timestamp, WorkerId};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError, SystemTx, Tx, audit, outbox};

pub use apply::apply;
pub use explain::{explain, list};
pub use feed::{Ids, Moment, changes, changes_and_all, prune};
pub use snapshot::snapshot;

/// A reading transaction in which every statement sees the same moment.
pub(crate) async fn repeatable_read(store: &Store) -> Result<SystemTx, StoreError> {
    let mut tx = store.system().await?;
    query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(tx.conn()).await?;
    Ok(tx)
}

pub(crate) fn owner(
    id: Uuid,
    endpoint: Option<Uuid>,
    job: Option<Uuid>,
) -> Result<WorkloadOwner, StoreError> {
    match (endpoint, job) {
        (Some(endpoint), None) => Ok(WorkloadOwner::Endpoint(EndpointId(endpoint))),
        (None, Some(job)) => Ok(WorkloadOwner::Job(JobId(job))),
        _ => Err(StoreError::corrupt("workloads", "endpoint_id", id)),
    }
}

/// Ends a placement: its devices are free, its workload waits again unless it
/// ended, its leases are given back, and all is recorded.
pub(crate) async fn end_placement(
    tx: &mut SystemTx,
    placement: PlacementId,
    generation: i64,
    why: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let ended = query!(
        "UPDATE placements SET state = 'ended', ended_at = $3, detail = $4
         WHERE id = $1 AND generation = $2 AND state <> 'ended'
         RETURNING tenant_id, workload_id, worker_id",
        placement.0,
        generation,
        OffsetDateTime::from(now),
        why,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::Conflict("the placement has already ended"))?;
    query!(
        "UPDATE workloads SET state = 'pending' WHERE tenant_id = $1 AND id = $2 AND state = 'placed'",
        ended.tenant_id,
        ended.workload_id,
    )
    .execute(tx.conn())
    .await?;
    query!(
        "UPDATE job_chunks c SET state = 'waiting', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         FROM workloads w
         WHERE w.tenant_id = $1 AND w.id = $2 AND c.tenant_id = w.tenant_id AND c.job_id = w.job_id
           AND c.lease_worker_id = $3 AND c.state = 'leased'",
        ended.tenant_id,
        ended.workload_id,
        ended.worker_id,
    )
    .execute(tx.conn())
    .await?;
    let mut event = audit::allowed(
        Some(ended.tenant_id.into()),
        now,
        actor,
        "end_placement",
        format!("placement:{placement}"),
    );
    event.detail = serde_json::json!({
        "workload": ended.workload_id, "worker": ended.worker_id, "generation": generation, "why": why,
    });
    audit::record(tx, &event).await?;
    outbox::publish(tx, Topic::Placements, WorkerId(ended.worker_id), now).await
}
