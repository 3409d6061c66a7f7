//! Projects.

use domain::projects::{Project, ProjectLimits};
use domain::tenants::Slug;
use domain::{ProjectId, Timestamp};
use sqlx::query_as;
use sqlx::types::Json;
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
