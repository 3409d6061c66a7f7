//! Service accounts of a tenant: principals that act with API keys.

use domain::principals::{Principal, Role};
use domain::tenants::Slug;
use domain::{PrincipalId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use crate::error::exists;
use crate::principals::get;
use crate::{StoreError, TenantTx, Tx};

/// Creates a service account.
pub async fn create(
    tx: &mut TenantTx,
    name: &Slug,
    display_name: &str,
    role: Role,
    now: Timestamp,
) -> Result<Principal, StoreError> {
    let (id, tenant) = (PrincipalId::generate(), tx.tenant());
    query!(
        "INSERT INTO principals (id, tenant_id, kind, login, display_name, role, created_at)
         VALUES ($1, $2, 'service', $3, $4, $5, $6)",
        id.0,
        tenant.0,
        name.as_str(),
        display_name,
        role.as_str(),
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("a service account of this name"))?;
    get(tx, id).await
}

/// Up to `limit` service accounts by name, after the one named `after`.
pub async fn list(tx: &mut TenantTx, after: Option<&str>, limit: u32) -> Result<Vec<Principal>, StoreError> {
    let rows = query!(
        "SELECT id FROM principals WHERE kind = 'service' AND ($1::text IS NULL OR login > $1)
         ORDER BY login LIMIT $2",
        after,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(get(tx, row.id.into()).await?);
    }
    Ok(found)
}

/// The service account of that name.
pub async fn by_name(tx: &mut TenantTx, name: &Slug) -> Result<Principal, StoreError> {
    let row = query!("SELECT id FROM principals WHERE kind = 'service' AND login = $1", name.as_str())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("service account"))?;
    get(tx, row.id.into()).await
}

/// Deletes a service account that no key names any more.
pub async fn delete(tx: &mut TenantTx, id: PrincipalId) -> Result<(), StoreError> {
    query!("DELETE FROM principals WHERE id = $1 AND kind = 'service'", id.0).execute(tx.conn()).await?;
    Ok(())
}
