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

/// Who signs in with this login, and the hash of the password, if it has one.
pub async fn by_login(
    tx: &mut SystemTx,
    login: &str,
) -> Result<Option<(Principal, Option<String>)>, StoreError> {
    let row = query!(
        "SELECT id, password_hash FROM principals
         WHERE lower(login) = lower($1) AND kind = 'person' AND provider_id IS NULL AND disabled_at IS NULL",
        login,
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((get(tx, row.id.into()).await?, row.password_hash)))
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
