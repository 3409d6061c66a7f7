//! A worker: the process that owns the accelerators of one node. It joins the
//! control plane over its internal listener, holds the placements that it is
//! told to, with one engine process for each model version in memory, serves
//! inference to gateways and runs leased lines of jobs.
//!
//! It has no database, no tenant's credential and no state of its own but a
//! cache of model files: killed at any moment and started again, it joins,
//! hears what to hold and goes on.

mod backoff;
mod blobs;
mod contact;
mod devices;
mod engines;
mod folder;
mod holding;
mod jobs;
mod link;
mod load;
mod memory;
mod registry;
mod serve;
mod settings;
mod sync;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::inference::Event;
use domain::workers::JoinRequest;
use rand::Rng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::blobs::Blobs;
use crate::engines::{EngineSettings, Engines};
use crate::folder::Folder;
use crate::holding::Node;
use crate::link::Link;
use crate::registry::Registry;

pub use folder::FolderError;
pub use link::LinkError;
pub use settings::{Deps, JoinToken, Settings};

/// How long what is under way may take when the worker shuts down.
const SHUTDOWN_DRAIN: Duration = Duration::from_secs(10);
/// How long the last report and the end of the engines may take.
const SHUTDOWN_REPORT: Duration = Duration::from_secs(2);
const SHUTDOWN_STOP: Duration = Duration::from_secs(10);
const SHUTDOWN_FLUSH: Duration = Duration::from_secs(1);

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its listener.
    #[error("the worker cannot listen on {address}; set worker.listen to a free address of this machine")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody could reach it.
    #[error(
        "the worker listens on all addresses ({0}); set worker.advertise_url to one that gateways can reach"
    )]
    NoAddress(SocketAddr),
    /// The address of the API.
    #[error("worker.api_url is {0:?}; it must begin with http:// or https://")]
    ApiUrl(String),
    /// The HTTP client.
    #[error("the worker cannot set up its connection to the API")]
    Client(#[from] reqwest::Error),
    /// Not let in.
    #[error("the API at {api_url} refuses this worker; check its join token, name, pool and zone")]
    Join {
        /// Where.
        api_url: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// A defect.
    #[error("a part of the worker ended by itself")]
    Defect(#[source] tokio::task::JoinError),
}

/// Runs a worker until `shutdown`, then drains it.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> Result<(), RunError> {
    let folder = Folder::open(&settings.data_dir)?;
    if !settings.api_url.starts_with("http://") && !settings.api_url.starts_with("https://") {
        return Err(RunError::ApiUrl(settings.api_url));
    }
    let listen = |source| RunError::Listen { address: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let advertised = match &settings.advertise_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if address.ip().is_unspecified() => return Err(RunError::NoAddress(address)),
        None => format!("http://{address}"),
    };
    let join = JoinRequest {
        name: devices::name(&settings),
        pool: settings.pool.clone(),
        zone: settings.zone.clone(),
        address: advertised,
        devices: devices::devices(&settings),
    };
    let link = Arc::new(Link::new(&settings.api_url, join, deps.join_token)?);
    let cache = Blobs::open(folder.blobs(), settings.cache_bytes, Arc::clone(&link), deps.clock)
        .map_err(|source| FolderError::Io { dir: folder.blobs(), source })?;
    let engines = EngineSettings {
        program: deps.program,
        sockets: folder.sockets().to_owned(),
        cores: devices::cores(&settings),
    };
    let node = Arc::new(Node {
        link: Arc::clone(&link),
        registry: Registry::default(),
        engines: Arc::new(Engines::new(engines, Arc::new(cache))),
        tasks: TaskTracker::new(),
        job_lines_at_once: settings.job_lines_at_once,
        orders: watch::Sender::new(0),
    });

    tokio::select! {
        joined = link.join(false) => {
            let api_url = settings.api_url.clone();
            joined.map_err(|source| RunError::Join { api_url, source })?;
        }
        () = shutdown.cancelled() => return Ok(()),
    }
    info!("Serving inference on {address}");
    let stop_serving = CancellationToken::new();
    let serving =
        tokio::spawn(serve::serve(listener, serve::router(Arc::clone(&node)), stop_serving.clone()));
    let mut loops = JoinSet::new();
    loops.spawn(sync::follow_desired(Arc::clone(&node)));
    loops.spawn(sync::report(Arc::clone(&node)));
    loops.spawn(async move { link.keep_joined().await });
    let defect = tokio::select! {
        () = shutdown.cancelled() => None,
        Some(Err(defect)) = loops.join_next() => Some(defect),
    };
    loops.shutdown().await;
    stop_serving.cancel();
    shut_down(&node).await;
    // The ends of the last answers are on their way.
    let _ = tokio::time::timeout(SHUTDOWN_FLUSH, serving).await;
    drop(folder);
    defect.map_or(Ok(()), |defect| Err(RunError::Defect(defect)))
}

/// Says so, finishes what is under way, stops the engines.
async fn shut_down(node: &Node) {
    info!("Shutting down: finishing what is under way");
    node.registry.shut_down();
    let last_report = node.registry.report();
    if !matches!(tokio::time::timeout(SHUTDOWN_REPORT, node.link.report(&last_report)).await, Ok(Ok(()))) {
        info!("The API could not be told of the shutdown; it will notice");
    }
    node.tasks.close();
    if tokio::time::timeout(SHUTDOWN_DRAIN, node.tasks.wait()).await.is_err() {
        warn!("Not everything was finished within {} s; breaking it off", SHUTDOWN_DRAIN.as_secs());
        node.registry.stop_all();
        if tokio::time::timeout(SHUTDOWN_STOP, node.tasks.wait()).await.is_err() {
            warn!("Some engines did not end in time; they end with this process");
        }
    }
}

/// A seed for the spread of retries.
fn seed() -> u64 {
    rand::make_rng::<rand::rngs::SmallRng>().next_u64()
}

/// Counts what an engine has worked.
fn count_tokens(event: &Event) {
    match event {
        Event::Started { prompt_tokens } => {
            metrics::counter!("chancery_worker_tokens_total", "kind" => "prompt")
                .increment(u64::from(*prompt_tokens));
        }
        Event::Text { tokens, .. } => {
            metrics::counter!("chancery_worker_tokens_total", "kind" => "completion")
                .increment(u64::from(*tokens));
        }
        Event::Finished { .. } | Event::Failed { .. } => {}
    }
}
