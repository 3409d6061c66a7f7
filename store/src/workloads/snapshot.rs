//! Intent and fleet at one moment, as the planner takes them: all, or what is
//! named.

use std::collections::{BTreeMap, BTreeSet};

use domain::accelerators::ResourceRequest;
use domain::planner::{Closed, Hold, Intent, LivePlacement, ShareLimits, Snapshot, TenantBounds, shares};
use domain::quotas::NodeSpec;
use domain::workloads::{Failure, Workload, WorkloadOwner};
use domain::{EndpointId, JobId, PlacementId, ProjectId, TenantId, Timestamp, VersionId, WorkerId};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use super::feed::{Ids, Moment};
use super::{owner, repeatable_read};
use crate::workers::{self, Selection};
use crate::{Store, StoreError, SystemTx, Tx, budgets, quotas};

/// Everything that is planned from, all of the same moment, and that moment. What
/// budgets have spent is that of the period of `now`.
pub async fn snapshot(
    store: &Store,
    leading_since: Timestamp,
    limits: ShareLimits,
    fair_sharing: bool,
    now: Timestamp,
) -> Result<(Snapshot, Moment), StoreError> {
    let mut tx = repeatable_read(store).await?;
    let moment = Moment::of(&mut tx).await?;
    let snapshot = read(&mut tx, leading_since, limits, fair_sharing, now).await?;
    tx.commit().await?;
    Ok((snapshot, moment))
}

pub(super) async fn read(
    tx: &mut SystemTx,
    leading_since: Timestamp,
    limits: ShareLimits,
    fair_sharing: bool,
    now: Timestamp,
) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::empty(leading_since);
    snapshot.fair_sharing = fair_sharing;
    let all = Ids::all(tx).await?;
    let list = |ids: &BTreeSet<Uuid>| ids.iter().copied().collect::<Vec<_>>();
    for worker in workers::read(tx, Selection::default()).await? {
        snapshot.workers.insert(worker.id, worker);
    }
    snapshot.tenants = tenants(tx, &list(&all.tenants)).await?;
    snapshot.quotas = quota_nodes(tx).await?;
    snapshot.budgets = budgets::of_time(tx, None, now).await?;
    snapshot.intents = endpoints(tx, &list(&all.endpoints)).await?;
    snapshot.intents.append(&mut jobs(tx, &list(&all.jobs), limits).await?);
    for workload in workloads(tx, &list(&all.workloads)).await? {
        snapshot.workloads.insert(workload.id, workload);
    }
    snapshot.placements = placements(tx, &list(&all.placements)).await?;
    Ok(snapshot)
}

/// The quota tree, as the planner takes it.
pub(super) async fn quota_nodes(tx: &mut SystemTx) -> Result<Vec<NodeSpec>, StoreError> {
    Ok(quotas::nodes(tx).await?.into_iter().map(|node| node.spec).collect())
}

/// Those of these tenants whose work is bound by something.
pub(super) async fn tenants(
    tx: &mut SystemTx,
    ids: &[Uuid],
) -> Result<BTreeMap<TenantId, TenantBounds>, StoreError> {
    let rows = query!(
        r#"SELECT id, status, zones, classification, pools AS "pools!" FROM tenants
           CROSS JOIN LATERAL (SELECT ARRAY(SELECT pool FROM pool_tenants m WHERE m.tenant_id = tenants.id ORDER BY pool)) p (pools)
         WHERE id = ANY($1) AND (status IN ('suspended', 'deleting')
             OR (status = 'active' AND (zones <> '{}' OR pools <> '{}' OR classification <> 'internal')))"#,
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    let bounds = rows.into_iter().map(|row| {
        let corrupt = |_| StoreError::corrupt("tenants", "classification", row.id);
        let classification = row.classification.parse().map_err(corrupt)?;
        let closed = match row.status.as_str() {
            "suspended" => Some(Closed::Suspended),
            "deleting" => Some(Closed::Deleting),
            _ => None,
        };
        Ok((TenantId(row.id), TenantBounds { closed, zones: row.zones, pools: row.pools, classification }))
    });
    bounds.collect()
}

type Intents = BTreeMap<WorkloadOwner, Intent>;

/// Owners are found by a join: their identifiers have an index by hash, which
/// `= ANY` does not use where there is another to walk through.
pub(super) async fn endpoints(tx: &mut SystemTx, ids: &[Uuid]) -> Result<Intents, StoreError> {
    let rows = query!(
        "SELECT e.id, e.tenant_id, e.project_id, e.priority, e.version_id, e.class, e.alternatives, e.memory_bytes, e.milli,
             e.replicas, e.min_replicas
         FROM unnest($1::uuid[]) AS wanted (id) JOIN endpoints e ON e.id = wanted.id
         WHERE e.deleted_at IS NULL AND e.replicas > 0",
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let count = row.replicas.try_into();
            let intent = Intent {
                tenant_id: TenantId(row.tenant_id),
                project_id: ProjectId(row.project_id),
                priority: row.priority,
                version_id: VersionId(row.version_id),
                resources: resources(
                    "endpoints",
                    row.id,
                    (row.class, row.alternatives),
                    row.memory_bytes,
                    row.milli,
                )?,
                count: count.map_err(|_| StoreError::corrupt("endpoints", "replicas", row.id))?,
                floor: row.min_replicas.and_then(|least| least.try_into().ok()).unwrap_or(1).max(1),
            };
            Ok((WorkloadOwner::Endpoint(EndpointId(row.id)), intent))
        })
        .collect()
}

/// Those of these jobs that have lines left to run, and tokens for them.
pub(super) async fn jobs(
    tx: &mut SystemTx,
    ids: &[Uuid],
    limits: ShareLimits,
) -> Result<Intents, StoreError> {
    let most_chunks = i64::from(limits.max_shares) * i64::from(limits.chunks_per_share);
    let rows = query!(
        r#"SELECT j.id, j.tenant_id, j.project_id, j.priority, j.version_id, j.class, j.alternatives, j.memory_bytes, j.milli,
                  (SELECT count(*) FROM (SELECT FROM job_chunks c
                                         WHERE c.job_id = j.id AND c.state <> 'done' LIMIT $2) open) AS "open_chunks!"
           FROM unnest($1::uuid[]) AS wanted (id) JOIN jobs j ON j.id = wanted.id
           WHERE j.ended_at IS NULL AND j.state = 'in_progress' AND j.waits_for IS NULL"#,
        ids,
        most_chunks.max(1),
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let intent = Intent {
                tenant_id: TenantId(row.tenant_id),
                project_id: ProjectId(row.project_id),
                priority: row.priority,
                version_id: VersionId(row.version_id),
                resources: resources(
                    "jobs",
                    row.id,
                    (row.class, row.alternatives),
                    row.memory_bytes,
                    row.milli,
                )?,
                count: shares(row.open_chunks.unsigned_abs(), limits),
                floor: 1,
            };
            Ok((WorkloadOwner::Job(JobId(row.id)), intent))
        })
        .collect()
}

pub(super) async fn workloads(tx: &mut SystemTx, ids: &[Uuid]) -> Result<Vec<Workload>, StoreError> {
    let rows = query!(
        r#"SELECT id, tenant_id, endpoint_id, job_id, version_id, class, alternatives, memory_bytes, milli, priority, state,
                generation, reason, queued_at, promised_at, promised_class, created_at,
                ARRAY(SELECT p.worker_id FROM placements p WHERE p.workload_id = w.id AND p.failures > 0 AND p.state = 'ended'
                      GROUP BY p.worker_id ORDER BY max(p.failed_at) DESC, p.worker_id DESC LIMIT 64) AS "failed_workers!",
                ARRAY(SELECT max(p.failed_at) FROM placements p WHERE p.workload_id = w.id AND p.failures > 0 AND p.state = 'ended'
                      GROUP BY p.worker_id ORDER BY max(p.failed_at) DESC, p.worker_id DESC LIMIT 64) AS "failed_times!"
           FROM workloads w WHERE id = ANY($1) AND NOT ended"#,
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Workload {
                id: row.id.into(),
                tenant_id: row.tenant_id.into(),
                owner: owner(row.id, row.endpoint_id, row.job_id)?,
                version_id: row.version_id.into(),
                resources: resources(
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
                promised_at: row.promised_at.map(Timestamp::from),
                promised_class: row.promised_class,
                failed_on: failures(&row.failed_workers, &row.failed_times),
                created_at: row.created_at.into(),
            })
        })
        .collect()
}

pub(super) async fn placements(
    tx: &mut SystemTx,
    ids: &[Uuid],
) -> Result<BTreeMap<PlacementId, LivePlacement>, StoreError> {
    let rows = query!(
        r#"SELECT p.id, p.tenant_id, p.workload_id, p.generation, p.worker_id, p.state, p.created_at, p.failures, p.failed_at,
                  w.endpoint_id,
                  w.job_id, w.version_id, w.class, w.alternatives, w.memory_bytes, w.milli, w.priority,
                  COALESCE(p.class, w.class) AS "placed_class!",
                  COALESCE(e.project_id, j.project_id) AS "project_id!"
           FROM placements p
           JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
           LEFT JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
           LEFT JOIN jobs j ON j.tenant_id = w.tenant_id AND j.id = w.job_id
           WHERE p.id = ANY($1) AND p.ended_at IS NULL"#,
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut placements = rows
        .into_iter()
        .map(|row| {
            let placement = LivePlacement {
                id: row.id.into(),
                workload_id: row.workload_id.into(),
                owner: owner(row.workload_id, row.endpoint_id, row.job_id)?,
                tenant_id: row.tenant_id.into(),
                project_id: ProjectId(row.project_id),
                resources: resources(
                    "workloads",
                    row.workload_id,
                    (row.class, row.alternatives),
                    row.memory_bytes,
                    row.milli,
                )?,
                class: row.placed_class,
                priority: row.priority,
                since: row.created_at.into(),
                failures: row
                    .failures
                    .try_into()
                    .map_err(|_| StoreError::corrupt("placements", "failures", row.id))?,
                failed_at: row.failed_at.map(Timestamp::from),
                version_id: row.version_id.into(),
                generation: row.generation,
                worker_id: WorkerId(row.worker_id),
                state: row.state.parse().map_err(|_| StoreError::corrupt("placements", "state", row.id))?,
                holds: Vec::new(),
            };
            Ok((placement.id, placement))
        })
        .collect::<Result<BTreeMap<_, _>, StoreError>>()?;
    let holds = query!(
        "SELECT placement_id, device_id, memory_bytes, milli FROM placement_devices
         WHERE placement_id = ANY($1) ORDER BY placement_id, device_id",
        ids,
    )
    .fetch_all(tx.conn())
    .await?;
    for row in holds {
        let corrupt = |column| move |_| StoreError::corrupt("placement_devices", column, row.placement_id);
        if let Some(placement) = placements.get_mut(&PlacementId(row.placement_id)) {
            placement.holds.push(Hold {
                device_id: row.device_id.into(),
                memory_bytes: row.memory_bytes.try_into().map_err(corrupt("memory_bytes"))?,
                milli: row.milli.try_into().map_err(corrupt("milli"))?,
            });
        }
    }
    Ok(placements)
}

/// Where a workload failed and when, by worker.
pub(super) fn failures(workers: &[Uuid], times: &[OffsetDateTime]) -> Vec<Failure> {
    let of =
        |(worker, at): (&Uuid, &OffsetDateTime)| Failure { worker_id: WorkerId(*worker), at: (*at).into() };
    let mut failures: Vec<Failure> = workers.iter().zip(times).map(of).collect();
    failures.sort_by_key(|failure| failure.worker_id);
    failures
}

pub(super) fn resources(
    table: &'static str,
    id: Uuid,
    (class, alternatives): (String, Vec<String>),
    memory_bytes: i64,
    milli: i32,
) -> Result<ResourceRequest, StoreError> {
    Ok(ResourceRequest {
        class,
        alternatives,
        memory_bytes: memory_bytes.try_into().map_err(|_| StoreError::corrupt(table, "memory_bytes", id))?,
        milli: milli.try_into().map_err(|_| StoreError::corrupt(table, "milli", id))?,
    })
}
