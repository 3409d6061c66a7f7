//! A database with durable commits, and the scheduler's own loop on it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::Clock;
use domain::certificates::SigningKey;
use domain::keys::Pepper;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::sql;

const DATABASE: &str = "chancery";
const CONNECTIONS: u32 = 12;
/// How long it may take until somebody leads, and time between two looks.
const LEAD_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A fresh installation of the control plane, gone when dropped.
pub struct Platform {
    /// As processes have it.
    pub store: Store,
    server: postgres::Server,
    folder: tempfile::TempDir,
}

impl Platform {
    /// Starts PostgreSQL and applies every migration.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = postgres::Server::start(&postgres::Options {
            binaries: postgres::Binaries::find()?,
            data_dir: folder.path().join("postgres"),
            port: 0,
            settings: postgres::Settings::Durable,
        })?;
        let admin = server.url(postgres::SUPERUSER, "postgres");
        store::migrate::bootstrap(&admin, DATABASE, "owner", "app").await?;
        let url = |role: &str, password: &str| {
            format!("postgres://{role}:{password}@127.0.0.1:{}/{DATABASE}", server.port())
        };
        store::migrate::migrate(&url("chancery_owner", "owner")).await?;
        let store = Store::connect(&url("chancery_app", "app"), CONNECTIONS).await?;
        Ok(Self { store, server, folder })
    }

    /// A connection that no policy binds.
    pub async fn superuser(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.server.url(postgres::SUPERUSER, DATABASE)).await?)
    }

    /// Starts a scheduler, which leads at once.
    pub fn schedule(&self, settings: scheduler::Settings) -> Result<Scheduling> {
        let deps = scheduler::Deps {
            store: self.store.clone(),
            objects: store::objects::Objects::local(&self.folder.path().join("objects"))?,
            clock: Clock::system(),
            signing_key: SigningKey::derive(&Pepper::new([1; 32])),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(scheduler::run(settings, deps, stop.clone()));
        Ok(Scheduling { stop, task })
    }

    /// Waits until a scheduler leads.
    pub async fn led(&self) -> Result<()> {
        let mut su = self.superuser().await?;
        let deadline = Instant::now() + LEAD_LIMIT;
        while sql::execute(&mut su, "SELECT FROM leadership WHERE epoch > 0", &[]).await?.is_empty() {
            ensure!(Instant::now() < deadline, "nobody leads after {LEAD_LIMIT:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Fails where the quota ledger is not what the placements add up to.
    pub async fn check_ledger(&self) -> Result<()> {
        let differences = store::quotas::differences(&self.store).await?;
        ensure!(differences.is_empty(), "the ledger differs: {differences:?}");
        Ok(())
    }
}

/// A scheduler that runs.
pub struct Scheduling {
    stop: CancellationToken,
    task: JoinHandle<Result<(), scheduler::RunError>>,
}

impl Scheduling {
    /// Fails if it ended by itself.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.task.is_finished(), "the scheduler ended by itself");
        Ok(())
    }

    /// Ends it.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.task.await?.context("the scheduler failed")
    }
}
