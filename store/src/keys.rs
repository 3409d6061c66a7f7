//! API keys, by keyed hash.

use std::time::Duration;

use domain::keys::ApiKey;
use domain::principals::Role;
use domain::tenants::Slug;
use domain::{KeyId, PrincipalId, ProjectId, Timestamp};
use ipnet::IpNet;
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pages::Ids;
use crate::projects::Limited;
use crate::{StoreError, SystemTx, TenantTx, Tx, projects};

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    principal_id: Option<Uuid>,
    name: String,
    prefix: String,
    role: String,
    endpoints: Option<Vec<String>>,
    actions: Option<Vec<String>>,
    networks: Option<Vec<String>>,
    rotated_from: Option<Uuid>,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
    revoked_at: Option<OffsetDateTime>,
    last_used_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for ApiKey {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("api_keys", column, row.id);
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.into(),
            project_id: row.project_id.into(),
            service_account_id: row.principal_id.map(PrincipalId),
            name: row.name,
            prefix: row.prefix,
            role: row.role.parse().map_err(|_| corrupt("role"))?,
            endpoints: parse_all(row.endpoints).map_err(|()| corrupt("endpoints"))?,
            actions: row.actions,
            networks: parse_all(row.networks).map_err(|()| corrupt("networks"))?,
            rotated_from: row.rotated_from.map(KeyId),
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Timestamp::from),
            revoked_at: row.revoked_at.map(Timestamp::from),
            last_used_at: row.last_used_at.map(Timestamp::from),
        })
    }
}

pub(crate) fn parse_all<T: std::str::FromStr>(texts: Option<Vec<String>>) -> Result<Option<Vec<T>>, ()> {
    let parse = |texts: Vec<String>| texts.iter().map(|text| text.parse().map_err(|_| ())).collect();
    texts.map(parse).transpose()
}

fn to_texts<T: ToString>(values: Option<&[T]>) -> Option<Vec<String>> {
    values.map(|values| values.iter().map(ToString::to_string).collect())
}

/// A key to create. Its secret stays with the caller; only the hash comes here.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// Its project, which must be the tenant's.
    pub project: ProjectId,
    /// The service account it acts for.
    pub service_account: Option<PrincipalId>,
    /// `developer`, `user` or `viewer`.
    pub role: Role,
    /// Endpoints it may use; all unless given.
    pub endpoints: Option<&'a [Slug]>,
    /// Actions it may take; all of its role unless given.
    pub actions: Option<&'a [String]>,
    /// Networks it may come from; any unless given.
    pub networks: Option<&'a [IpNet]>,
    /// The key it succeeds.
    pub rotated_from: Option<KeyId>,
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
    projects::room(tx, key.project, Limited::ApiKeys, now).await?;
    let (id, tenant) = (KeyId::generate(), tx.tenant());
    let (endpoints, networks) = (to_texts(key.endpoints), to_texts(key.networks));
    query_as!(
        Row,
        "INSERT INTO api_keys (id, tenant_id, project_id, principal_id, name, prefix, key_hash, role,
             endpoints, actions, networks, rotated_from, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         RETURNING id, tenant_id, project_id, principal_id, name, prefix, role, endpoints, actions, networks,
             rotated_from, created_at, expires_at, revoked_at, last_used_at",
        id.0,
        tenant.0,
        key.project.0,
        key.service_account.map(|id| id.0),
        key.name,
        key.prefix,
        key.hash.as_slice(),
        key.role.as_str(),
        endpoints.as_deref(),
        key.actions,
        networks.as_deref(),
        key.rotated_from.map(|id| id.0),
        OffsetDateTime::from(now),
        key.expires_at.map(OffsetDateTime::from),
    )
    .fetch_one(tx.conn())
    .await?
    .try_into()
}

/// Up to `limit` keys, newest first, before the one with id `before`.
pub async fn list(tx: &mut TenantTx, before: Option<KeyId>, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, project_id, principal_id, name, prefix, role, endpoints, actions, networks,
             rotated_from, created_at, expires_at, revoked_at, last_used_at
         FROM api_keys WHERE id <= $1 ORDER BY id DESC LIMIT $2",
        Ids::before(before.map(|id| id.0)).to,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(ApiKey::try_from)
    .collect()
}

/// One key.
pub async fn get(tx: &mut TenantTx, id: KeyId) -> Result<ApiKey, StoreError> {
    query_as!(
        Row,
        "SELECT id, tenant_id, project_id, principal_id, name, prefix, role, endpoints, actions, networks,
             rotated_from, created_at, expires_at, revoked_at, last_used_at
         FROM api_keys WHERE id = $1",
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("key"))?
    .try_into()
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
    Ok((get(tx, id).await?, ended))
}

/// What one key's rotation must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The key.
    pub key: ApiKey,
    /// Whether the key it succeeds, or one that succeeds it, is live.
    pub has_live_neighbour: bool,
}

/// A key with its neighbours in the chain of rotations, held until this
/// transaction ends.
pub async fn lock_chain(tx: &mut TenantTx, id: KeyId, now: Timestamp) -> Result<Chain, StoreError> {
    query!("SELECT id FROM api_keys WHERE id = $1 FOR UPDATE", id.0)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("key"))?;
    let key = get(tx, id).await?;
    let row = query!(
        r#"SELECT EXISTS (SELECT FROM api_keys
               WHERE (rotated_from = $1 OR id = $2) AND revoked_at IS NULL
                   AND (expires_at IS NULL OR expires_at > $3)) AS "live!""#,
        id.0,
        key.rotated_from.map(|id| id.0),
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(Chain { key, has_live_neighbour: row.live })
}

/// Lets a key end at that time, unless it ends earlier.
pub async fn expire(tx: &mut TenantTx, id: KeyId, at: Timestamp) -> Result<(), StoreError> {
    query!(
        "UPDATE api_keys SET expires_at = LEAST(expires_at, $2) WHERE id = $1",
        id.0,
        OffsetDateTime::from(at)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends the live keys of a service account and takes it off them; returns which.
pub async fn revoke_of(
    tx: &mut TenantTx,
    service_account: PrincipalId,
    now: Timestamp,
) -> Result<Vec<KeyId>, StoreError> {
    let live = query!(
        "SELECT id FROM api_keys WHERE principal_id = $1 AND revoked_at IS NULL FOR UPDATE",
        service_account.0
    )
    .fetch_all(tx.conn())
    .await?;
    query!(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2), principal_id = NULL WHERE principal_id = $1",
        service_account.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok(live.into_iter().map(|row| KeyId(row.id)).collect())
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
