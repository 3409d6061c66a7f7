//! Where prompts can go: endpoints, their ready replicas, and the addresses of
//! the live workers that hold them.

use std::collections::BTreeMap;

use domain::models::Sha256Digest;
use domain::{EndpointId, PlacementId, ProjectId, TenantId, Timestamp, WorkerId};
use sqlx::query;

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
    /// Whether any replica is wanted.
    pub wanted: bool,
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

/// Every endpoint, with none or more ready replicas.
pub async fn load(tx: &mut SystemTx) -> Result<Vec<EndpointRoute>, StoreError> {
    let rows = query!(
        r#"SELECT e.id, e.tenant_id, e.project_id, e.name, e.replicas > 0 AS "wanted!", v.digest,
               r.placement_id AS "placement_id?", r.worker_id AS "worker_id?", r.address AS "address?"
           FROM endpoints e
           JOIN model_versions v ON v.id = e.version_id
           LEFT JOIN (
               SELECT w.tenant_id, w.endpoint_id, w.version_id, p.id AS placement_id, p.worker_id, k.address
               FROM placements p
               JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
               JOIN workers k ON k.id = p.worker_id AND k.live
               WHERE p.state = 'ready' AND w.endpoint_id IS NOT NULL
           ) r ON r.tenant_id = e.tenant_id AND r.endpoint_id = e.id AND r.version_id = e.version_id
           WHERE e.deleted_at IS NULL
           ORDER BY e.id, r.placement_id"#
    )
    .fetch_all(tx.conn())
    .await?;
    let mut routes: BTreeMap<EndpointId, EndpointRoute> = BTreeMap::new();
    for row in rows {
        let digest = row.digest.as_slice().try_into();
        let version_digest =
            Sha256Digest(digest.map_err(|_| StoreError::corrupt("model_versions", "digest", row.id))?);
        let route = routes.entry(EndpointId(row.id)).or_insert_with(|| EndpointRoute {
            endpoint_id: EndpointId(row.id),
            tenant_id: TenantId(row.tenant_id),
            project_id: ProjectId(row.project_id),
            name: row.name,
            version_digest,
            wanted: row.wanted,
            replicas: Vec::new(),
        });
        if let (Some(placement), Some(worker), Some(address)) = (row.placement_id, row.worker_id, row.address)
        {
            route.replicas.push(ReplicaRoute {
                placement_id: PlacementId(placement),
                worker_id: WorkerId(worker),
                address,
            });
        }
    }
    Ok(routes.into_values().collect())
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
        r#"SELECT e.replicas, w.state AS "workload?", w.reason, p.state AS "placement?", p.detail
           FROM endpoints e
           LEFT JOIN workloads w ON w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND w.state <> 'ended'
           LEFT JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.state <> 'ended'
           WHERE e.name = $1 AND e.deleted_at IS NULL
           ORDER BY p.state NULLS LAST, w.created_at LIMIT 1"#,
        name,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("endpoint"))?;
    let waits = match (row.replicas, row.workload, row.placement.as_deref()) {
        (0, _, _) => "it is scaled to 0 replicas".to_owned(),
        (_, None, _) => "it waits for the scheduler".to_owned(),
        (_, Some(_), None) => row.reason.unwrap_or_else(|| "it waits for the scheduler".to_owned()),
        (_, Some(_), Some("assigned")) => row.detail.unwrap_or_else(|| "a worker is loading it".to_owned()),
        (_, Some(_), Some(_)) => "its worker does not answer".to_owned(),
    };
    Ok(waits)
}
