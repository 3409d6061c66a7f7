//! Makes decisions true, or refuses because the world has moved on.

use std::mem::discriminant;

use domain::outbox::Topic;
use domain::planner::{Decision, EndReason};
use domain::quotas::Rule;
use domain::{PlacementId, Timestamp, WorkerId, WorkloadId};
use serde_json::json;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::plans::PlanRef;
use super::{end_placements, make, place};
use crate::leadership::fence;
use crate::{StoreError, SystemTx, Tx, audit, outbox};

/// Applies decisions of a plan, in their order: all or none.
///
/// [`StoreError::NotLeader`] when another leads, [`StoreError::Conflict`] when
/// what a decision expects is not so any more, [`StoreError::NoCapacity`] or
/// [`StoreError::NoQuota`] when a device or a quota has no room: plan again.
pub async fn apply(
    tx: &mut SystemTx,
    plan: PlanRef,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<(), StoreError> {
    let epoch = plan.id.epoch;
    fence(tx, epoch).await?;
    for run in decisions.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
        match run[0] {
            Decision::CreateWorkloads { .. } => make::create(tx, epoch, run, now).await?,
            Decision::EndWorkload { .. } => make::end(tx, epoch, run).await?,
            Decision::Drain { .. } => make::drain(tx, epoch, run, now).await?,
            Decision::Place { .. } => place::place(tx, plan, run, now).await?,
            Decision::Wait { .. } => place::wait(tx, plan, run, now).await?,
            Decision::DeclareLost { .. } | Decision::EndPlacement { .. } | Decision::Evict { .. } => {
                for decision in run {
                    apply_one(tx, plan, decision, now).await?;
                }
            }
        }
    }
    Ok(())
}

async fn apply_one(
    tx: &mut SystemTx,
    plan: PlanRef,
    decision: &Decision,
    now: Timestamp,
) -> Result<(), StoreError> {
    let epoch = plan.id.epoch;
    match decision {
        Decision::DeclareLost { worker, seen_at } => declare_lost(tx, epoch, *worker, *seen_at, now).await,
        Decision::EndPlacement { placement, generation, worker, why } => {
            end(tx, epoch, *placement, *generation, *worker, *why, now).await
        }
        Decision::Evict { placement, generation, preemptor, rule } => {
            evict(tx, plan, *placement, *generation, *preemptor, *rule, now).await
        }
        // The others are applied many at a time.
        _ => Ok(()),
    }
}

pub(super) fn actor(epoch: i64) -> String {
    format!("scheduler:{epoch}")
}

/// `Ok` if exactly one row changed.
fn one(rows: u64, expected: &'static str) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::Conflict(expected)) }
}

async fn declare_lost(
    tx: &mut SystemTx,
    epoch: i64,
    worker: WorkerId,
    seen_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let lost = query!(
        "UPDATE workers SET live = false WHERE id = $1 AND live AND seen_at = $2",
        worker.0,
        OffsetDateTime::from(seen_at),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    one(lost, "the worker has reported")?;
    let mut event = audit::allowed(None, now, actor(epoch), "lose_worker", format!("worker:{worker}"));
    event.detail = json!({ "seen_at": seen_at });
    audit::record(tx, &event).await?;
    outbox::publish(tx, Topic::Placements, worker, now).await
}

async fn end(
    tx: &mut SystemTx,
    epoch: i64,
    placement: PlacementId,
    generation: i64,
    worker: WorkerId,
    why: EndReason,
    now: Timestamp,
) -> Result<(), StoreError> {
    let why = match why {
        EndReason::WorkerLost => {
            let lost = query_scalar!("SELECT id FROM workers WHERE id = $1 AND NOT live FOR SHARE", worker.0)
                .fetch_optional(tx.conn())
                .await?;
            one(lost.iter().len() as u64, "the worker is back")?;
            "its worker was lost"
        }
    };
    let epoch_written =
        query!("UPDATE placements SET epoch = $2 WHERE id = $1 AND ended_at IS NULL", placement.0, epoch)
            .execute(tx.conn())
            .await?
            .rows_affected();
    one(epoch_written, "the placement has already ended")?;
    end_placements(tx, &[(placement, generation)], why, &actor(epoch), now).await
}

/// A placement that is to let go.
struct Draining {
    epoch: i64,
    placement: PlacementId,
    generation: i64,
    tenant: Uuid,
    workload: Uuid,
    worker: WorkerId,
}

impl Draining {
    async fn record(
        &self,
        tx: &mut SystemTx,
        action: &str,
        why: serde_json::Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let object = format!("placement:{}", self.placement);
        let mut event = audit::allowed(Some(self.tenant.into()), now, actor(self.epoch), action, object);
        event.detail = json!({
            "workload": self.workload, "worker": self.worker, "generation": self.generation,
        });
        if let (Some(detail), serde_json::Value::Object(why)) = (event.detail.as_object_mut(), why) {
            detail.extend(why);
        }
        audit::record(tx, &event).await?;
        outbox::publish(tx, Topic::Placements, self.worker, now).await
    }
}

async fn drain(
    tx: &mut SystemTx,
    epoch: i64,
    placement: PlacementId,
    generation: i64,
) -> Result<Draining, StoreError> {
    let drained = query!(
        "UPDATE placements SET state = 'draining', epoch = $3
         WHERE id = $1 AND generation = $2 AND state IN ('assigned', 'ready')
         RETURNING tenant_id, workload_id, worker_id",
        placement.0,
        generation,
        epoch,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::Conflict("the placement is not live"))?;
    Ok(Draining {
        epoch,
        placement,
        generation,
        tenant: drained.tenant_id,
        workload: drained.workload_id,
        worker: WorkerId(drained.worker_id),
    })
}

/// Drains a placement for a workload that still waits; its own waits anew.
async fn evict(
    tx: &mut SystemTx,
    plan: PlanRef,
    placement: PlacementId,
    generation: i64,
    preemptor: WorkloadId,
    rule: Rule,
    now: Timestamp,
) -> Result<(), StoreError> {
    let waits = query_scalar!("SELECT id FROM workloads WHERE id = $1 AND NOT ended FOR SHARE", preemptor.0)
        .fetch_optional(tx.conn())
        .await?;
    one(waits.iter().len() as u64, "nobody needs the room any more")?;
    let draining = drain(tx, plan.id.epoch, placement, generation).await?;
    query!(
        "UPDATE placements SET evicted_for = $2, evicted_by = $3 WHERE id = $1",
        placement.0,
        preemptor.0,
        rule.as_str(),
    )
    .execute(tx.conn())
    .await?;
    query!(
        "UPDATE workloads SET queued_at = $3 WHERE tenant_id = $1 AND id = $2",
        draining.tenant,
        draining.workload,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    let why = json!({ "for": preemptor, "rule": rule.as_str(), "plan": plan.id, "inputs": plan.inputs });
    draining.record(tx, "evict_placement", why, now).await
}
