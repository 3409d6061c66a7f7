//! Who calls: bearer credentials, checked against a short-lived cache that
//! revocation empties.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use domain::Timestamp;
use domain::keys::{CredentialKind, kind_of};
use domain::principals::{Caller, Credential};
use store::credentials::Known;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::problem::{ApiError, Result};
use crate::state::App;

/// `last_used_at` of a key is written at most this often.
pub(crate) const LAST_USED_RESOLUTION: Duration = Duration::from_secs(60);

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

/// The cookie of a browser's session. The prefix makes browsers insist on
/// HTTPS, this host alone and the whole path.
pub(crate) const SESSION_COOKIE: &str = "__Host-chancery-session";
const CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");

/// The session in a browser's cookie; not of a request with `Authorization`.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    if headers.contains_key(AUTHORIZATION) {
        return None;
    }
    let values = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value);
    // Two are one too many to say which was meant.
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Who a request comes from.
pub(crate) async fn authenticate(parts: &mut Parts, _address: IpAddr, app: &App) -> Result<Known> {
    if let Some(token) = cookie(&parts.headers) {
        if kind_of(token) != Some(CredentialKind::Session) {
            return Err(REFUSED);
        }
        return check(token, app).await;
    }
    check(bearer(&parts.headers)?, app).await
}

/// What the pages of a session must send with everything that changes
/// something: another site's pages cannot read it.
pub(crate) fn csrf_token(app: &App, session: Uuid) -> String {
    hex::encode(app.pepper.derive("csrf", session.as_bytes()))
}

/// A browser sends its cookie along with what another site's page makes it ask.
/// What changes something must prove that it comes from our own.
pub(crate) fn check_forgery(parts: &Parts, caller: &Caller, app: &App) -> Result<()> {
    let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if safe || cookie(&parts.headers).is_none() {
        return Ok(());
    }
    let Credential::Session(session) = caller.credential else { return Ok(()) };
    let given = parts.headers.get(CSRF_TOKEN).map_or(&b""[..], HeaderValue::as_bytes);
    if !bool::from(given.ct_eq(csrf_token(app, session).as_bytes())) {
        return Err(ApiError::Forbidden(
            "a request with the session's cookie must carry its X-CSRF-Token, which GET /api/v1/me tells"
                .to_owned(),
        ));
    }
    match site(parts, app) {
        Site::Own => Ok(()),
        Site::Other | Site::Unknown => Err(ApiError::Forbidden(
            "a request with the session's cookie must come from our own pages".to_owned(),
        )),
    }
}

/// Where the page is from that makes a browser ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// From here, or the person asked itself.
    Own,
    /// From elsewhere.
    Other,
    /// The client does not say; no browser of today.
    Unknown,
}

pub(crate) fn site(parts: &Parts, app: &App) -> Site {
    if let Some(fetched) = parts.headers.get("sec-fetch-site") {
        return match fetched.as_bytes() {
            b"same-origin" | b"none" => Site::Own,
            _ => Site::Other,
        };
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Site::Unknown };
    let origin = origin.to_str().unwrap_or_default();
    let own = if app.settings.public_url.is_empty() {
        let host = parts.headers.get(HOST).and_then(|v| v.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(axum::http::uri::Authority::as_str));
        let place = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        host.is_some() && host == place
    } else {
        let url = app.settings.public_url.as_str();
        let path = url.find("://").and_then(|at| url[at + 3..].find('/').map(|end| at + 3 + end));
        origin == path.map_or(url, |end| &url[..end])
    };
    if own { Site::Own } else { Site::Other }
}

const REFUSED: ApiError = ApiError::Unauthorized("the credential is not valid, or not any more");

async fn check(credential: &str, app: &App) -> Result<Known> {
    // The checksum refuses typing errors and guesses without a query.
    let kind = kind_of(credential);
    let known_kind = match kind {
        Some(kind) => matches!(kind, CredentialKind::ApiKey | CredentialKind::Session),
        None => crate::identity::looks_like_token(credential),
    };
    if !known_kind {
        return Err(REFUSED);
    }
    let hash = app.pepper.hash(credential);
    let now = app.clock.now();
    let idle = Duration::from_secs(app.settings.session_idle_secs);
    let is_over = |found: &Known| {
        found.expires_at.is_some_and(|at| at <= now)
            || found.seen_at.is_some_and(|seen| now.since(seen) >= idle)
    };
    let (found, note_use) = match app.credentials.get(&hash, now) {
        Some(hit) => hit,
        None => {
            let epoch = app.credentials.epoch();
            let found = match kind {
                Some(CredentialKind::ApiKey) => {
                    store::credentials::of_key(&mut app.store.system().await?, &hash).await?
                }
                Some(_) => store::credentials::of_session(&mut app.store.system().await?, &hash).await?,
                None => Some(crate::identity::known(app, credential, now).await?),
            };
            let found = found.filter(|found| !is_over(found)).ok_or(REFUSED)?;
            app.credentials.put(hash, found.clone(), now, epoch);
            (found, true)
        }
    };
    if is_over(&found) {
        return Err(REFUSED);
    }
    if note_use {
        note_last_use(app, found.caller.credential, now);
    }
    Ok(found)
}

/// Off the request's path; lost if the process dies, which only makes the
/// figure a little older.
fn note_last_use(app: &App, credential: Credential, now: Timestamp) {
    let task = app.clone();
    app.tasks.spawn(async move {
        let noted = async {
            let mut tx = task.store.system().await?;
            match credential {
                Credential::Key(key) => store::keys::note_use(&mut tx, key, now, LAST_USED_RESOLUTION).await?,
                Credential::Session(id) => {
                    store::sessions::note_use(&mut tx, id, now, LAST_USED_RESOLUTION).await?;
                }
                Credential::Token(_) => {}
            }
            tx.commit().await
        };
        if let Err(e) = noted.await {
            tracing::warn!(%credential, error = crate::problem::chain(&e), "Cannot note the use of {credential}");
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
    known: Known,
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
    pub(crate) fn get(&self, hash: &[u8; 32], now: Timestamp) -> Option<(Known, bool)> {
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
        let known = entry.known.clone();
        // One that was idle for too long stays so.
        entry.known.seen_at =
            entry.known.seen_at.map(|seen| if now.since(seen) < self.ttl { now } else { seen });
        Some((known, note))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    pub(crate) fn put(&self, hash: [u8; 32], known: Known, now: Timestamp, epoch: u64) {
        // Seen now: the note of it in the database comes a moment later.
        let known = Known { seen_at: known.seen_at.map(|_| now), ..known };
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
        entries.by_hash.insert(hash, Entry { known, checked_at: now, use_noted_at: now });
    }

    /// Forgets the key or session with this id, or all of the account or tenant.
    pub(crate) fn forget(&self, id: Uuid) {
        let mut entries = self.lock();
        entries.epoch += 1;
        entries.by_hash.retain(|_, e| {
            let caller = &e.known.caller;
            e.known.id != id
                && caller.principal.is_none_or(|principal| principal.0 != id)
                && caller.tenant.is_none_or(|tenant| tenant.0 != id)
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
    use domain::KeyId;
    use domain::principals::Role;

    use super::*;

    fn credential(id: Uuid) -> Known {
        let caller = Caller {
            tenant: None,
            principal: None,
            credential: Credential::Key(KeyId(id)),
            role: Role::Developer,
            memberships: [].into(),
            bounds: None,
            must_change_password: false,
            one_time_code: false,
        };
        Known { id, caller, tenant: None, expires_at: None, seen_at: None, requests_per_minute: None }
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
