//! Restrictions that tenants add for themselves.

use domain::restrictions::Restriction;
use domain::tenants::Slug;
use domain::{RestrictionId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, TenantTx, Tx};

struct Row {
    id: Uuid,
    name: String,
    description: String,
    policy: String,
    revision: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Restriction {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            name: row.name.parse().map_err(|_| StoreError::corrupt("restrictions", "name", row.id))?,
            description: row.description,
            policy: row.policy,
            revision: row.revision,
            created_at: row.created_at.into(),
        })
    }
}

/// Adds a restriction.
pub async fn create(
    tx: &mut TenantTx,
    name: &Slug,
    description: &str,
    policy: &str,
    now: Timestamp,
) -> Result<Restriction, StoreError> {
    query_as!(
        Row,
        "INSERT INTO restrictions (id, tenant_id, name, description, policy, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, name, description, policy, revision, created_at",
        RestrictionId::generate().0,
        tx.tenant().0,
        name.as_str(),
        description,
        policy,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await
    .map_err(exists("a restriction of this name"))?
    .try_into()
}

/// All of a tenant, by name. There are few: [`domain::restrictions::MAX`].
pub async fn list(tx: &mut TenantTx) -> Result<Vec<Restriction>, StoreError> {
    query_as!(
        Row,
        "SELECT id, name, description, policy, revision, created_at FROM restrictions ORDER BY name"
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Restriction::try_from)
    .collect()
}

/// Takes a restriction away.
pub async fn delete(tx: &mut TenantTx, name: &Slug) -> Result<RestrictionId, StoreError> {
    let row = query!("DELETE FROM restrictions WHERE name = $1 RETURNING id", name.as_str())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("restriction"))?;
    Ok(row.id.into())
}
