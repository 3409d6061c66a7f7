//! Placing and waiting, many at a time: one statement for each table, however
//! many workloads. All of them become true or none.

use std::collections::{BTreeSet, HashMap};

use domain::audit::AuditEvent;
use domain::outbox::Topic;
use domain::planner::Decision;
use domain::quotas::Level;
use domain::{PlacementId, Timestamp};
use serde_json::json;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::apply::actor;
use super::plans::PlanRef;
use crate::{StoreError, SystemTx, Tx, audit, outbox};

pub(super) fn all(found: usize, expected: usize, otherwise: &'static str) -> Result<(), StoreError> {
    if found == expected { Ok(()) } else { Err(StoreError::Conflict(otherwise)) }
}

/// What placements hold, by column.
#[derive(Default)]
struct Holds {
    tenants: Vec<Uuid>,
    placements: Vec<Uuid>,
    workers: Vec<Uuid>,
    devices: Vec<Uuid>,
    memory: Vec<i64>,
    milli: Vec<i32>,
}

/// Puts workloads on devices. The database refuses what does not fit.
pub(super) async fn place(
    tx: &mut SystemTx,
    plan: PlanRef,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<(), StoreError> {
    let epoch = plan.id.epoch;
    let (mut workloads, mut generations, mut workers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut choices, mut costs) = (Vec::new(), Vec::new());
    let (mut classes, mut passed) = (Vec::new(), Vec::new());
    for decision in decisions {
        if let Decision::Place {
            workload, generation, worker, class, passed_over, considered, cost, ..
        } = decision
        {
            classes.push(class.clone());
            passed.push(json!(passed_over));
            workloads.push(workload.0);
            generations.push(*generation);
            workers.push(worker.0);
            choices.push(json!(considered));
            costs.push(json!(cost));
        }
    }
    let taken = query!(
        "UPDATE workloads w SET state = 'placed', generation = w.generation + 1, reason = NULL, level = NULL,
             promised_at = NULL, promised_class = NULL, epoch = $3
         FROM unnest($1::uuid[], $2::bigint[]) AS d (id, generation)
         WHERE w.id = d.id AND w.generation = d.generation AND w.state = 'pending'
         RETURNING w.id, w.tenant_id",
        &workloads,
        &generations,
        epoch,
    )
    .fetch_all(tx.conn())
    .await?;
    all(taken.len(), workloads.len(), "a workload is not pending")?;
    let owners: HashMap<Uuid, Uuid> = taken.iter().map(|row| (row.id, row.tenant_id)).collect();
    let tenants: Vec<Uuid> = workloads.iter().filter_map(|id| owners.get(id).copied()).collect();

    // The locks keep workers and tenants as they are until this is committed.
    let distinct: Vec<Uuid> = workers.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let open = query_scalar!(
        "SELECT id FROM workers WHERE id = ANY($1) AND live AND NOT cordoned ORDER BY id FOR SHARE",
        &distinct
    )
    .fetch_all(tx.conn())
    .await?;
    all(open.len(), distinct.len(), "a worker takes nothing new")?;
    let owners: Vec<Uuid> = tenants.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    query_scalar!("SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id FOR SHARE", &owners)
        .fetch_all(tx.conn())
        .await?;
    // What they are is read now that it stays so.
    let welcome = query_scalar!(
        "SELECT t.id FROM unnest($1::uuid[], $2::uuid[]) AS d (tenant, worker)
         JOIN tenants t ON t.id = d.tenant JOIN workers w ON w.id = d.worker
         WHERE t.status = 'active' AND (t.zones = '{}' OR w.zone = ANY(t.zones))
           AND array_position('{public,internal,confidential,secret}', w.clearance)
               >= array_position('{public,internal,confidential,secret}', t.classification)
           AND CASE WHEN EXISTS (SELECT FROM pool_tenants m WHERE m.tenant_id = t.id)
               THEN EXISTS (SELECT FROM pool_tenants m WHERE m.tenant_id = t.id AND m.pool = w.pool)
               ELSE NOT EXISTS (SELECT FROM pools p WHERE p.name = w.pool) END",
        &tenants,
        &workers,
    )
    .fetch_all(tx.conn())
    .await?;
    all(welcome.len(), workers.len(), "the tenant may begin nothing there")?;

    let placements: Vec<Uuid> = workloads.iter().map(|_| PlacementId::generate().0).collect();
    query!(
        "INSERT INTO placements
             (id, tenant_id, workload_id, generation, worker_id, state, epoch, created_at, considered, cost, plan, inputs,
              class, passed_over)
         SELECT d.id, d.tenant, d.workload, d.generation + 1, d.worker, 'assigned', $8, $9, d.considered, d.cost, $10, $11,
                d.class, d.passed_over
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::uuid[], $6::jsonb[], $7::jsonb[], $12::text[],
                     $13::jsonb[])
             AS d (id, tenant, workload, generation, worker, considered, cost, class, passed_over)",
        &placements,
        &tenants,
        &workloads,
        &generations,
        &workers,
        &choices,
        &costs,
        epoch,
        OffsetDateTime::from(now),
        plan.id.to_string(),
        &plan.inputs.0[..],
        &classes,
        &passed,
    )
    .execute(tx.conn())
    .await?;
    let mut holds = Holds::default();
    let mut events = Vec::with_capacity(decisions.len());
    for (decision, (&placement, &tenant)) in decisions.iter().zip(placements.iter().zip(&tenants)) {
        let Decision::Place {
            workload,
            generation,
            worker,
            class,
            passed_over,
            holds: held,
            considered,
            cost,
        } = decision
        else {
            continue;
        };
        for hold in held {
            holds.tenants.push(tenant);
            holds.placements.push(placement);
            holds.workers.push(worker.0);
            holds.devices.push(hold.device_id.0);
            holds.memory.push(i64::try_from(hold.memory_bytes).unwrap_or(i64::MAX));
            holds.milli.push(i32::try_from(hold.milli).unwrap_or(i32::MAX));
        }
        let object = format!("placement:{placement}");
        let event = audit::allowed(Some(tenant.into()), now, actor(epoch), "place_workload", object);
        let mut detail = json!({
            "workload": workload, "worker": worker, "generation": generation + 1, "class": class,
            "holds": held, "considered": considered, "cost": cost, "plan": plan.id, "inputs": plan.inputs,
        });
        if !passed_over.is_empty() {
            detail["passed_over"] = json!(passed_over);
        }
        events.push(AuditEvent { detail, ..event });
    }
    hold(tx, &holds).await?;
    audit::record_all(tx, &events).await?;
    outbox::publish_all(tx, Topic::Placements, &distinct, now).await
}

async fn hold(tx: &mut SystemTx, holds: &Holds) -> Result<(), StoreError> {
    query!(
        "INSERT INTO placement_devices (tenant_id, placement_id, worker_id, device_id, memory_bytes, milli)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::integer[])",
        &holds.tenants,
        &holds.placements,
        &holds.workers,
        &holds.devices,
        &holds.memory,
        &holds.milli,
    )
    .execute(tx.conn())
    .await
    .map_err(|e| match &e {
        // The worker joined again without the device.
        sqlx::Error::Database(d) if d.is_foreign_key_violation() => StoreError::Conflict("a device is gone"),
        _ => e.into(),
    })?;
    Ok(())
}

/// Says why workloads wait.
pub(super) async fn wait(
    tx: &mut SystemTx,
    plan: PlanRef,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut workloads, mut generations) = (Vec::new(), Vec::new());
    let (mut levels, mut reasons, mut promises) = (Vec::new(), Vec::new(), Vec::new());
    for decision in decisions {
        if let Decision::Wait { workload, generation, level, reason, promised } = decision {
            workloads.push(workload.0);
            generations.push(*generation);
            levels.push(level.map(Level::as_str));
            reasons.push(&**reason);
            promises.push(promised.as_deref());
        }
    }
    let told = query!(
        "UPDATE workloads w SET reason = d.reason, level = d.level, epoch = $6, plan = $8,
             promised_at = CASE WHEN d.promised IS NOT NULL THEN COALESCE(w.promised_at, $7) END,
             promised_class = d.promised
         FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[])
             AS d (id, generation, level, reason, promised)
         WHERE w.id = d.id AND w.generation = d.generation AND w.state = 'pending'",
        &workloads,
        &generations,
        &levels as &[Option<&str>],
        &reasons as &[&str],
        &promises as &[Option<&str>],
        plan.id.epoch,
        OffsetDateTime::from(now),
        plan.id.to_string(),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    all(usize::try_from(told).unwrap_or(usize::MAX), workloads.len(), "a workload is not pending")
}
