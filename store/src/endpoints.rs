//! Endpoints, and how many of their replicas answer.

use domain::accelerators::ResourceRequest;
use domain::autoscaling::{Range, Targets};
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
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
    target_queued: i32,
    target_tokens: i32,
    target_first_token_ms: i32,
    idle_secs: i32,
    scaled_why: Option<String>,
    class: String,
    alternatives: Vec<String>,
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
        let number = |column, n: i32| u32::try_from(n).map_err(|_| corrupt(column));
        let replicas = number("replicas", row.replicas)?;
        let ready_replicas = u32::try_from(row.ready).map_err(|_| corrupt("replicas"))?;
        let moving = row.known > i64::from(replicas);
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            project_id: row.project_id.into(),
            name: row.name.parse().map_err(|_| corrupt("name"))?,
            version_id: row.version_id.into(),
            model: row.model.parse().map_err(|_| corrupt("version_id"))?,
            version_digest: Sha256Digest(row.digest.try_into().map_err(|_| corrupt("version_id"))?),
            replicas,
            min_replicas: number("min_replicas", row.min_replicas.unwrap_or(row.replicas))?,
            max_replicas: number("max_replicas", row.max_replicas.unwrap_or(row.replicas))?,
            scaling: Targets {
                queued_per_replica: number("target_queued", row.target_queued)?,
                tokens_per_replica: number("target_tokens", row.target_tokens)?,
                first_token_ms: number("target_first_token_ms", row.target_first_token_ms)?,
                idle_secs: number("idle_secs", row.idle_secs)?,
            },
            scaling_reason: row.scaled_why,
            resources: ResourceRequest {
                class: row.class,
                alternatives: row.alternatives,
                memory_bytes: u64::try_from(row.memory_bytes).map_err(|_| corrupt("memory_bytes"))?,
                milli: u32::try_from(row.milli).map_err(|_| corrupt("milli"))?,
            },
            ready_replicas,
            reason: if ready_replicas < replicas {
                let why = row.fails.or(row.waits);
                Some(why.unwrap_or_else(|| waiting_for(row.known, row.placed).to_owned()))
            } else {
                row.waits.filter(|_| moving).map(|why| format!("to be moved off a cordoned worker: {why}"))
            },
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
    /// Between how many the autoscaler chooses; the number is fixed without it.
    pub range: Option<Range>,
    /// What the autoscaler follows.
    pub targets: Targets,
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
        "INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at, priority,
             min_replicas, max_replicas, target_queued, target_tokens, target_first_token_ms, idle_secs, alternatives)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
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
        new.range.map(|range| number(range.min)),
        new.range.map(|range| number(range.max)),
        number(new.targets.queued_per_replica),
        number(new.targets.tokens_per_replica),
        number(new.targets.first_token_ms),
        number(new.targets.idle_secs),
        &new.resources.alternatives,
    )
    .execute(tx.conn())
    .await
    .map_err(exists("an endpoint of this name"))?;
    get(tx, id).await
}

/// What is beyond the type is beyond every limit, and refused by the database.
fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
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
             e.min_replicas, e.max_replicas, e.target_queued, e.target_tokens, e.target_first_token_ms, e.idle_secs,
             e.scaled_why, e.class, e.alternatives, e.memory_bytes, e.milli, e.revision, e.created_at,
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
             WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND NOT w.ended
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

/// How many replicas are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// How many should run now.
    pub replicas: u32,
    /// Between how many the autoscaler chooses; the number is fixed without it.
    pub range: Option<Range>,
    /// What the autoscaler follows.
    pub targets: Targets,
}

/// Asks for other replicas, if the endpoint has the expected revision.
pub async fn scale(
    tx: &mut TenantTx,
    id: EndpointId,
    scale: Scale,
    expected: Option<i64>,
) -> Result<Endpoint, StoreError> {
    let changed = query!(
        "UPDATE endpoints SET replicas = $2, min_replicas = $4, max_replicas = $5, target_queued = $6, target_tokens = $7,
             target_first_token_ms = $8, idle_secs = $9, scaled_why = NULL, scaled_at = NULL, revision = revision + 1
         WHERE id = $1 AND deleted_at IS NULL AND ($3::bigint IS NULL OR revision = $3)",
        id.0,
        number(scale.replicas),
        expected,
        scale.range.map(|range| number(range.min)),
        scale.range.map(|range| number(range.max)),
        number(scale.targets.queued_per_replica),
        number(scale.targets.tokens_per_replica),
        number(scale.targets.first_token_ms),
        number(scale.targets.idle_secs),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    let endpoint = get(tx, id).await?;
    if changed == 1 { Ok(endpoint) } else { Err(StoreError::Stale) }
}

/// The endpoint, which nobody else changes before the transaction ends.
pub async fn lock(tx: &mut TenantTx, id: EndpointId) -> Result<Endpoint, StoreError> {
    query!("SELECT id FROM endpoints WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", id.0)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("endpoint"))?;
    get(tx, id).await
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
