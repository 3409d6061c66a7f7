//! Making and ending workloads and letting go of placements, many at a time:
//! a statement or two for each table, however many. All of them become true or
//! none.

use std::collections::{BTreeSet, HashMap};

use domain::audit::AuditEvent;
use domain::outbox::Topic;
use domain::planner::Decision;
use domain::workloads::WorkloadOwner;
use domain::{Timestamp, WorkloadId};
use serde_json::{Value, json};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use super::apply::actor;
use super::place::all;
use crate::{StoreError, SystemTx, Tx, audit, outbox};

/// New workloads, by column.
#[derive(Default)]
struct New {
    ids: Vec<Uuid>,
    tenants: Vec<Uuid>,
    endpoints: Vec<Option<Uuid>>,
    jobs: Vec<Option<Uuid>>,
    versions: Vec<Uuid>,
    classes: Vec<String>,
    alternatives: Vec<Value>,
    memory: Vec<i64>,
    milli: Vec<i32>,
    priorities: Vec<i32>,
}

/// Makes workloads for owners that want more, and have as many as is thought.
pub(super) async fn create(
    tx: &mut SystemTx,
    epoch: i64,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut endpoints, mut jobs) = (Vec::new(), Vec::new());
    let (mut tenants, mut existing) = (Vec::new(), Vec::new());
    let mut new = New::default();
    for decision in decisions {
        let Decision::CreateWorkloads {
            owner,
            tenant_id,
            version_id,
            resources,
            priority,
            existing: known,
            count,
        } = decision
        else {
            continue;
        };
        let (endpoint, job) = match owner {
            WorkloadOwner::Endpoint(id) => (Some(id.0), None),
            WorkloadOwner::Job(id) => (None, Some(id.0)),
        };
        endpoints.push(endpoint);
        jobs.push(job);
        tenants.push(tenant_id.0);
        existing.push(i64::from(*known));
        for _ in 0..*count {
            new.ids.push(WorkloadId::generate().0);
            new.tenants.push(tenant_id.0);
            new.endpoints.push(endpoint);
            new.jobs.push(job);
            new.versions.push(version_id.0);
            new.classes.push(resources.class.clone());
            new.alternatives.push(json!(resources.alternatives));
            new.memory.push(i64::try_from(resources.memory_bytes).unwrap_or(i64::MAX));
            new.milli.push(i32::try_from(resources.milli).unwrap_or(i32::MAX));
            new.priorities.push(*priority);
        }
    }
    // With the owners locked, the counts below see what anybody else created.
    let wanted = query_scalar!(
        "SELECT e.id FROM unnest($1::uuid[], $2::uuid[]) AS d (tenant, id)
         JOIN endpoints e ON e.tenant_id = d.tenant AND e.id = d.id
         WHERE e.deleted_at IS NULL ORDER BY e.id FOR NO KEY UPDATE OF e",
        &tenants,
        &endpoints as &[Option<Uuid>],
    )
    .fetch_all(tx.conn())
    .await?
    .len();
    let wanted = wanted
        + query_scalar!(
            "SELECT j.id FROM unnest($1::uuid[], $2::uuid[]) AS d (tenant, id)
             JOIN jobs j ON j.tenant_id = d.tenant AND j.id = d.id
             WHERE j.state = 'in_progress' ORDER BY j.id FOR NO KEY UPDATE OF j",
            &tenants,
            &jobs as &[Option<Uuid>],
        )
        .fetch_all(tx.conn())
        .await?
        .len();
    all(wanted, decisions.len(), "nobody wants these workloads any more")?;
    let as_thought = query_scalar!(
        r#"SELECT count(*) AS "count!" FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
               AS d (tenant, endpoint, job, existing)
           WHERE d.existing = (SELECT count(*) FROM workloads w WHERE w.tenant_id = d.tenant AND NOT w.ended
                               AND w.endpoint_id = d.endpoint)
                            + (SELECT count(*) FROM workloads w WHERE w.tenant_id = d.tenant AND NOT w.ended
                               AND w.job_id = d.job)"#,
        &tenants,
        &endpoints as &[Option<Uuid>],
        &jobs as &[Option<Uuid>],
        &existing,
    )
    .fetch_one(tx.conn())
    .await?;
    let as_thought = usize::try_from(as_thought).unwrap_or(0);
    all(as_thought, decisions.len(), "the number of workloads has changed")?;
    query!(
        "INSERT INTO workloads (id, tenant_id, endpoint_id, job_id, version_id, class, memory_bytes, milli, priority,
                                alternatives, state, epoch, queued_at, created_at)
         SELECT n.id, n.tenant, n.endpoint, n.job, n.version, n.class, n.memory, n.milli, n.priority,
                ARRAY(SELECT a.class FROM jsonb_array_elements_text(n.alternatives) WITH ORDINALITY a (class, at)
                      ORDER BY a.at),
                'pending', $10, $11, $11
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bigint[],
                     $8::integer[], $9::integer[], $12::jsonb[])
             AS n (id, tenant, endpoint, job, version, class, memory, milli, priority, alternatives)",
        &new.ids,
        &new.tenants,
        &new.endpoints as &[Option<Uuid>],
        &new.jobs as &[Option<Uuid>],
        &new.versions,
        &new.classes,
        &new.memory,
        &new.milli,
        &new.priorities,
        epoch,
        OffsetDateTime::from(now),
        &new.alternatives,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends workloads that nobody wants any more.
pub(super) async fn end(tx: &mut SystemTx, epoch: i64, decisions: &[Decision]) -> Result<(), StoreError> {
    let (mut workloads, mut generations) = (Vec::new(), Vec::new());
    for decision in decisions {
        if let Decision::EndWorkload { workload, generation } = decision {
            workloads.push(workload.0);
            generations.push(*generation);
        }
    }
    let ended = query!(
        "UPDATE workloads w SET state = 'ended', reason = NULL, level = NULL, promised_at = NULL,
             promised_class = NULL, epoch = $3
         FROM unnest($1::uuid[], $2::bigint[]) AS d (id, generation)
         WHERE w.id = d.id AND w.generation = d.generation AND NOT w.ended",
        &workloads,
        &generations,
        epoch,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    all(usize::try_from(ended).unwrap_or(0), workloads.len(), "a workload has changed")
}

/// Tells workers to finish what they do and let go. A placement that is over
/// already, or on its way out, is where it should be.
pub(super) async fn drain(
    tx: &mut SystemTx,
    epoch: i64,
    decisions: &[Decision],
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut placements, mut generations) = (Vec::new(), Vec::new());
    let mut reasons = HashMap::new();
    for decision in decisions {
        if let Decision::Drain { placement, generation, why } = decision {
            reasons.insert(placement.0, why.as_str());
            placements.push(placement.0);
            generations.push(*generation);
        }
    }
    let drained = query!(
        "UPDATE placements p SET state = 'draining', epoch = $3
         FROM unnest($1::uuid[], $2::bigint[]) AS d (id, generation)
         WHERE p.id = d.id AND p.generation = d.generation AND p.state IN ('assigned', 'ready')
         RETURNING p.id, p.tenant_id, p.workload_id, p.worker_id, p.generation",
        &placements,
        &generations,
        epoch,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut events = Vec::with_capacity(drained.len());
    for row in &drained {
        let object = format!("placement:{}", row.id);
        let tenant = Some(row.tenant_id.into());
        let event = audit::allowed(tenant, now, actor(epoch), "drain_placement", object);
        let detail = json!({
            "workload": row.workload_id, "worker": row.worker_id, "generation": row.generation,
            "why": reasons.get(&row.id),
        });
        events.push(AuditEvent { detail, ..event });
    }
    audit::record_all(tx, &events).await?;
    let workers: BTreeSet<Uuid> = drained.iter().map(|row| row.worker_id).collect();
    let workers: Vec<Uuid> = workers.into_iter().collect();
    outbox::publish_all(tx, Topic::Placements, &workers, now).await
}
