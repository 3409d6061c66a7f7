//! Workloads as people ask about them.

use domain::explanations::{Eviction, Placed, Position, WorkloadExplanation};
use domain::models::Sha256Digest;
use domain::planner::{Considered, Cost, PassedOver};
use domain::workloads::Workload;
use domain::{DeviceId, TenantId, VersionId, WorkloadId};
use sqlx::types::Json;
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{owner, snapshot};
use crate::pages::Ids;
use crate::{StoreError, SystemTx, TenantTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    endpoint_id: Option<Uuid>,
    job_id: Option<Uuid>,
    version_id: Uuid,
    class: String,
    alternatives: Vec<String>,
    memory_bytes: i64,
    milli: i32,
    priority: i32,
    state: String,
    generation: i64,
    reason: Option<String>,
    level: Option<String>,
    plan: Option<String>,
    queued_at: OffsetDateTime,
    promised_at: Option<OffsetDateTime>,
    promised_class: Option<String>,
    created_at: OffsetDateTime,
    failed_workers: Vec<Uuid>,
    failed_times: Vec<OffsetDateTime>,
    project_id: Uuid,
}

impl TryFrom<Row> for Workload {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            tenant_id: TenantId(row.tenant_id),
            owner: owner(row.id, row.endpoint_id, row.job_id)?,
            version_id: VersionId(row.version_id),
            resources: snapshot::resources(
                "workloads",
                row.id,
                (row.class, row.alternatives),
                row.memory_bytes,
                row.milli,
            )?,
            priority: row.priority,
            state: row.state.parse().map_err(|_| StoreError::corrupt("workloads", "state", row.id))?,
            generation: row.generation,
            reason: row.reason,
            queued_at: row.queued_at.into(),
            promised_at: row.promised_at.map(Into::into),
            promised_class: row.promised_class,
            failed_on: snapshot::failures(&row.failed_workers, &row.failed_times),
            created_at: row.created_at.into(),
        })
    }
}

/// Those of projects that the transaction may touch: the owner is read under
/// its policies.
async fn select(
    tx: &mut TenantTx,
    ids: Ids,
    waiting: bool,
    over: bool,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let rows = query_as!(
        Row,
        r#"SELECT w.id, w.tenant_id, w.endpoint_id, w.job_id, w.version_id, w.class, w.alternatives, w.memory_bytes,
                  w.milli, w.priority, w.state, w.generation, w.reason, w.level, w.plan, w.queued_at, w.promised_at,
                  w.promised_class, w.created_at,
                ARRAY(SELECT p.worker_id FROM placements p WHERE p.workload_id = w.id AND p.failures > 0 AND p.state = 'ended'
                      GROUP BY p.worker_id ORDER BY max(p.failed_at) DESC, p.worker_id DESC LIMIT 64) AS "failed_workers!",
                ARRAY(SELECT max(p.failed_at) FROM placements p WHERE p.workload_id = w.id AND p.failures > 0 AND p.state = 'ended'
                      GROUP BY p.worker_id ORDER BY max(p.failed_at) DESC, p.worker_id DESC LIMIT 64) AS "failed_times!",
                  COALESCE(e.project_id, j.project_id) AS "project_id!"
           FROM workloads w
           LEFT JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
           LEFT JOIN jobs j ON j.tenant_id = w.tenant_id AND j.id = w.job_id
           WHERE w.id >= $1 AND w.id <= $2 AND (e.id IS NOT NULL OR j.id IS NOT NULL)
             AND ($3 OR NOT w.ended) AND (NOT $4 OR w.state = 'pending')
           ORDER BY w.id DESC LIMIT $5"#,
        ids.from,
        ids.to,
        over,
        waiting,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows)
}

/// Workloads that are not over, newest first, after (older than) `after`;
/// `waiting` for those that wait only.
pub async fn list(
    tx: &mut TenantTx,
    waiting: bool,
    after: Option<WorkloadId>,
    limit: i64,
) -> Result<Vec<Workload>, StoreError> {
    let rows = select(tx, Ids::before(after.map(|id| id.0)), waiting, false, limit).await?;
    rows.into_iter().map(Workload::try_from).collect()
}

/// Why a workload is where it is, or waits. What its tenant may not read (the
/// worker's name) is read by the system, of this workload alone.
pub async fn explain(
    tx: &mut TenantTx,
    system: &mut SystemTx,
    id: WorkloadId,
) -> Result<WorkloadExplanation, StoreError> {
    let row = select(tx, Ids::only(id.0), false, true, 1).await?.pop();
    let row = row.ok_or(StoreError::NotFound("workload"))?;
    let level = row.level.as_deref().map(str::parse).transpose();
    let level = level.map_err(|_| StoreError::corrupt("workloads", "level", id))?;
    let project_id = row.project_id.into();
    let plan = row.plan.clone();
    let workload = Workload::try_from(row)?;
    let position = query!(
        r#"SELECT count(*) FILTER (WHERE (-o.priority, o.queued_at, o.id) <= (-w.priority, w.queued_at, w.id)) AS "at!",
                  count(*) AS "of!"
           FROM workloads w JOIN workloads o ON o.tenant_id = w.tenant_id AND o.state = 'pending'
           WHERE w.id = $1 AND w.state = 'pending'"#,
        id.0,
    )
    .fetch_one(tx.conn())
    .await?;
    let placed = query!(
        r#"SELECT p.id, p.worker_id, w.name AS worker, p.state, p.created_at, p.failures, p.failed_at, p.detail,
                  COALESCE(p.class, $3) AS "class!", p.passed_over AS "passed_over: Json<Vec<PassedOver>>",
                  p.considered AS "considered: Json<Considered>", p.cost AS "cost: Json<Cost>", p.plan, p.inputs,
                  ARRAY(SELECT d.device_id FROM placement_devices d WHERE d.placement_id = p.id ORDER BY 1) AS "devices!"
           FROM placements p JOIN workers w ON w.id = p.worker_id
           WHERE p.tenant_id = $1 AND p.workload_id = $2 AND p.ended_at IS NULL"#,
        workload.tenant_id.0,
        id.0,
        workload.resources.class,
    )
    .fetch_optional(system.conn())
    .await?;
    let evicted = query!(
        r#"SELECT evicted_for AS "evicted_for!", evicted_by AS "evicted_by!", created_at FROM placements
           WHERE workload_id = $1 AND evicted_for IS NOT NULL ORDER BY generation DESC LIMIT 1"#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    let corrupt = |column| StoreError::corrupt("placements", column, id);
    let explanation = WorkloadExplanation {
        level,
        plan,
        project_id,
        position: (position.of > 0)
            .then(|| Position { at: position.at.unsigned_abs(), of: position.of.unsigned_abs() }),
        placement: match placed {
            None => None,
            Some(row) => Some(Placed {
                id: row.id.into(),
                worker_id: row.worker_id.into(),
                worker: row.worker,
                devices: row.devices.into_iter().map(DeviceId).collect(),
                state: row.state.parse().map_err(|_| corrupt("state"))?,
                since: row.created_at.into(),
                failures: row.failures.unsigned_abs(),
                failed_at: row.failed_at.map(Into::into),
                detail: row.detail,
                class: row.class,
                passed_over: row.passed_over.0,
                considered: row.considered.map_or_else(Considered::default, |Json(considered)| considered),
                cost: row.cost.map(|Json(cost)| cost),
                plan: row.plan,
                inputs: row
                    .inputs
                    .map(|digest| digest.try_into().map(Sha256Digest).map_err(|_| corrupt("inputs")))
                    .transpose()?,
            }),
        },
        evicted: match evicted {
            None => None,
            Some(row) => Some(Eviction {
                preemptor: row.evicted_for.into(),
                rule: row.evicted_by.parse().map_err(|_| corrupt("evicted_by"))?,
                placed_at: row.created_at.into(),
            }),
        },
        workload,
        text: String::new(),
    };
    Ok(explanation.told())
}
