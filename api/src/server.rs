//! Two listeners, public and internal, and what every request passes through.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::access::{self, Operations, Policies, PolicyError};
use crate::problem::{self, ApiError};
use crate::settings::Settings;
use crate::state::{App, Deps};

mod connections;
mod io;
mod observe;

pub use observe::RequestTag;

/// How long background loops may take to end once they are told to.
const BACKGROUND_STOP: Duration = Duration::from_secs(5);

/// Why the API cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port is taken, or not allowed.
    #[error("cannot listen on {address}; choose another address with {setting}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which setting says so.
        setting: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The policies do not fit the operations, or each other.
    #[error("cannot decide who may do what")]
    Policies(#[from] PolicyError),
    /// The client for workers.
    #[error("cannot prepare the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The API, listening.
pub struct Server {
    /// Where people and programs connect.
    pub public_addr: SocketAddr,
    /// Where workers connect.
    pub internal_addr: SocketAddr,
    public: TcpListener,
    internal: TcpListener,
    app: App,
}

/// Listens and serves until `shutdown`, then finishes what runs.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> Result<(), RunError> {
    Server::bind(settings, deps).await?.run(shutdown).await;
    Ok(())
}

impl Server {
    /// Listens; nothing is answered before [`Server::run`].
    pub async fn bind(settings: Settings, deps: Deps) -> Result<Self, RunError> {
        let policies = Policies::load()?;
        Operations::of(&crate::openapi()).check(&policies)?;
        let public = listen(settings.listen, "api.listen").await?;
        let internal = listen(settings.internal_listen, "api.internal_listen").await?;
        let address = |listener: &TcpListener, configured| listener.local_addr().unwrap_or(configured);
        Ok(Self {
            public_addr: address(&public, settings.listen),
            internal_addr: address(&internal, settings.internal_listen),
            public,
            internal,
            app: App::new(settings, deps, policies).map_err(RunError::Client)?,
        })
    }

    /// The state that handlers share.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serves until `shutdown`. Then stops to accept, finishes every request
    /// in flight and what they left to settle, and ends the loops.
    pub async fn run(self, shutdown: CancellationToken) {
        let app = self.app;
        app.background.spawn(crate::changes::run(app.clone()));
        app.background.spawn(crate::gateway::run(app.clone()));
        tracing::info!(
            public = %self.public_addr, internal = %self.internal_addr,
            "Serving on {} and, for workers, on {}", self.public_addr, self.internal_addr
        );
        let draining = app.draining.clone();
        tokio::join!(
            async {
                shutdown.cancelled().await;
                tracing::info!("Stopping: requests in flight are finished");
                draining.cancel();
            },
            connections::serve(self.public, public_router(&app), &app, "public"),
            connections::serve(self.internal, internal_router(&app), &app, "internal"),
        );
        let drain = Duration::from_secs(app.settings.drain_timeout_secs);
        app.tasks.close();
        if tokio::time::timeout(drain, app.tasks.wait()).await.is_err() {
            tracing::warn!("{} tasks did not finish in {drain:?} and were dropped", app.tasks.len());
        }
        app.stopped.cancel();
        app.background.close();
        if tokio::time::timeout(BACKGROUND_STOP, app.background.wait()).await.is_err() {
            tracing::warn!("{} background loops did not end in {BACKGROUND_STOP:?}", app.background.len());
        }
    }
}

async fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, setting, source })
}

/// The router of the public listener.
pub(crate) fn public_router(app: &App) -> Router {
    let (router, document) = crate::openapi::routes().split_for_parts();
    let mut document = crate::openapi::finish(document);
    if !app.settings.public_url.is_empty() {
        document.servers = Some(vec![utoipa::openapi::Server::new(&app.settings.public_url)]);
    }
    let operations = Operations::of(&document);
    let router = router
        .merge(crate::portal::router(&document))
        .fallback(|| async { ApiError::NotFound("path") })
        .layer(middleware::from_fn_with_state((app.clone(), operations), access::control));
    layers(router, app)
}

/// The router of the internal listener.
pub(crate) fn internal_router(app: &App) -> Router {
    let (router, _) = crate::internal::router().split_for_parts();
    layers(router.fallback(|| async { ApiError::NotFound("path") }), app)
}

/// What every request passes through, innermost first.
fn layers(router: Router<App>, app: &App) -> Router {
    let settings = &app.settings;
    router
        .layer(DefaultBodyLimit::max(settings.max_body_bytes))
        .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(settings.body_idle_timeout_secs)))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a value that is no text");
            ApiError::internal(format!("a handler panicked: {what}")).into_response()
        }))
        .layer(middleware::from_fn(problem::render))
        .layer(middleware::from_fn(harden))
        .layer(middleware::from_fn(observe::observe))
        .with_state(app.clone())
}

/// Headers that keep browsers from guessing, framing and storing. The portal's
/// assets say themselves how long they may be kept.
async fn harden(request: Request, next: Next) -> Response {
    const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut default = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(
        CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    );
    default(REFERRER_POLICY, "no-referrer");
    default(PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=()");
    default(CACHE_CONTROL, "no-store");
    response
}
