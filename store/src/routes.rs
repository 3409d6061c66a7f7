//! Where prompts can go: endpoints, their ready replicas, and the addresses of
//! the live workers that hold them.

use domain::models::Sha256Digest;
use domain::{EndpointId, PlacementId, ProjectId, TenantId, Timestamp, WorkerId};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use crate::{StoreError, SystemTx, TenantTx, Tx};

/// Most models listed at once.
const MAX_LISTED: i64 = 1000;

/// An endpoint and what answers for it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRoute {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// What callers name it.
    pub name: String,
    /// The version that answers.
    pub version_digest: Sha256Digest,
    /// Whether any replica is wanted, or would be if asked for.
    pub wanted: bool,
    /// Whether its tenant, or a project of it, has a budget of tokens.
    pub budgeted: bool,
    /// Ready replicas on live workers, by placement.
    pub replicas: Vec<ReplicaRoute>,
}

/// A ready replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRoute {
    /// Its placement.
    pub placement_id: PlacementId,
    /// Its worker.
    pub worker_id: WorkerId,
    /// Base URL of the worker's inference listener.
    pub address: String,
}

/// One row: an endpoint, and one of its ready replicas if it has any.
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    name: String,
    wanted: bool,
    budgeted: bool,
    digest: Vec<u8>,
    placement_id: Option<Uuid>,
    worker_id: Option<Uuid>,
    address: Option<String>,
}

/// Every endpoint, with none or more ready replicas.
pub async fn load(tx: &mut SystemTx) -> Result<Vec<EndpointRoute>, StoreError> {
    let rows = query_as!(
        Row,
        r#"SELECT e.id, e.tenant_id, e.project_id, e.name, e.replicas > 0 OR e.max_replicas IS NOT NULL AS "wanted!", v.digest,
               EXISTS (SELECT FROM budgets b WHERE b.tenant_id = e.tenant_id AND b.class IS NULL) AS "budgeted!",
               r.placement_id AS "placement_id?", r.worker_id AS "worker_id?", r.address AS "address?"
           FROM endpoints e
           JOIN model_versions v ON v.id = e.version_id
           LEFT JOIN (
               SELECT w.tenant_id, w.endpoint_id, w.version_id, p.id AS placement_id, p.worker_id, k.address
               FROM placements p
               JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id AND NOT w.ended
               JOIN workers k ON k.id = p.worker_id AND k.live
               WHERE p.state = 'ready' AND w.endpoint_id IS NOT NULL
           ) r ON r.tenant_id = e.tenant_id AND r.endpoint_id = e.id AND r.version_id = e.version_id
           WHERE e.deleted_at IS NULL
           ORDER BY e.id, r.placement_id"#
    )
    .fetch_all(tx.conn())
    .await?;
    gather(rows)
}

/// Those of these endpoints that are not deleted, as [`load`] returns them.
pub async fn load_some(
    tx: &mut SystemTx,
    endpoints: &[EndpointId],
) -> Result<Vec<EndpointRoute>, StoreError> {
    let ids: Vec<Uuid> = endpoints.iter().map(|id| id.0).collect();
    let rows = query_as!(
        Row,
        r#"SELECT e.id, e.tenant_id, e.project_id, e.name, e.replicas > 0 OR e.max_replicas IS NOT NULL AS "wanted!", v.digest,
               EXISTS (SELECT FROM budgets b WHERE b.tenant_id = e.tenant_id AND b.class IS NULL) AS "budgeted!",
               r.placement_id AS "placement_id?", r.worker_id AS "worker_id?", r.address AS "address?"
           FROM unnest($1::uuid[]) AS wanted (id)
           JOIN endpoints e ON e.id = wanted.id
           JOIN model_versions v ON v.id = e.version_id
           LEFT JOIN LATERAL (
               SELECT p.id AS placement_id, p.worker_id, k.address
               FROM workloads w
               JOIN placements p ON p.workload_id = w.id AND p.tenant_id = w.tenant_id AND p.state = 'ready'
               JOIN workers k ON k.id = p.worker_id AND k.live
               WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND w.version_id = e.version_id
                 AND NOT w.ended
           ) r ON true
           WHERE e.deleted_at IS NULL
           ORDER BY e.id, r.placement_id"#,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    gather(rows)
}

/// Endpoints with a live placement on one of these workers.
pub async fn placed_on(tx: &mut SystemTx, workers: &[WorkerId]) -> Result<Vec<EndpointId>, StoreError> {
    let ids: Vec<Uuid> = workers.iter().map(|id| id.0).collect();
    let found = query_scalar!(
        r#"SELECT DISTINCT w.endpoint_id AS "endpoint_id!"
           FROM placements p JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
           WHERE p.worker_id = ANY($1) AND p.ended_at IS NULL AND w.endpoint_id IS NOT NULL"#,
        &ids,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(found.into_iter().map(EndpointId).collect())
}

/// Rows in order of their endpoints become endpoints with their replicas.
fn gather(rows: Vec<Row>) -> Result<Vec<EndpointRoute>, StoreError> {
    let mut routes: Vec<EndpointRoute> = Vec::new();
    for row in rows {
        if routes.last().is_none_or(|last| last.endpoint_id.0 != row.id) {
            let digest = row.digest.as_slice().try_into();
            routes.push(EndpointRoute {
                endpoint_id: EndpointId(row.id),
                tenant_id: TenantId(row.tenant_id),
                project_id: ProjectId(row.project_id),
                name: row.name,
                version_digest: Sha256Digest(
                    digest.map_err(|_| StoreError::corrupt("model_versions", "digest", row.id))?,
                ),
                wanted: row.wanted,
                budgeted: row.budgeted,
                replicas: Vec::new(),
            });
        }
        if let (Some(route), Some(placement), Some(worker), Some(address)) =
            (routes.last_mut(), row.placement_id, row.worker_id, row.address)
        {
            route.replicas.push(ReplicaRoute {
                placement_id: PlacementId(placement),
                worker_id: WorkerId(worker),
                address,
            });
        }
    }
    Ok(routes)
}

/// An endpoint as `/v1/models` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// What callers name it.
    pub name: String,
    /// Slug of the tenant.
    pub owned_by: String,
    /// When the endpoint was created.
    pub created_at: Timestamp,
}

/// The tenant's endpoints by name; only the one named `name` if given.
pub async fn served(tx: &mut TenantTx, name: Option<&str>) -> Result<Vec<ServedModel>, StoreError> {
    let rows = query!(
        "SELECT e.name, t.slug, e.created_at FROM endpoints e JOIN tenants t ON t.id = e.tenant_id
         WHERE e.deleted_at IS NULL AND ($1::text IS NULL OR e.name = $1)
         ORDER BY e.name LIMIT $2",
        name,
        MAX_LISTED,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| ServedModel { name: r.name, owned_by: r.slug, created_at: r.created_at.into() })
        .collect())
}

/// Why an endpoint has no ready replica, in plain words.
pub async fn why_not_ready(tx: &mut TenantTx, name: &str) -> Result<String, StoreError> {
    let row = query!(
        r#"SELECT e.replicas, e.max_replicas IS NOT NULL AS "scales!", w.state AS "workload?", w.reason, p.state AS "placement?", p.detail
           FROM endpoints e
           LEFT JOIN workloads w ON w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND NOT w.ended
           LEFT JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.ended_at IS NULL
           WHERE e.name = $1 AND e.deleted_at IS NULL
           ORDER BY p.state NULLS LAST, w.created_at LIMIT 1"#,
        name,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("endpoint"))?;
    let waits = match (row.replicas, row.workload, row.placement.as_deref()) {
        (0, _, _) if row.scales => {
            "it has no replica now, and waits for the autoscaler to want one".to_owned()
        }
        (0, _, _) => "it is scaled to 0 replicas".to_owned(),
        (_, None, _) => "it waits for the scheduler".to_owned(),
        (_, Some(_), None) => row.reason.unwrap_or_else(|| "it waits for the scheduler".to_owned()),
        (_, Some(_), Some("assigned")) => row.detail.unwrap_or_else(|| "a worker is loading it".to_owned()),
        (_, Some(_), Some(_)) => "its worker does not answer".to_owned(),
    };
    Ok(waits)
}
