//! Issuers' keys, remembered: fetched once for many tokens, fetched again when
//! a token names a key that is not there, and served on while the issuer cannot
//! be reached.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::identity::IssuerUrl;
use domain::{Clock, Timestamp};
use serde::{Deserialize, Serialize};

use super::discovery::{DiscoveryError, discover};
use super::fetch::{FetchError, Fetcher};
use super::keys::{KeySet, NotKeySet};
use crate::problem::chain;

/// An issuer is asked at most this often, whatever tokens name.
pub const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// Keys older than this are fetched anew beside the requests they serve, so
/// that a key the issuer withdrew stops counting.
pub const REFRESH_AFTER: Duration = Duration::from_secs(300);
/// Keys serve this long while the issuer cannot be reached.
pub const KEYS_SERVE: Duration = Duration::from_secs(48 * 3600);
/// Issuers remembered at once.
pub const MAX_ISSUERS: usize = 10_000;

/// Keys as they are kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The set as the issuer published it.
    pub jwks: String,
    /// When.
    pub fetched_at: Timestamp,
}

/// Why an issuer's keys are not there.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It does not say where they are.
    #[error("the issuer's description cannot be used")]
    Discovery(#[source] DiscoveryError),
    /// They cannot be fetched.
    #[error("the issuer's keys cannot be fetched")]
    Fetch(#[source] FetchError),
    /// What came is no set of keys.
    #[error("the issuer's keys cannot be used")]
    NotKeySet(#[source] NotKeySet),
    /// The last attempt failed, and it is too early for another.
    #[error("the issuer's keys could not be fetched a moment ago: {0}")]
    Recently(String),
    /// The attempt was given up.
    #[error("fetching the issuer's keys was interrupted")]
    Interrupted,
}

/// Called with what was fetched, to keep it.
type OnRefresh = Box<dyn Fn(&IssuerUrl, Snapshot) + Send + Sync>;

/// The keys of every issuer; cheap to clone.
#[derive(Clone)]
pub struct KeyCache(Arc<Inner>);

struct Inner {
    fetcher: Fetcher,
    clock: Clock,
    issuers: Mutex<HashMap<IssuerUrl, Arc<Issuer>>>,
    on_refresh: OnRefresh,
}

#[derive(Default)]
struct Issuer {
    state: Mutex<State>,
    /// Held while asking: who comes meanwhile waits for the same answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    asked_at: Option<Timestamp>,
    failure: Option<String>,
}

#[derive(Clone)]
struct Held {
    set: Arc<KeySet>,
    snapshot: Snapshot,
}

impl Issuer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The keys, if they are not too old to be believed.
    fn serving(&self, now: Timestamp) -> Option<&Held> {
        self.held.as_ref().filter(|held| now.since(held.snapshot.fetched_at) < KEYS_SERVE)
    }

    /// Whether the issuer was asked so lately that it is not asked again. A
    /// time ahead of now comes from a clock that was put back.
    fn asked_lately(&self, now: Timestamp) -> bool {
        self.asked_at.is_some_and(|at| at <= now && now.since(at) < REFRESH_EVERY)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyCache")
    }
}

impl KeyCache {
    /// An empty cache. `on_refresh` is called with what was fetched.
    pub fn new(
        fetcher: Fetcher,
        clock: Clock,
        on_refresh: impl Fn(&IssuerUrl, Snapshot) + Send + Sync + 'static,
    ) -> Self {
        let on_refresh = Box::new(on_refresh);
        Self(Arc::new(Inner { fetcher, clock, issuers: Mutex::default(), on_refresh }))
    }

    /// Takes back what was kept, unless there is something newer.
    pub fn restore(&self, issuer: &IssuerUrl, snapshot: Snapshot) -> Result<(), NotKeySet> {
        let set = Arc::new(KeySet::parse(snapshot.jwks.as_bytes())?);
        let entry = self.entry(issuer);
        let mut state = entry.state();
        if state.held.as_ref().is_none_or(|held| held.snapshot.fetched_at < snapshot.fetched_at) {
            state.held = Some(Held { set, snapshot });
        }
        Ok(())
    }

    /// What would be kept now.
    pub fn snapshot(&self, issuer: &IssuerUrl) -> Option<Snapshot> {
        self.entry(issuer).state().held.as_ref().map(|held| held.snapshot.clone())
    }

    /// Forgets an issuer that is not used any more.
    pub fn forget(&self, issuer: &IssuerUrl) {
        self.issuers().remove(issuer);
    }

    /// The keys to check a token with that names `kid`. They may lack it: then
    /// the issuer was asked a moment ago and lacks it too, or cannot be reached.
    pub async fn keys(&self, issuer: &IssuerUrl, kid: Option<&str>) -> Result<Arc<KeySet>, KeysError> {
        let entry = self.entry(issuer);
        let now = self.0.clock.now();
        let (found, ask) = {
            let state = entry.state();
            let found = state
                .serving(now)
                .filter(|held| kid.is_none_or(|kid| held.set.has(kid)))
                .map(|held| (held.set.clone(), now.since(held.snapshot.fetched_at) >= REFRESH_AFTER));
            (found, !state.asked_lately(now))
        };
        match found {
            Some((set, stale)) => {
                if stale && ask && entry.asking.try_lock().is_ok() {
                    tokio::spawn(self.clone().refresh(issuer.clone(), entry));
                }
                Ok(set)
            }
            // In a task of its own: the answer serves others too, so the
            // asking ends with nobody's request.
            None => tokio::spawn(self.clone().refresh(issuer.clone(), entry))
                .await
                .unwrap_or(Err(KeysError::Interrupted)),
        }
    }

    /// Fetches the keys now, whatever is remembered, and remembers them; for
    /// who sets the provider up.
    pub async fn fetch(&self, issuer: &IssuerUrl) -> Result<Arc<KeySet>, KeysError> {
        let entry = self.entry(issuer);
        let _asking = entry.asking.lock().await;
        self.ask(issuer, &entry).await
    }

    /// Asks the issuer unless it was just asked, and gives what there is then.
    async fn refresh(self, issuer: IssuerUrl, entry: Arc<Issuer>) -> Result<Arc<KeySet>, KeysError> {
        let _asking = entry.asking.lock().await;
        if entry.state().asked_lately(self.0.clock.now()) {
            let state = entry.state();
            let held = state.serving(self.0.clock.now()).map(|held| held.set.clone());
            return held.ok_or_else(|| match &state.failure {
                Some(failure) => KeysError::Recently(failure.clone()),
                None => KeysError::Interrupted,
            });
        }
        match self.ask(&issuer, &entry).await {
            Ok(set) => Ok(set),
            Err(e) => {
                let held = entry.state().serving(self.0.clock.now()).cloned();
                tracing::warn!(
                    issuer = %issuer,
                    keys_from = held.as_ref().map(|held| held.snapshot.fetched_at.to_string()),
                    error = chain(&e),
                    "Cannot fetch the keys of issuer {issuer}",
                );
                held.map(|held| held.set).ok_or(e)
            }
        }
    }

    async fn ask(&self, issuer: &IssuerUrl, entry: &Issuer) -> Result<Arc<KeySet>, KeysError> {
        entry.state().asked_at = Some(self.0.clock.now());
        match self.fetch_set(issuer).await {
            Ok(held) => {
                let mut state = entry.state();
                state.failure = None;
                state.held = Some(held.clone());
                drop(state);
                (self.0.on_refresh)(issuer, held.snapshot);
                Ok(held.set)
            }
            Err(e) => {
                entry.state().failure = Some(chain(&e));
                Err(e)
            }
        }
    }

    async fn fetch_set(&self, issuer: &IssuerUrl) -> Result<Held, KeysError> {
        let metadata = discover(&self.0.fetcher, issuer).await.map_err(KeysError::Discovery)?;
        let body = self.0.fetcher.get(metadata.jwks_uri().as_str()).await.map_err(KeysError::Fetch)?;
        let set = KeySet::parse(&body).map_err(KeysError::NotKeySet)?;
        // What parses as JSON is UTF-8.
        let jwks = String::from_utf8(body).map_err(|_| KeysError::NotKeySet(NotKeySet::NotJson))?;
        let snapshot = Snapshot { jwks, fetched_at: self.0.clock.now() };
        Ok(Held { set: Arc::new(set), snapshot })
    }

    fn issuers(&self) -> MutexGuard<'_, HashMap<IssuerUrl, Arc<Issuer>>> {
        self.0.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, issuer: &IssuerUrl) -> Arc<Issuer> {
        let mut issuers = self.issuers();
        if let Some(entry) = issuers.get(issuer) {
            return entry.clone();
        }
        // Only issuers of providers come here, so this is a limit for defects.
        if issuers.len() >= MAX_ISSUERS {
            issuers.clear();
        }
        issuers.entry(issuer.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests;
