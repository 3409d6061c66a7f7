//! Who calls: bearer credentials, checked against a short-lived cache that
//! revocation empties, and the scope that follows from them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use domain::keys::{CredentialKind, kind_of};
use domain::principals::{Caller, Role};
use domain::tenants::Slug;
use domain::{KeyId, TenantId, Timestamp};
use store::keys::Credential;
use store::{SystemTx, TenantTx};
use uuid::Uuid;

use crate::audit::CallerSlot;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// `last_used_at` of a key is written at most this often.
pub(crate) const LAST_USED_RESOLUTION: Duration = Duration::from_secs(60);

/// Somebody with a valid credential, of any role.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Caller);

/// A platform administrator.
#[derive(Clone, Debug)]
pub struct Admin(pub Caller);

/// A caller and the tenant it acts in: its own, or for a platform
/// administrator the one named by `?tenant=SLUG`.
#[derive(Clone, Debug)]
pub struct TenantScope {
    /// Who.
    pub caller: Caller,
    /// In which tenant.
    pub tenant: TenantId,
}

/// A [`TenantScope`] of who administers the tenant.
#[derive(Clone, Debug)]
pub struct TenantAdminScope(pub TenantScope);

/// Where a caller acts: in a tenant, or for a platform administrator who names
/// none, on the platform itself.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Who.
    pub caller: Caller,
    /// In which tenant; `None` is the platform.
    pub tenant: Option<TenantId>,
}

impl Scope {
    /// Refuses who does not administer this tenant, or the platform.
    pub fn administers(&self) -> Result<()> {
        match self.caller.role {
            Role::PlatformAdmin | Role::TenantAdmin => Ok(()),
            Role::Developer => Err(NOT_TENANT_ADMIN),
        }
    }
}

const NOT_TENANT_ADMIN: ApiError = ApiError::Forbidden("only an administrator of the tenant may do this");

/// The tenant to act in.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameter that the scope extractors read")]
pub struct TenantParam {
    /// Short name of the tenant to act in, for platform administrators; everyone else acts in its own.
    tenant: Option<Slug>,
}

impl TenantScope {
    /// A transaction on the tenant's rows.
    pub async fn tx(&self, app: &App) -> Result<TenantTx> {
        Ok(app.store.tenant(self.tenant).await?)
    }
}

impl FromRequestParts<App> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        authenticate(parts, app).await.map(Self)
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(parts, app).await?;
        match caller.role {
            Role::PlatformAdmin => Ok(Self(caller)),
            Role::TenantAdmin | Role::Developer => {
                Err(ApiError::Forbidden("only a platform administrator may do this"))
            }
        }
    }
}

impl FromRequestParts<App> for TenantScope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(parts, app).await?;
        tenant_scope(caller, &parts.uri, app).await
    }
}

impl FromRequestParts<App> for TenantAdminScope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(parts, app).await?;
        if caller.role == Role::Developer {
            return Err(NOT_TENANT_ADMIN);
        }
        tenant_scope(caller, &parts.uri, app).await.map(Self)
    }
}

impl FromRequestParts<App> for Scope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let caller = authenticate(parts, app).await?;
        let tenant = acts_in(&caller, &parts.uri, app).await?;
        Ok(Self { caller, tenant })
    }
}

async fn tenant_scope(caller: Caller, uri: &Uri, app: &App) -> Result<TenantScope> {
    match acts_in(&caller, uri, app).await? {
        Some(tenant) => Ok(TenantScope { caller, tenant }),
        None => Err(ApiError::Malformed("name the tenant to act in with ?tenant=SLUG".to_owned())),
    }
}

async fn acts_in(caller: &Caller, uri: &Uri, app: &App) -> Result<Option<TenantId>> {
    let Some(slug) = named_tenant(uri)? else { return Ok(caller.tenant) };
    let named = match caller.tenant {
        // Row-level security shows only its own tenant.
        Some(own) => store::tenants::by_slug(&mut app.store.tenant(own).await?, &slug).await?,
        None => store::tenants::by_slug(&mut app.store.system().await?, &slug).await?,
    };
    Ok(Some(named.id))
}

/// The `tenant` of the query string.
pub(crate) fn named_tenant(uri: &Uri) -> Result<Option<Slug>> {
    let query = uri.query().unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "tenant");
    // A text that is no slug names no tenant.
    named.map(|(_, slug)| slug.parse().map_err(|_| ApiError::NotFound("tenant"))).transpose()
}

/// The credential in `Authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Result<&str> {
    const NONE: ApiError = ApiError::Unauthorized("send a credential: Authorization: Bearer …");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(NONE) };
    let value = value.to_str().map_err(|_| NONE)?;
    let (scheme, credential) = value.split_once(' ').ok_or(NONE)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(NONE);
    }
    Ok(credential.trim())
}

async fn authenticate(parts: &mut Parts, app: &App) -> Result<Caller> {
    // A second extractor of the same request has it already.
    if let Some(known) = parts.extensions.get::<CallerSlot>().and_then(CallerSlot::get) {
        return Ok(known.clone());
    }
    let caller = check(bearer(&parts.headers)?, app).await?;
    if let Some(slot) = parts.extensions.get::<CallerSlot>() {
        slot.set(caller.clone());
    }
    Ok(caller)
}

async fn check(credential: &str, app: &App) -> Result<Caller> {
    const REFUSED: ApiError = ApiError::Unauthorized("the credential is not valid, or not any more");
    // The checksum refuses typing errors and guesses without a query.
    let kind = kind_of(credential).ok_or(REFUSED)?;
    if !matches!(kind, CredentialKind::ApiKey | CredentialKind::Session) {
        return Err(REFUSED);
    }
    let hash = app.pepper.hash(credential);
    let now = app.clock.now();
    let (found, note_use) = match app.credentials.get(&hash, now) {
        Some(hit) => hit,
        None => {
            let epoch = app.credentials.epoch();
            let mut tx = app.store.system().await?;
            let found = match kind {
                CredentialKind::ApiKey => store::keys::find(&mut tx, &hash).await?,
                _ => store::keys::find_session(&mut tx, &hash).await?,
            };
            drop(tx);
            let found = found.ok_or(REFUSED)?;
            app.credentials.put(hash, found.clone(), now, epoch);
            (found, true)
        }
    };
    if found.expires_at.is_some_and(|at| at <= now) {
        return Err(REFUSED);
    }
    if let (true, Some(key)) = (note_use, found.caller.key) {
        note_last_use(app, key, now);
    }
    Ok(found.caller)
}

/// Off the request's path; lost if the process dies, which only makes the
/// figure a little older.
fn note_last_use(app: &App, key: KeyId, now: Timestamp) {
    let task = app.clone();
    app.tasks.spawn(async move {
        let noted = async {
            let mut tx: SystemTx = task.store.system().await?;
            store::keys::note_use(&mut tx, key, now, LAST_USED_RESOLUTION).await?;
            tx.commit().await
        };
        if let Err(e) = noted.await {
            tracing::warn!(key.id = %key, error = crate::problem::chain(&e), "Cannot note the use of key {key}");
        }
    });
}

/// Credentials that were checked a moment ago, by their keyed hash.
#[derive(Debug)]
pub struct CredentialCache {
    entries: Mutex<Entries>,
    limit: usize,
    ttl: Duration,
    /// Whether revocations are heard; if not, nothing is remembered.
    listening: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    by_hash: HashMap<[u8; 32], Entry>,
    /// Counts invalidations: what was read before one is not kept after it.
    epoch: u64,
}

#[derive(Debug)]
struct Entry {
    credential: Credential,
    checked_at: Timestamp,
    use_noted_at: Timestamp,
}

impl CredentialCache {
    pub(crate) fn new(limit: usize, ttl: Duration) -> Self {
        Self { entries: Mutex::default(), limit, ttl, listening: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credential, and whether its use should be noted now.
    fn get(&self, hash: &[u8; 32], now: Timestamp) -> Option<(Credential, bool)> {
        let mut entries = self.lock();
        let entry = entries.by_hash.get_mut(hash)?;
        if now.since(entry.checked_at) >= self.ttl {
            entries.by_hash.remove(hash);
            return None;
        }
        let note = now.since(entry.use_noted_at) >= LAST_USED_RESOLUTION;
        if note {
            entry.use_noted_at = now;
        }
        Some((entry.credential.clone(), note))
    }

    fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn put(&self, hash: [u8; 32], credential: Credential, now: Timestamp, epoch: u64) {
        let mut entries = self.lock();
        if !self.listening.load(Ordering::Relaxed) || entries.epoch != epoch {
            return;
        }
        if entries.by_hash.len() >= self.limit {
            let ttl = self.ttl;
            entries.by_hash.retain(|_, e| now.since(e.checked_at) < ttl);
            if entries.by_hash.len() >= self.limit {
                entries.by_hash.clear();
            }
        }
        entries.by_hash.insert(hash, Entry { credential, checked_at: now, use_noted_at: now });
    }

    /// Forgets the key, session or principal with this id.
    pub(crate) fn forget(&self, id: Uuid) {
        let mut entries = self.lock();
        entries.epoch += 1;
        entries.by_hash.retain(|_, e| {
            e.credential.id != id && e.credential.caller.principal.is_none_or(|principal| principal.0 != id)
        });
    }

    /// Forgets everything; `listening` says whether revocations are heard from now on.
    pub(crate) fn reset(&self, listening: bool) {
        let mut entries = self.lock();
        entries.epoch += 1;
        entries.by_hash.clear();
        self.listening.store(listening, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(id: Uuid) -> Credential {
        let caller = Caller {
            tenant: None,
            project: None,
            principal: None,
            key: Some(KeyId(id)),
            role: Role::Developer,
        };
        Credential { id, caller, expires_at: None }
    }

    fn cache() -> CredentialCache {
        let cache = CredentialCache::new(2, Duration::from_secs(30));
        cache.reset(true);
        cache
    }

    #[test]
    fn a_credential_is_remembered_for_the_ttl() {
        let (cache, now) = (cache(), Timestamp::UNIX_EPOCH);
        cache.put([1; 32], credential(Uuid::nil()), now, cache.epoch());
        assert!(cache.get(&[1; 32], now + Duration::from_secs(29)).is_some());
        assert!(cache.get(&[1; 32], now + Duration::from_secs(30)).is_none());
    }

    #[test]
    fn what_was_read_before_a_revocation_is_not_kept_after_it() {
        let (cache, now, id) = (cache(), Timestamp::UNIX_EPOCH, Uuid::from_u128(7));
        let epoch = cache.epoch();
        cache.forget(id);
        cache.put([1; 32], credential(id), now, epoch);
        assert!(cache.get(&[1; 32], now).is_none());
    }

    #[test]
    fn nothing_is_remembered_while_revocations_are_not_heard() {
        let (cache, now) = (cache(), Timestamp::UNIX_EPOCH);
        cache.reset(false);
        cache.put([1; 32], credential(Uuid::nil()), now, cache.epoch());
        assert!(cache.get(&[1; 32], now).is_none());
    }

    #[test]
    fn it_never_grows_beyond_its_limit() {
        let (cache, now) = (cache(), Timestamp::UNIX_EPOCH);
        for n in 0..10 {
            cache.put([n; 32], credential(Uuid::nil()), now, cache.epoch());
        }
        assert!(cache.lock().by_hash.len() <= 2);
    }

    #[test]
    fn use_is_noted_once_a_minute() {
        let cache = CredentialCache::new(2, Duration::from_secs(600));
        cache.reset(true);
        let now = Timestamp::UNIX_EPOCH;
        cache.put([1; 32], credential(Uuid::nil()), now, cache.epoch());
        let noted = |secs| cache.get(&[1; 32], now + Duration::from_secs(secs)).map(|(_, note)| note);
        assert_eq!(
            [noted(10), noted(60), noted(61), noted(120)],
            [Some(false), Some(true), Some(false), Some(true)]
        );
    }

    #[test]
    fn only_one_bearer_credential_is_taken() {
        let mut headers = HeaderMap::new();
        assert!(bearer(&headers).is_err());
        headers.append(AUTHORIZATION, "bearer abc".parse().unwrap());
        assert_eq!(bearer(&headers).unwrap(), "abc");
        headers.append(AUTHORIZATION, "Bearer def".parse().unwrap());
        assert!(bearer(&headers).is_err());
        headers.insert(AUTHORIZATION, "Basic abc".parse().unwrap());
        assert!(bearer(&headers).is_err());
    }
}
