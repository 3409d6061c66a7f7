//! Principals with local accounts.

use domain::principals::{Principal, PrincipalKind, Role};
use domain::{PrincipalId, ProviderId, TenantId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::pages::Ids;
use crate::{StoreError, SystemTx, Tx};

struct Row {
    id: Uuid,
    tenant_id: Option<Uuid>,
    kind: String,
    login: String,
    display_name: String,
    role: String,
    provider_id: Option<Uuid>,
    must_change_password: bool,
    totp_confirmed_at: Option<OffsetDateTime>,
    disabled_at: Option<OffsetDateTime>,
    signed_in_at: Option<OffsetDateTime>,
    revision: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Principal {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("principals", column, row.id);
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.map(TenantId),
            kind: match row.kind.as_str() {
                "person" => PrincipalKind::Person,
                "service" => PrincipalKind::Service,
                _ => return Err(corrupt("kind")),
            },
            login: row.login,
            display_name: row.display_name,
            role: row.role.parse().map_err(|_| corrupt("role"))?,
            provider_id: row.provider_id.map(ProviderId),
            must_change_password: row.must_change_password,
            one_time_code: row.totp_confirmed_at.is_some(),
            disabled_at: row.disabled_at.map(Timestamp::from),
            signed_in_at: row.signed_in_at.map(Timestamp::from),
            revision: row.revision,
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
    /// It must choose another at the first sign-in.
    pub must_change_password: bool,
}

/// Creates a person with a local account.
pub async fn create(
    tx: &mut SystemTx,
    new: NewPrincipal<'_>,
    now: Timestamp,
) -> Result<Principal, StoreError> {
    query_as!(
        Row,
        "INSERT INTO principals (id, tenant_id, login, display_name, role, password_hash,
             must_change_password, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         RETURNING id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
             totp_confirmed_at, disabled_at, signed_in_at, revision, created_at",
        PrincipalId::generate().0,
        new.tenant.map(|t| t.0),
        new.login,
        new.display_name,
        new.role.as_str(),
        new.password_hash,
        new.must_change_password,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await
    .map_err(exists("an account with this login"))?
    .try_into()
}

/// Up to `limit` people of a tenant, or of the platform, newest first, before
/// the one with id `before`.
pub async fn list(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    before: Option<PrincipalId>,
    limit: u32,
) -> Result<Vec<Principal>, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
             totp_confirmed_at, disabled_at, signed_in_at, revision, created_at
         FROM principals
         WHERE tenant_id IS NOT DISTINCT FROM $1 AND kind = 'person' AND id <= $2
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
pub async fn get(tx: &mut impl Tx, id: PrincipalId) -> Result<Principal, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
             totp_confirmed_at, disabled_at, signed_in_at, revision, created_at
         FROM principals WHERE id = $1",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("account"))?
    .try_into()
}

/// The person of that tenant, or of the platform.
pub async fn person(
    tx: &mut SystemTx,
    tenant: Option<TenantId>,
    id: PrincipalId,
) -> Result<Principal, StoreError> {
    let found = get(tx, id).await?;
    let theirs = found.tenant_id == tenant && found.kind == PrincipalKind::Person;
    if theirs { Ok(found) } else { Err(StoreError::NotFound("account")) }
}

/// What to change of a principal; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct PrincipalChange<'a> {
    /// Name for people.
    pub display_name: Option<&'a str>,
    /// What it may do.
    pub role: Option<Role>,
    /// Whether it may do nothing.
    pub disabled: Option<bool>,
}

/// Changes a principal that has the `expected` revision, if one is given.
pub async fn update(
    tx: &mut impl Tx,
    id: PrincipalId,
    change: PrincipalChange<'_>,
    expected: Option<i64>,
    now: Timestamp,
) -> Result<Principal, StoreError> {
    let row = query_as!(
        Row,
        "UPDATE principals SET display_name = coalesce($3, display_name), role = coalesce($4, role),
             disabled_at = CASE WHEN $5::bool IS NULL THEN disabled_at
                 WHEN $5 THEN coalesce(disabled_at, $6) END,
             revision = revision + 1
         WHERE id = $1 AND ($2::bigint IS NULL OR revision = $2)
         RETURNING id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
             totp_confirmed_at, disabled_at, signed_in_at, revision, created_at",
        id.0,
        expected,
        change.display_name,
        change.role.map(Role::as_str),
        change.disabled,
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?;
    match row {
        Some(row) => row.try_into(),
        None => {
            get(tx, id).await?;
            Err(StoreError::Stale)
        }
    }
}

/// Gives a person another password; whoever knew the old one can forget it.
pub async fn set_password(
    tx: &mut SystemTx,
    id: PrincipalId,
    password_hash: &str,
    must_change: bool,
) -> Result<Principal, StoreError> {
    query_as!(
        Row,
        "UPDATE principals SET password_hash = $2, must_change_password = $3, failures = 0, locked_until = NULL,
             revision = revision + 1
         WHERE id = $1 AND kind = 'person' AND provider_id IS NULL
         RETURNING id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
             totp_confirmed_at, disabled_at, signed_in_at, revision, created_at",
        id.0,
        password_hash,
        must_change,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::Conflict("an identity provider signs this account in; it has no password here"))?
    .try_into()
}

/// Deletes a person, and its sessions.
pub async fn delete(tx: &mut SystemTx, id: PrincipalId) -> Result<(), StoreError> {
    query!("DELETE FROM sessions WHERE principal_id = $1", id.0).execute(tx.conn()).await?;
    query!("DELETE FROM principals WHERE id = $1", id.0).execute(tx.conn()).await?;
    Ok(())
}

/// Whether the platform would have an administrator that can sign in without
/// this one. Holds back others that ask the same until this transaction ends.
pub async fn has_other_platform_admin(tx: &mut SystemTx, id: PrincipalId) -> Result<bool, StoreError> {
    lock_platform_admins(tx).await?;
    let row = query!(
        r#"SELECT EXISTS (SELECT FROM principals
               WHERE role = 'platform_admin' AND disabled_at IS NULL AND id <> $1) AS "exists!""#,
        id.0
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(row.exists)
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
