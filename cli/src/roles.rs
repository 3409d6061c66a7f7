//! The roles as processes: settings, log, metrics, an orderly end.

mod engine;
mod supervised;

pub use engine::run as engine;

use anyhow::{Context, Result};
use domain::Clock;
use domain::certificates::SigningKey;
use store::Store;
use store::objects::Objects;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::config::Config;
use crate::errors::because;
use crate::{runtime, telemetry};

/// Threads of the API, if the machine has as many cores.
const MOST_API_THREADS: usize = 8;

/// A part of the system that is a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// REST, inference, portal.
    Api,
    /// Places work.
    Scheduler,
    /// Owns this machine's accelerators.
    Worker,
    /// Brings the database to the present schema.
    Migrate,
}

impl Role {
    /// Its subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Migrate => "migrate",
        }
    }

    fn threads(self) -> usize {
        match self {
            Self::Api => {
                std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, MOST_API_THREADS))
            }
            _ => crate::FEW_THREADS,
        }
    }
}

/// Runs a role until it is told to stop.
pub fn run(role: Role, global: &Global) -> Result<()> {
    let config = Config::load(global.config.as_deref())?;
    telemetry::log(&config.log)?;
    let shutdown = CancellationToken::new();
    let _held = match &global.supervised {
        Some(lock) => Some(supervised::begin(lock, shutdown.clone())?),
        None => None,
    };
    let result = runtime(role.threads())?.block_on(async {
        stop_on_signals(shutdown.clone())?;
        match role {
            Role::Api => api(config, shutdown).await,
            Role::Scheduler => scheduler(config, shutdown).await,
            Role::Worker => worker(config, shutdown).await,
            Role::Migrate => migrate(&config).await,
        }
    });
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "The {} ends", role.name());
    }
    result
}

async fn api(config: Config, shutdown: CancellationToken) -> Result<()> {
    telemetry::metrics(config.metrics.api_listen)?;
    let deps = api::Deps {
        store: connect(&config).await?,
        objects: objects(&config)?,
        clock: Clock::system(),
        pepper: config.secrets.pepper()?,
        join_token: config.secrets.join_token()?,
    };
    Ok(api::run(config.api, deps, shutdown).await?)
}

async fn scheduler(config: Config, shutdown: CancellationToken) -> Result<()> {
    telemetry::metrics(config.metrics.scheduler_listen)?;
    let deps = scheduler::Deps {
        store: connect(&config).await?,
        objects: objects(&config)?,
        clock: Clock::system(),
        signing_key: SigningKey::derive(&config.secrets.pepper()?),
    };
    Ok(scheduler::run(config.scheduler, deps, shutdown).await?)
}

async fn worker(config: Config, shutdown: CancellationToken) -> Result<()> {
    telemetry::metrics(config.metrics.worker_listen)?;
    let deps = worker::Deps {
        clock: Clock::system(),
        join_token: config.secrets.join_token()?.into(),
        program: std::env::current_exe().context("cannot find this program itself")?,
    };
    Ok(worker::run(config.worker, deps, shutdown).await?)
}

async fn migrate(config: &Config) -> Result<()> {
    store::migrate::migrate(&config.database.owner_url()?)
        .await
        .map_err(|e| because("cannot migrate the database of database.owner_url_file", e))?;
    tracing::info!("The database has the schema {}", store::migrate::latest_version());
    Ok(())
}

async fn connect(config: &Config) -> Result<Store> {
    let store = open(config, config.database.connections).await?;
    match store.system().await {
        Err(e) if !e.is_transient() => {
            Err(e).context("the database is not prepared: run `chancery migrate` first")
        }
        _ => Ok(store),
    }
}

/// Connects, or says why not.
pub(crate) async fn open(config: &Config, connections: u32) -> Result<Store> {
    Store::connect(&config.database.url()?, connections)
        .await
        .map_err(|e| because("cannot connect to the database of database.url_file", e))
}

fn objects(config: &Config) -> Result<Objects> {
    let dir = &config.objects.dir;
    Objects::local(dir).with_context(|| format!("cannot keep objects in {}; see objects.dir", dir.display()))
}

/// The first SIGTERM or Ctrl-C asks for an orderly end, the second ends at once.
fn stop_on_signals(shutdown: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    tokio::spawn(async move {
        for stops in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stops > 0 {
                std::process::exit(130);
            }
            tracing::info!("Stopping");
            shutdown.cancel();
        }
    });
    Ok(())
}
