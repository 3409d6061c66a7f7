//! Projects.

use domain::projects::Project;
use domain::tenants::Slug;
use domain::{ProjectId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, TenantTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    slug: String,
    name: String,
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
            created_at: row.created_at.into(),
        })
    }
}

/// Creates a project.
pub async fn create(
    tx: &mut TenantTx,
    slug: &Slug,
    name: &str,
    now: Timestamp,
) -> Result<Project, StoreError> {
    let (id, tenant) = (ProjectId::generate(), tx.tenant());
    query!(
        "INSERT INTO projects (id, tenant_id, slug, name, created_at) VALUES ($1, $2, $3, $4, $5)",
        id.0,
        tenant.0,
        slug.as_str(),
        name,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("a project of this name"))?;
    Ok(Project { id, tenant_id: tenant, slug: slug.clone(), name: name.to_owned(), created_at: now })
}

/// Up to `limit` projects by short name, after the one named `after`.
pub async fn list(tx: &mut TenantTx, after: Option<&str>, limit: u32) -> Result<Vec<Project>, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, slug, name, created_at FROM projects
         WHERE slug > $1 ORDER BY slug LIMIT $2",
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
        "SELECT id, tenant_id, slug, name, created_at FROM projects WHERE slug = $1",
        slug.as_str()
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("project"))?
    .try_into()
}
