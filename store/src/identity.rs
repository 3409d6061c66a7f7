//! Identity providers, and the people they vouch for.

mod people;

use domain::identity::{GroupMapping, IdentityProvider, IssuerUrl, SigningAlgorithm};
use domain::tenants::Slug;
use domain::{ProviderId, TenantId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::exists;
use crate::{StoreError, SystemTx, Tx};

pub use people::{
    Arrival, Arrived, EndedSession, ProviderSession, arrive, bind_session, end_sessions, projects_of,
    provider_session,
};

struct Row {
    id: Uuid,
    tenant_id: Option<Uuid>,
    name: String,
    label: String,
    issuer: String,
    client_id: String,
    audience: String,
    algorithms: Vec<String>,
    groups_claim: String,
    mappings: Json<Vec<GroupMapping>>,
    enabled: bool,
    revision: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for IdentityProvider {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("identity_providers", column, row.id);
        let algorithms: Result<Vec<SigningAlgorithm>, _> = row.algorithms.iter().map(|a| a.parse()).collect();
        Ok(Self {
            id: row.id.into(),
            tenant_id: row.tenant_id.map(TenantId),
            label: if row.label.is_empty() { row.name.clone() } else { row.label },
            name: row.name.parse().map_err(|_| corrupt("name"))?,
            issuer: row.issuer.parse().map_err(|_| corrupt("issuer"))?,
            client_id: row.client_id,
            audience: row.audience,
            algorithms: algorithms.map_err(|_| corrupt("algorithms"))?,
            groups_claim: row.groups_claim,
            mappings: row.mappings.0,
            enabled: row.enabled,
            revision: row.revision,
            created_at: row.created_at.into(),
        })
    }
}

/// A provider to register.
#[derive(Clone, Debug)]
pub struct NewProvider<'a> {
    /// Its identifier, under which the secret is sealed.
    pub id: ProviderId,
    /// Whose people it vouches for; `None` for the platform's.
    pub tenant: Option<TenantId>,
    /// Short name.
    pub name: &'a Slug,
    /// What a sign-in page calls it; empty for its name.
    pub label: &'a str,
    /// Its issuer.
    pub issuer: &'a IssuerUrl,
    /// Our name there.
    pub client_id: &'a str,
    /// What proves to it that it is us, sealed; `None` for a public client.
    pub client_secret: Option<&'a [u8]>,
    /// What `aud` of an access token must contain.
    pub audience: &'a str,
    /// What its tokens may be signed with.
    pub algorithms: &'a [SigningAlgorithm],
    /// Where a token names groups.
    pub groups_claim: &'a str,
    /// What groups give.
    pub mappings: &'a [GroupMapping],
}

fn names(algorithms: &[SigningAlgorithm]) -> Vec<String> {
    algorithms.iter().map(ToString::to_string).collect()
}

/// Registers a provider.
pub async fn create(
    tx: &mut SystemTx,
    new: NewProvider<'_>,
    now: Timestamp,
) -> Result<IdentityProvider, StoreError> {
    query_as!(
        Row,
        r#"INSERT INTO identity_providers (id, tenant_id, name, issuer, client_id, client_secret, audience,
               algorithms, groups_claim, mappings, created_at, label)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
           RETURNING id, tenant_id, name, label, issuer, client_id, audience, algorithms, groups_claim,
               mappings AS "mappings: _", enabled, revision, created_at"#,
        new.id.0,
        new.tenant.map(|t| t.0),
        new.name.as_str(),
        new.issuer.as_str(),
        new.client_id,
        new.client_secret,
        new.audience,
        &names(new.algorithms),
        new.groups_claim,
        Json(new.mappings) as _,
        OffsetDateTime::from(now),
        new.label,
    )
    .fetch_one(tx.conn())
    .await
    .map_err(exists("an identity provider of this name or issuer"))?
    .try_into()
}

/// All of a tenant, or of the platform, by name. There are few:
/// [`domain::identity::MAX_PROVIDERS`].
pub async fn list(tx: &mut impl Tx, tenant: Option<TenantId>) -> Result<Vec<IdentityProvider>, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, tenant_id, name, label, issuer, client_id, audience, algorithms, groups_claim,
               mappings AS "mappings: _", enabled, revision, created_at
           FROM identity_providers WHERE tenant_id IS NOT DISTINCT FROM $1 ORDER BY name"#,
        tenant.map(|t| t.0),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(IdentityProvider::try_from)
    .collect()
}

/// Those in use that people can begin with, by name: of the tenant with this
/// short name, or of the platform. A tenant that is not there has none, and it
/// takes as long to find that out.
pub async fn to_sign_in_with(
    tx: &mut SystemTx,
    tenant: Option<&Slug>,
) -> Result<Vec<IdentityProvider>, StoreError> {
    query_as!(
        Row,
        r#"SELECT p.id, p.tenant_id, p.name, p.label, p.issuer, p.client_id, p.audience, p.algorithms,
               p.groups_claim, p.mappings AS "mappings: _", p.enabled, p.revision, p.created_at
           FROM identity_providers p LEFT JOIN tenants t ON t.id = p.tenant_id
           WHERE t.slug IS NOT DISTINCT FROM $1 AND p.enabled
               AND (p.tenant_id IS NULL OR t.status IN ('active', 'suspended'))
           ORDER BY p.name"#,
        tenant.map(Slug::as_str),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(IdentityProvider::try_from)
    .collect()
}

/// The provider with this id, of this tenant or of the platform.
pub async fn get(
    tx: &mut impl Tx,
    tenant: Option<TenantId>,
    id: ProviderId,
) -> Result<IdentityProvider, StoreError> {
    query_as!(
        Row,
        r#"SELECT id, tenant_id, name, label, issuer, client_id, audience, algorithms, groups_claim,
               mappings AS "mappings: _", enabled, revision, created_at
           FROM identity_providers WHERE id = $1 AND tenant_id IS NOT DISTINCT FROM $2"#,
        id.0,
        tenant.map(|t| t.0),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("identity provider"))?
    .try_into()
}

/// A provider in use, whoever's it is, for a sign-in that names it: enabled,
/// and its tenant there.
pub async fn in_use(tx: &mut SystemTx, id: ProviderId) -> Result<Option<IdentityProvider>, StoreError> {
    query_as!(
        Row,
        r#"SELECT p.id, p.tenant_id, p.name, p.label, p.issuer, p.client_id, p.audience, p.algorithms,
               p.groups_claim, p.mappings AS "mappings: _", p.enabled, p.revision, p.created_at
           FROM identity_providers p LEFT JOIN tenants t ON t.id = p.tenant_id
           WHERE p.id = $1 AND p.enabled AND (p.tenant_id IS NULL OR t.status IN ('active', 'suspended'))"#,
        id.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .map(IdentityProvider::try_from)
    .transpose()
}

/// The provider in use whose issuer this is, byte for byte.
pub async fn by_issuer(tx: &mut SystemTx, issuer: &str) -> Result<Option<IdentityProvider>, StoreError> {
    let row = query!("SELECT id FROM identity_providers WHERE issuer = $1", issuer)
        .fetch_optional(tx.conn())
        .await?;
    match row {
        Some(row) => in_use(tx, row.id.into()).await,
        None => Ok(None),
    }
}

/// The sealed secret of our client at the provider.
pub async fn client_secret(tx: &mut SystemTx, id: ProviderId) -> Result<Option<Vec<u8>>, StoreError> {
    let row = query!("SELECT client_secret FROM identity_providers WHERE id = $1", id.0)
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.ok_or(StoreError::NotFound("identity provider"))?.client_secret)
}

/// What to change; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct ProviderChange<'a> {
    /// What a sign-in page calls it; empty for its name.
    pub label: Option<&'a str>,
    /// Our name there.
    pub client_id: Option<&'a str>,
    /// The sealed secret; `Some(None)` for a public client from now on.
    pub client_secret: Option<Option<&'a [u8]>>,
    /// What `aud` must contain.
    pub audience: Option<&'a str>,
    /// What its tokens may be signed with.
    pub algorithms: Option<&'a [SigningAlgorithm]>,
    /// Where a token names groups.
    pub groups_claim: Option<&'a str>,
    /// What groups give.
    pub mappings: Option<&'a [GroupMapping]>,
    /// Whether it is used.
    pub enabled: Option<bool>,
}

/// Changes a provider of this tenant, or of the platform, if it has the
/// expected revision. Its issuer stays: another issuer is another provider,
/// whose subjects are other people.
pub async fn update(
    tx: &mut SystemTx,
    tenant: Option<TenantId>,
    id: ProviderId,
    change: &ProviderChange<'_>,
    expected: Option<i64>,
) -> Result<IdentityProvider, StoreError> {
    let algorithms = change.algorithms.map(names);
    let row = query_as!(
        Row,
        r#"UPDATE identity_providers SET
               client_id = coalesce($4, client_id),
               client_secret = CASE WHEN $5 THEN $6 ELSE client_secret END,
               audience = coalesce($7, audience),
               algorithms = coalesce($8, algorithms),
               groups_claim = coalesce($9, groups_claim),
               mappings = coalesce($10, mappings),
               enabled = coalesce($11, enabled),
               label = coalesce($12, label),
               revision = revision + 1
           WHERE id = $1 AND tenant_id IS NOT DISTINCT FROM $2 AND ($3::bigint IS NULL OR revision = $3)
           RETURNING id, tenant_id, name, label, issuer, client_id, audience, algorithms, groups_claim,
               mappings AS "mappings: _", enabled, revision, created_at"#,
        id.0,
        tenant.map(|t| t.0),
        expected,
        change.client_id,
        change.client_secret.is_some(),
        change.client_secret.flatten(),
        change.audience,
        algorithms.as_deref(),
        change.groups_claim,
        change.mappings.map(Json) as _,
        change.enabled,
        change.label,
    )
    .fetch_optional(tx.conn())
    .await?;
    match row {
        Some(row) => row.try_into(),
        // Stale if it is there, else not found.
        None => get(tx, tenant, id).await.and(Err(StoreError::Stale)),
    }
}

/// Deletes a provider of this tenant, or of the platform, with the accounts
/// and sessions that only it vouches for. Returns how many accounts.
pub async fn delete(
    tx: &mut SystemTx,
    tenant: Option<TenantId>,
    id: ProviderId,
    expected: Option<i64>,
) -> Result<u64, StoreError> {
    let found = query!(
        "SELECT revision FROM identity_providers WHERE id = $1 AND tenant_id IS NOT DISTINCT FROM $2 FOR UPDATE",
        id.0,
        tenant.map(|t| t.0),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("identity provider"))?;
    if expected.is_some_and(|expected| expected != found.revision) {
        return Err(StoreError::Stale);
    }
    query!(
        "DELETE FROM sessions WHERE principal_id IN (SELECT id FROM principals WHERE provider_id = $1)",
        id.0
    )
    .execute(tx.conn())
    .await?;
    let accounts = query!("DELETE FROM principals WHERE provider_id = $1", id.0)
        .execute(tx.conn())
        .await?
        .rows_affected();
    query!("DELETE FROM identity_providers WHERE id = $1", id.0).execute(tx.conn()).await?;
    Ok(accounts)
}

/// Keys of an issuer, as they were published.
#[derive(Clone, Debug)]
pub struct KeptKeys {
    /// Whose.
    pub issuer: IssuerUrl,
    /// The set (RFC 7517).
    pub jwks: serde_json::Value,
    /// When they were fetched.
    pub fetched_at: Timestamp,
}

/// Keeps an issuer's keys, unless newer ones are kept.
pub async fn keep_keys(tx: &mut SystemTx, keys: &KeptKeys) -> Result<(), StoreError> {
    query!(
        "UPDATE identity_providers SET jwks = $2, jwks_fetched_at = $3
         WHERE issuer = $1 AND (jwks_fetched_at IS NULL OR jwks_fetched_at < $3)",
        keys.issuer.as_str(),
        keys.jwks,
        OffsetDateTime::from(keys.fetched_at),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The kept keys of an issuer.
pub async fn kept_keys(tx: &mut SystemTx, issuer: &IssuerUrl) -> Result<Option<KeptKeys>, StoreError> {
    let row = query!(
        r#"SELECT jwks AS "jwks!", jwks_fetched_at AS "fetched_at!" FROM identity_providers
           WHERE issuer = $1 AND jwks IS NOT NULL AND jwks_fetched_at IS NOT NULL"#,
        issuer.as_str(),
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| KeptKeys { issuer: issuer.clone(), jwks: row.jwks, fetched_at: row.fetched_at.into() }))
}
