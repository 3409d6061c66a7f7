//! Identity providers: registering them, signing in with them, and taking
//! their tokens.

mod bearer;
mod check;
mod offered;
mod providers;
mod sign_in;

use domain::ProviderId;
use domain::identity::{IdentityProvider, IssuerUrl};
use store::Store;
use store::identity::KeptKeys;
use utoipa_axum::router::OpenApiRouter;

use crate::oidc::fetch::{FETCH_TIMEOUT, Fetcher};
use crate::oidc::jwks::{KeyCache, Snapshot};
use crate::oidc::login::{Client, UsedTokens};
use crate::problem::{ApiError, Result, chain};
use crate::seal;
use crate::settings::Settings;
use crate::state::App;

pub(crate) use bearer::{known, looks_like_token};
pub(crate) use sign_in::logout_url;

/// What the sealed secrets of clients are for.
const SECRET_PURPOSE: &str = "client secret";
/// What the sealed ID tokens of sessions are for.
const ID_TOKEN_PURPOSE: &str = "id token";

/// Routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    providers::router().merge(offered::router()).merge(check::router()).merge(sign_in::router())
}

/// What providers are asked with, and what is remembered of them.
#[derive(Debug)]
pub struct Identity {
    fetcher: Fetcher,
    keys: KeyCache,
    used: UsedTokens,
}

impl Identity {
    pub(crate) fn new(
        settings: &Settings,
        store: &Store,
        clock: &domain::Clock,
    ) -> Result<Self, reqwest::Error> {
        let fetcher = Fetcher::new(settings.identity_plain_http_on_loopback, FETCH_TIMEOUT)?;
        let store = store.clone();
        let keep = move |issuer: &IssuerUrl, snapshot: Snapshot| {
            // Lost if the process ends now, which only means to fetch again.
            tokio::spawn(keep_keys(store.clone(), issuer.clone(), snapshot));
        };
        // A fetcher of its own: a flood of sign-ins must not hold up keys.
        let for_keys = Fetcher::new(settings.identity_plain_http_on_loopback, FETCH_TIMEOUT)?;
        let keys = KeyCache::new(for_keys, clock.clone(), keep);
        Ok(Self { fetcher, keys, used: UsedTokens::default() })
    }

    /// Takes back the keys that were kept of an issuer, where this process
    /// knows none yet.
    async fn recall(&self, app: &App, issuer: &IssuerUrl) -> Result<()> {
        if self.keys.snapshot(issuer).is_some() {
            return Ok(());
        }
        if let Some(kept) = store::identity::kept_keys(&mut app.store.system().await?, issuer).await? {
            let snapshot = Snapshot { jwks: kept.jwks.to_string(), fetched_at: kept.fetched_at };
            if let Err(e) = self.keys.restore(issuer, snapshot) {
                tracing::warn!(%issuer, error = chain(&e), "The kept keys of issuer {issuer} cannot be used");
            }
        }
        Ok(())
    }
}

async fn keep_keys(store: Store, issuer: IssuerUrl, snapshot: Snapshot) {
    let kept = async {
        let Ok(jwks) = serde_json::from_str(&snapshot.jwks) else { return Ok(()) };
        let mut tx = store.system().await?;
        let keys = KeptKeys { issuer: issuer.clone(), jwks, fetched_at: snapshot.fetched_at };
        store::identity::keep_keys(&mut tx, &keys).await?;
        tx.commit().await
    };
    if let Err(e) = kept.await {
        tracing::warn!(%issuer, error = chain(&e), "Cannot keep the keys of issuer {issuer}");
    }
}

/// Our client at a provider, ready to be used.
struct Relying {
    provider: IdentityProvider,
    secret: Option<String>,
    redirect_url: String,
}

impl Relying {
    /// At a provider in use; `base` is our own URL.
    async fn on(app: &App, id: ProviderId, base: &str) -> Result<Self> {
        let mut tx = app.store.system().await?;
        let provider = store::identity::in_use(&mut tx, id).await?;
        let provider = provider.ok_or(ApiError::NotFound("identity provider"))?;
        let sealed = store::identity::client_secret(&mut tx, id).await?;
        drop(tx);
        app.identity.recall(app, &provider.issuer).await?;
        let secret = sealed.map(|sealed| open_secret(app, id, &sealed)).transpose()?;
        Ok(Self { provider, secret, redirect_url: format!("{base}{}", callback_path(id)) })
    }

    fn client<'a>(&'a self, app: &'a App) -> Client<'a> {
        Client {
            provider: &self.provider,
            secret: self.secret.as_deref(),
            redirect_url: &self.redirect_url,
            fetcher: &app.identity.fetcher,
            keys: &app.identity.keys,
            pepper: &app.pepper,
        }
    }
}

fn open_secret(app: &App, id: ProviderId, sealed: &[u8]) -> Result<String> {
    let plain = seal::open(&app.pepper, SECRET_PURPOSE, id.0.as_bytes(), sealed);
    plain
        .and_then(|plain| String::from_utf8(plain).ok())
        .ok_or_else(|| ApiError::internal(format!("the client secret of provider {id} cannot be opened")))
}

/// Where people begin to sign in with a provider.
fn login_path(id: ProviderId) -> String {
    format!("/auth/{id}/login")
}

/// Where a provider returns people to.
fn callback_path(id: ProviderId) -> String {
    format!("/auth/{id}/callback")
}

/// Where a provider tells who signed out.
fn backchannel_path(id: ProviderId) -> String {
    format!("/auth/{id}/backchannel-logout")
}
