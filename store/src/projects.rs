//! Projects.

use domain::projects::{Project, ProjectLimits};
use domain::tenants::Slug;
use domain::{ProjectId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, TenantTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    slug: String,
    name: String,
    limits: Json<ProjectLimits>,
    revision: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Project {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            slug: row.slug.parse().map_err(|_| StoreError::corrupt("projects", "slug", row.id))?,
            name: row.name,
            limits: row.limits.0,
            revision: row.revision,
            created_at: row.created_at.into(),
        })
    }
}

/// Creates a project.
pub async fn create(
    tx: &mut TenantTx,
    slug: &Slug,
    name: &str,
    limits: ProjectLimits,
    now: Timestamp,
) -> Result<Project, StoreError> {
    query_as!(
        Row,
        r#"INSERT INTO projects (id, tenant_id, slug, name, limits, created_at) VALUES ($1, $2, $3, $4, $5, $6)
           RETURNING id, tenant_id, slug, name, limits AS "limits: _", revision, created_at"#,
        ProjectId::generate().0,
        tx.tenant().0,
        slug.as_str(),
        name,
        Json(limits) as _,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await
    .map_err(exists("a project of this name"))?
    .try_into()
}

/// Up to `limit` projects by short name, after the one named `after`.
pub async fn list(tx: &mut TenantTx, after: Option<&str>, limit: u32) -> Result<Vec<Project>, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, tenant_id, slug, name, limits AS "limits: _", revision, created_at FROM projects
           WHERE deleted_at IS NULL AND slug > $1 ORDER BY slug LIMIT $2"#,
        after.unwrap_or_default(),
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Project::try_from)
    .collect()
}

/// The project of that short name.
pub async fn by_slug(tx: &mut TenantTx, slug: &Slug) -> Result<Project, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, tenant_id, slug, name, limits AS "limits: _", revision, created_at
           FROM projects WHERE slug = $1 AND deleted_at IS NULL"#,
        slug.as_str()
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("project"))?
    .try_into()
}

/// What to change of a project; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProjectChange<'a> {
    /// Name for people.
    pub name: Option<&'a str>,
    /// Most endpoints.
    pub endpoints: Option<Option<u32>>,
    /// Most keys.
    pub api_keys: Option<Option<u32>>,
    /// Most open jobs.
    pub open_jobs: Option<Option<u32>>,
    /// Most requests a minute.
    pub requests_per_minute: Option<Option<u32>>,
}

/// Changes a project, if it has the expected revision. Limits bind what is
/// made from then on.
pub async fn update(
    tx: &mut TenantTx,
    slug: &Slug,
    change: ProjectChange<'_>,
    expected: Option<i64>,
) -> Result<Project, StoreError> {
    let before = lock(tx, slug).await?;
    if expected.is_some_and(|revision| revision != before.revision) {
        return Err(StoreError::Stale);
    }
    let limits = ProjectLimits {
        endpoints: change.endpoints.unwrap_or(before.limits.endpoints),
        api_keys: change.api_keys.unwrap_or(before.limits.api_keys),
        open_jobs: change.open_jobs.unwrap_or(before.limits.open_jobs),
        requests_per_minute: change.requests_per_minute.unwrap_or(before.limits.requests_per_minute),
    };
    query_as!(
        Row,
        r#"UPDATE projects SET name = $2, limits = $3, revision = revision + 1 WHERE id = $1
           RETURNING id, tenant_id, slug, name, limits AS "limits: _", revision, created_at"#,
        before.id.0,
        change.name.unwrap_or(&before.name),
        Json(limits) as _,
    )
    .fetch_one(tx.conn())
    .await?
    .try_into()
}

/// Deletes a project that has neither endpoints nor open jobs, and revokes its
/// keys; returns how many.
pub async fn delete(tx: &mut TenantTx, slug: &Slug, now: Timestamp) -> Result<(Project, u64), StoreError> {
    let project = lock(tx, slug).await?;
    let at = OffsetDateTime::from(now);
    if count(tx, project.id, Limited::Endpoints, now).await? > 0 {
        return Err(StoreError::Conflict("the project has endpoints; delete them first"));
    }
    if count(tx, project.id, Limited::OpenJobs, now).await? > 0 {
        return Err(StoreError::Conflict("the project has jobs that have not ended; cancel them first"));
    }
    let revoked = query!(
        "UPDATE api_keys SET revoked_at = $2 WHERE project_id = $1 AND revoked_at IS NULL",
        project.id.0,
        at
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    query!("UPDATE projects SET deleted_at = $2, revision = revision + 1 WHERE id = $1", project.id.0, at)
        .execute(tx.conn())
        .await?;
    Ok((project, revoked))
}

/// The project, which nobody else changes or makes anything in until this
/// transaction ends.
async fn lock(tx: &mut TenantTx, slug: &Slug) -> Result<Project, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, tenant_id, slug, name, limits AS "limits: _", revision, created_at
           FROM projects WHERE slug = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"#,
        slug.as_str()
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("project"))?
    .try_into()
}

/// What a project may have only so many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    Endpoints,
    ApiKeys,
    OpenJobs,
}

/// Refuses one more of these than the project may have. Whoever makes another
/// in the same project waits until this transaction ends.
pub(crate) async fn room(
    tx: &mut TenantTx,
    id: ProjectId,
    what: Limited,
    now: Timestamp,
) -> Result<(), StoreError> {
    let limits = query_scalar!(
        r#"SELECT limits AS "limits: Json<ProjectLimits>" FROM projects
           WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"#,
        id.0
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("project"))?
    .0;
    let (limit, full) = match what {
        Limited::Endpoints => (limits.endpoints, "the project has as many endpoints as its limits allow"),
        Limited::ApiKeys => (limits.api_keys, "the project has as many API keys as its limits allow"),
        Limited::OpenJobs => (limits.open_jobs, "the project has as many open jobs as its limits allow"),
    };
    match limit {
        Some(limit) if count(tx, id, what, now).await? >= i64::from(limit) => Err(StoreError::Conflict(full)),
        _ => Ok(()),
    }
}

async fn count(tx: &mut TenantTx, id: ProjectId, what: Limited, now: Timestamp) -> Result<i64, StoreError> {
    Ok(match what {
        Limited::Endpoints => {
            query_scalar!(
                r#"SELECT count(*) AS "n!" FROM endpoints WHERE project_id = $1 AND deleted_at IS NULL"#,
                id.0
            )
            .fetch_one(tx.conn())
            .await?
        }
        Limited::ApiKeys => {
            query_scalar!(
                r#"SELECT count(*) AS "n!" FROM api_keys
                   WHERE project_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"#,
                id.0,
                OffsetDateTime::from(now),
            )
            .fetch_one(tx.conn())
            .await?
        }
        Limited::OpenJobs => {
            query_scalar!(
                r#"SELECT count(*) AS "n!" FROM jobs WHERE project_id = $1 AND ended_at IS NULL"#,
                id.0
            )
            .fetch_one(tx.conn())
            .await?
        }
    })
}
