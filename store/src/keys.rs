//! Credentials of people and programs: API keys and sessions, by keyed hash.

use std::time::Duration;

use domain::keys::ApiKey;
use domain::principals::{Caller, Role};
use domain::{KeyId, PrincipalId, ProjectId, TenantId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pages::Ids;
use crate::{StoreError, SystemTx, TenantTx, Tx};

/// What a valid credential stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Of the key or the session; names it when it is revoked.
    pub id: Uuid,
    /// Who calls with it.
    pub caller: Caller,
    /// When it stops working by itself. To be checked at every use.
    pub expires_at: Option<Timestamp>,
}

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    name: String,
    prefix: String,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
    last_used_at: Option<OffsetDateTime>,
}

impl From<Row> for ApiKey {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            project_id: row.project_id.into(),
            name: row.name,
            prefix: row.prefix,
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Timestamp::from),
            revoked_at: row.revoked_at.map(Timestamp::from),
            last_used_at: row.last_used_at.map(Timestamp::from),
        }
    }
}

/// A key to create. Its secret stays with the caller; only the hash comes here.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// Its project, which must be the tenant's.
    pub project: ProjectId,
    /// Name for people.
    pub name: &'a str,
    /// First characters of the secret.
    pub prefix: &'a str,
    /// Keyed hash of the secret.
    pub hash: &'a [u8; 32],
    /// When it stops working by itself.
    pub expires_at: Option<Timestamp>,
}

/// Creates a key.
pub async fn create(tx: &mut TenantTx, key: NewKey<'_>, now: Timestamp) -> Result<ApiKey, StoreError> {
    let (id, tenant) = (KeyId::generate(), tx.tenant());
    query!(
        "INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id.0,
        tenant.0,
        key.project.0,
        key.name,
        key.prefix,
        key.hash.as_slice(),
        OffsetDateTime::from(now),
        key.expires_at.map(OffsetDateTime::from),
    )
    .execute(tx.conn())
    .await?;
    Ok(ApiKey {
        id,
        tenant_id: tenant,
        project_id: key.project,
        name: key.name.to_owned(),
        prefix: key.prefix.to_owned(),
        created_at: now,
        expires_at: key.expires_at,
        revoked_at: None,
        last_used_at: None,
    })
}

/// Up to `limit` keys, newest first, before the one with id `before`.
pub async fn list(tx: &mut TenantTx, before: Option<KeyId>, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
    let rows = query_as!(
        Row,
        "SELECT id, tenant_id, project_id, name, prefix, created_at, expires_at, revoked_at, last_used_at
         FROM api_keys WHERE id <= $1 ORDER BY id DESC LIMIT $2",
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

/// Ends a key. Revoking it again changes nothing and keeps the first time.
/// Returns the key and whether this call ended it.
pub async fn revoke(tx: &mut TenantTx, id: KeyId, now: Timestamp) -> Result<(ApiKey, bool), StoreError> {
    let ended = query!(
        "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        id.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected()
        == 1;
    let row = query_as!(
        Row,
        "SELECT id, tenant_id, project_id, name, prefix, created_at, expires_at, revoked_at, last_used_at
         FROM api_keys WHERE id = $1",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("key"))?;
    Ok((row.into(), ended))
}

/// The live key with this hash.
pub async fn find(tx: &mut SystemTx, hash: &[u8; 32]) -> Result<Option<Credential>, StoreError> {
    let row = query!(
        "SELECT id, tenant_id, project_id, expires_at FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
        hash.as_slice(),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| Credential {
        id: row.id,
        caller: Caller {
            tenant: Some(TenantId(row.tenant_id)),
            project: Some(ProjectId(row.project_id)),
            principal: None,
            key: Some(KeyId(row.id)),
            role: Role::Developer,
        },
        expires_at: row.expires_at.map(Timestamp::from),
    }))
}

/// Notes that a key was used, unless that was noted less than `resolution` ago.
pub async fn note_use(
    tx: &mut SystemTx,
    id: KeyId,
    now: Timestamp,
    resolution: Duration,
) -> Result<(), StoreError> {
    query!(
        "UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        id.0,
        OffsetDateTime::from(now),
        OffsetDateTime::from(now - resolution),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Opens a session of a principal.
pub async fn create_session(
    tx: &mut SystemTx,
    principal: PrincipalId,
    hash: &[u8; 32],
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<Uuid, StoreError> {
    let id = Uuid::now_v7();
    query!(
        "INSERT INTO sessions (token_hash, id, principal_id, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        hash.as_slice(),
        id,
        principal.0,
        OffsetDateTime::from(now),
        OffsetDateTime::from(expires_at),
    )
    .execute(tx.conn())
    .await?;
    Ok(id)
}

/// Ends the session with this hash; returns its id if it was open.
pub async fn revoke_session(
    tx: &mut SystemTx,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Uuid>, StoreError> {
    let row = query!(
        "UPDATE sessions SET revoked_at = $2 WHERE token_hash = $1 AND revoked_at IS NULL RETURNING id",
        hash.as_slice(),
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| row.id))
}

/// Forgets sessions of a principal that are over; returns how many.
pub async fn prune_sessions(
    tx: &mut SystemTx,
    principal: PrincipalId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let now = OffsetDateTime::from(now);
    Ok(query!("DELETE FROM sessions WHERE principal_id = $1 AND expires_at < $2", principal.0, now)
        .execute(tx.conn())
        .await?
        .rows_affected())
}

/// The open session with this hash.
pub async fn find_session(tx: &mut SystemTx, hash: &[u8; 32]) -> Result<Option<Credential>, StoreError> {
    let row = query!(
        "SELECT s.id, s.expires_at, p.id AS principal_id, p.tenant_id, p.role
         FROM sessions s JOIN principals p ON p.id = s.principal_id
         WHERE s.token_hash = $1 AND s.revoked_at IS NULL",
        hash.as_slice(),
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        Ok(Credential {
            id: row.id,
            caller: Caller {
                tenant: row.tenant_id.map(TenantId),
                project: None,
                principal: Some(PrincipalId(row.principal_id)),
                key: None,
                role: row
                    .role
                    .parse()
                    .map_err(|_| StoreError::corrupt("principals", "role", row.principal_id))?,
            },
            expires_at: Some(row.expires_at.into()),
        })
    })
    .transpose()
}
