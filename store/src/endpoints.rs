//! Endpoints, and how many of their replicas answer.

use domain::accelerators::ResourceRequest;
use domain::endpoints::Endpoint;
use domain::models::{ModelVersion, Sha256Digest};
use domain::tenants::Slug;
use domain::{EndpointId, ProjectId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::pages::Ids;
use crate::projects::Limited;
use crate::{StoreError, TenantTx, Tx, projects};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    name: String,
    version_id: Uuid,
    model: String,
    digest: Vec<u8>,
    replicas: i32,
    class: String,
    memory_bytes: i64,
    milli: i32,
    revision: i64,
    created_at: OffsetDateTime,
    ready: i64,
    placed: i64,
    known: i64,
    waits: Option<String>,
    fails: Option<String>,
}

impl TryFrom<Row> for Endpoint {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("endpoints", column, row.id);
        let replicas = u32::try_from(row.replicas).map_err(|_| corrupt("replicas"))?;
        let ready_replicas = u32::try_from(row.ready).map_err(|_| corrupt("replicas"))?;
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            project_id: row.project_id.into(),
            name: row.name.parse().map_err(|_| corrupt("name"))?,
            version_id: row.version_id.into(),
            model: row.model.parse().map_err(|_| corrupt("version_id"))?,
            version_digest: Sha256Digest(row.digest.try_into().map_err(|_| corrupt("version_id"))?),
            replicas,
            resources: ResourceRequest {
                class: row.class,
                memory_bytes: u64::try_from(row.memory_bytes).map_err(|_| corrupt("memory_bytes"))?,
                milli: u32::try_from(row.milli).map_err(|_| corrupt("milli"))?,
            },
            ready_replicas,
            reason: (ready_replicas < replicas).then(|| {
                row.fails.or(row.waits).unwrap_or_else(|| waiting_for(row.known, row.placed).to_owned())
            }),
            revision: row.revision,
            created_at: row.created_at.into(),
        })
    }
}

/// Why replicas are missing when neither worker nor scheduler said it.
fn waiting_for(known: i64, placed: i64) -> &'static str {
    if placed > 0 {
        "the worker is fetching and loading the model"
    } else if known > 0 {
        "waiting to be placed"
    } else {
        "waiting for the scheduler"
    }
}

/// An endpoint to create.
#[derive(Clone, Debug)]
pub struct NewEndpoint<'a> {
    /// Its project.
    pub project: ProjectId,
    /// Unique in the tenant.
    pub name: &'a Slug,
    /// What it serves.
    pub version: &'a ModelVersion,
    /// How many replicas should run.
    pub replicas: u32,
    /// What each asks for.
    pub resources: &'a ResourceRequest,
    /// Higher goes first.
    pub priority: i32,
}

/// Creates an endpoint.
pub async fn create(tx: &mut TenantTx, new: NewEndpoint<'_>, now: Timestamp) -> Result<Endpoint, StoreError> {
    const TOO_LARGE: StoreError = StoreError::Conflict("the resources asked for are beyond any device");
    projects::room(tx, new.project, Limited::Endpoints, now).await?;
    let (id, tenant) = (EndpointId::generate(), tx.tenant());
    query!(
        "INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at, priority)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        id.0,
        tenant.0,
        new.project.0,
        new.name.as_str(),
        new.version.id.0,
        i32::try_from(new.replicas).map_err(|_| TOO_LARGE)?,
        new.resources.class,
        i64::try_from(new.resources.memory_bytes).map_err(|_| TOO_LARGE)?,
        i32::try_from(new.resources.milli).map_err(|_| TOO_LARGE)?,
        OffsetDateTime::from(now),
        new.priority,
    )
    .execute(tx.conn())
    .await
    .map_err(exists("an endpoint of this name"))?;
    get(tx, id).await
}

/// Which endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointRef {
    /// By identifier.
    Id(EndpointId),
    /// By name.
    Name(Slug),
}

/// Finds the id of an endpoint that is not deleted.
pub async fn resolve(tx: &mut TenantTx, endpoint: &EndpointRef) -> Result<EndpointId, StoreError> {
    let (id, name) = match endpoint {
        EndpointRef::Id(id) => (Some(id.0), None),
        EndpointRef::Name(name) => (None, Some(name.as_str())),
    };
    let row =
        query!("SELECT id FROM endpoints WHERE (id = $1 OR name = $2) AND deleted_at IS NULL", id, name)
            .fetch_optional(tx.conn())
            .await?;
    Ok(row.ok_or(StoreError::NotFound("endpoint"))?.id.into())
}

/// An endpoint that is not deleted.
pub async fn get(tx: &mut TenantTx, id: EndpointId) -> Result<Endpoint, StoreError> {
    let mut found = select(tx, Ids::only(id.0), 1).await?;
    found.pop().ok_or(StoreError::NotFound("endpoint"))
}

/// Up to `limit` endpoints, newest first, before the one with id `before`.
pub async fn list(
    tx: &mut TenantTx,
    before: Option<EndpointId>,
    limit: u32,
) -> Result<Vec<Endpoint>, StoreError> {
    select(tx, Ids::before(before.map(|id| id.0)), limit).await
}

async fn select(tx: &mut TenantTx, ids: Ids, limit: u32) -> Result<Vec<Endpoint>, StoreError> {
    query_as!(
        Row,
        r#"SELECT e.id, e.tenant_id, e.project_id, e.name, e.version_id, m.name AS model, v.digest, e.replicas,
             e.class, e.memory_bytes, e.milli, e.revision, e.created_at,
             s.ready AS "ready!", s.placed AS "placed!", s.known AS "known!", s.waits, s.fails
           FROM endpoints e
           JOIN model_versions v ON v.id = e.version_id
           JOIN models m ON m.id = v.model_id
           CROSS JOIN LATERAL (
             SELECT count(*) FILTER (WHERE p.state = 'ready') AS ready,
               count(p.id) AS placed,
               count(*) AS known,
               (array_agg(w.reason ORDER BY w.created_at, w.id) FILTER (WHERE w.state = 'pending' AND w.reason IS NOT NULL))[1] AS waits,
               (array_agg(p.detail ORDER BY w.created_at, w.id) FILTER (WHERE p.state = 'assigned' AND p.detail IS NOT NULL))[1] AS fails
             FROM workloads w
             LEFT JOIN placements p ON p.workload_id = w.id AND p.generation = w.generation AND p.state IN ('assigned', 'ready')
             WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND w.state <> 'ended'
           ) s
           WHERE e.deleted_at IS NULL AND e.id BETWEEN $1 AND $2
           ORDER BY e.id DESC LIMIT $3"#,
        ids.from,
        ids.to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Endpoint::try_from)
    .collect()
}

/// Asks for another number of replicas, if the endpoint has the expected
/// revision.
pub async fn scale(
    tx: &mut TenantTx,
    id: EndpointId,
    replicas: u32,
    expected: Option<i64>,
) -> Result<Endpoint, StoreError> {
    let replicas =
        i32::try_from(replicas).map_err(|_| StoreError::Conflict("that many replicas cannot be kept"))?;
    let changed = query!(
        "UPDATE endpoints SET replicas = $2, revision = revision + 1
         WHERE id = $1 AND deleted_at IS NULL AND ($3::bigint IS NULL OR revision = $3)",
        id.0,
        replicas,
        expected,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    let endpoint = get(tx, id).await?;
    if changed == 1 { Ok(endpoint) } else { Err(StoreError::Stale) }
}

/// Deletes an endpoint; its name is free at once, its replicas drain.
pub async fn delete(tx: &mut TenantTx, id: EndpointId, now: Timestamp) -> Result<(), StoreError> {
    let changed = query!(
        "UPDATE endpoints SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL",
        id.0,
        OffsetDateTime::from(now)
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if changed == 1 { Ok(()) } else { Err(StoreError::NotFound("endpoint")) }
}
