//! Workloads and placements: what a plan is made from, and how its decisions
//! become true. Every change states what it expects to find.

mod apply;
mod explain;
mod feed;
mod make;
mod place;
pub mod plans;
mod snapshot;

use std::collections::BTreeSet;

use domain::audit::AuditEvent;
use domain::outbox::Topic;
use domain::workloads::WorkloadOwner;
use domain::{EndpointId, JobId, PlacementId, Timestamp};
use serde_json::json;
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError, SystemTx, Tx, audit, outbox};

pub use apply::apply;
pub use explain::{explain, list};
pub use feed::{Changed, Ids, Moment, changes, changes_and_all, prune};
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

/// Ends placements, each of a generation: their devices and their quota are
/// free, their workloads wait again unless they ended, their leases are given
/// back, and all is recorded. In one statement for each table, so that quotas
/// are locked in one order.
pub(crate) async fn end_placements(
    tx: &mut SystemTx,
    placements: &[(PlacementId, i64)],
    why: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (ids, generations): (Vec<Uuid>, Vec<i64>) =
        placements.iter().map(|(id, generation)| (id.0, *generation)).unzip();
    let ended = query!(
        "UPDATE placements p SET state = 'ended', ended_at = $3, detail = $4
         FROM unnest($1::uuid[], $2::bigint[]) AS d (id, generation)
         WHERE p.id = d.id AND p.generation = d.generation AND p.ended_at IS NULL
         RETURNING p.id, p.generation, p.tenant_id, p.workload_id, p.worker_id",
        &ids,
        &generations,
        OffsetDateTime::from(now),
        why,
    )
    .fetch_all(tx.conn())
    .await?;
    if ended.len() != placements.len() {
        return Err(StoreError::Conflict("a placement has already ended"));
    }
    let workloads: Vec<Uuid> = ended.iter().map(|row| row.workload_id).collect();
    let workers: Vec<Uuid> = ended.iter().map(|row| row.worker_id).collect();
    query!("UPDATE workloads SET state = 'pending' WHERE id = ANY($1) AND state = 'placed'", &workloads)
        .execute(tx.conn())
        .await?;
    query!(
        "UPDATE job_chunks c SET state = 'waiting', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         FROM unnest($1::uuid[], $2::uuid[]) AS d (workload, worker) JOIN workloads w ON w.id = d.workload
         WHERE c.tenant_id = w.tenant_id AND c.job_id = w.job_id
           AND c.lease_worker_id = d.worker AND c.state = 'leased'",
        &workloads,
        &workers,
    )
    .execute(tx.conn())
    .await?;
    let mut events = Vec::with_capacity(ended.len());
    for row in &ended {
        let object = format!("placement:{}", row.id);
        let event = audit::allowed(Some(row.tenant_id.into()), now, actor, "end_placement", object);
        let detail = json!({
            "workload": row.workload_id, "worker": row.worker_id, "generation": row.generation, "why": why,
        });
        events.push(AuditEvent { detail, ..event });
    }
    audit::record_all(tx, &events).await?;
    let workers: Vec<Uuid> = workers.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    outbox::publish_all(tx, Topic::Placements, &workers, now).await
}
