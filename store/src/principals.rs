//! Principals with local accounts.

use domain::principals::{Principal, Role};
use domain::{PrincipalId, TenantId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::pages::Ids;
use crate::{StoreError, SystemTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Option<Uuid>,
    login: String,
    display_name: String,
    role: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Principal {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.map(TenantId),
            login: row.login,
            display_name: row.display_name,
            role: row.role.parse().map_err(|_| StoreError::corrupt("principals", "role", row.id))?,
            created_at: row.created_at.into(),
        })
    }
}

/// A principal to create.
#[derive(Clone, Debug)]
pub struct NewPrincipal<'a> {
    /// Its tenant; `None` for the platform's people.
    pub tenant: Option<TenantId>,
    /// What it signs in with.
    pub login: &'a str,
    /// Name for people.
    pub display_name: &'a str,
    /// What it may do.
    pub role: Role,
    /// Argon2id hash of its password.
    pub password_hash: &'a str,
}

/// Creates a principal.
pub async fn create(
    tx: &mut SystemTx,
    new: NewPrincipal<'_>,
    now: Timestamp,
) -> Result<Principal, StoreError> {
    let id = PrincipalId::generate();
    query!(
        "INSERT INTO principals (id, tenant_id, login, display_name, role, password_hash, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id.0,
        new.tenant.map(|t| t.0),
        new.login,
        new.display_name,
        new.role.as_str(),
        new.password_hash,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("an account with this login"))?;
    Ok(Principal {
        id,
        tenant_id: new.tenant,
        login: new.login.to_owned(),
        display_name: new.display_name.to_owned(),
        role: new.role,
        created_at: now,
    })
}

/// Up to `limit` principals of a tenant, or of the platform, newest first,
/// before the one with id `before`.
pub async fn list(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    before: Option<PrincipalId>,
    limit: u32,
) -> Result<Vec<Principal>, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, login, display_name, role, created_at FROM principals
         WHERE tenant_id IS NOT DISTINCT FROM $1 AND id <= $2
         ORDER BY id DESC LIMIT $3",
        tenant.map(|t| t.0),
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Principal::try_from)
    .collect()
}

/// The principal with this id.
pub async fn get(tx: &mut SystemTx, id: PrincipalId) -> Result<Principal, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, login, display_name, role, created_at FROM principals WHERE id = $1",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("account"))?
    .try_into()
}

/// Who signs in with this login, and the hash of the password, if it has one.
pub async fn by_login(
    tx: &mut SystemTx,
    login: &str,
) -> Result<Option<(Principal, Option<String>)>, StoreError> {
    let row = query!(
        "SELECT id, tenant_id, login, display_name, role, created_at, password_hash
         FROM principals WHERE lower(login) = lower($1)",
        login,
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        let principal = Row {
            id: row.id,
            tenant_id: row.tenant_id,
            login: row.login,
            display_name: row.display_name,
            role: row.role,
            created_at: row.created_at,
        };
        Ok((principal.try_into()?, row.password_hash))
    })
    .transpose()
}

/// Whether the platform has an administrator. Holds back others that ask the
/// same until this transaction ends, so that only one creates the first.
pub async fn lock_platform_admins(tx: &mut SystemTx) -> Result<bool, StoreError> {
    const LOCK: i64 = 0x6368_616e_6365_0001;
    query!("SELECT pg_advisory_xact_lock($1)", LOCK).execute(tx.conn()).await?;
    let row = query!(r#"SELECT EXISTS (SELECT FROM principals WHERE role = 'platform_admin') AS "exists!""#)
        .fetch_one(tx.conn())
        .await?;
    Ok(row.exists)
}
