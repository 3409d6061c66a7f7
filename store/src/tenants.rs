//! Tenants.

use domain::tenants::{Slug, Tenant};
use domain::{TenantId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, SystemTx, Tx};

struct Row {
    id: Uuid,
    slug: String,
    name: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            slug: row.slug.parse().map_err(|_| StoreError::corrupt("tenants", "slug", row.id))?,
            name: row.name,
            created_at: row.created_at.into(),
        })
    }
}

/// Creates a tenant.
pub async fn create(
    tx: &mut SystemTx,
    slug: &Slug,
    name: &str,
    now: Timestamp,
) -> Result<Tenant, StoreError> {
    let id = TenantId::generate();
    query!(
        "INSERT INTO tenants (id, slug, name, created_at) VALUES ($1, $2, $3, $4)",
        id.0,
        slug.as_str(),
        name,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("a tenant of this name"))?;
    Ok(Tenant { id, slug: slug.clone(), name: name.to_owned(), created_at: now })
}

/// The tenant of that short name; in a tenant's transaction, only itself.
pub async fn by_slug(tx: &mut impl Tx, slug: &Slug) -> Result<Tenant, StoreError> {
    query_as!(Row, "SELECT id, slug, name, created_at FROM tenants WHERE slug = $1", slug.as_str())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("tenant"))?
        .try_into()
}

/// The tenant with that id; in a tenant's transaction, only itself.
pub async fn get(tx: &mut impl Tx, id: TenantId) -> Result<Tenant, StoreError> {
    query_as!(Row, "SELECT id, slug, name, created_at FROM tenants WHERE id = $1", id.0)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("tenant"))?
        .try_into()
}

/// Up to `limit` tenants by name, after the one named `after`; in a tenant's
/// transaction, only itself.
pub async fn list(tx: &mut impl Tx, after: Option<&str>, limit: u32) -> Result<Vec<Tenant>, StoreError> {
    query_as!(
        Row,
        "SELECT id, slug, name, created_at FROM tenants
         WHERE slug > $1 ORDER BY slug LIMIT $2",
        after.unwrap_or_default(),
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Tenant::try_from)
    .collect()
}
