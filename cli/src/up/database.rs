//! The private PostgreSQL of `up`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use postgres::{Binaries, Options, SUPERUSER, Server, Settings};

use super::console::Console;
use super::folder::Folder;
use super::installation::Installation;
use crate::args::UpOptions;

/// Name of the database, and who logs in to it.
const DATABASE: &str = "chancery";
const OWNER: &str = "chancery_owner";
const APP: &str = "chancery_app";

/// How often it is asked whether it still runs.
const POLL: Duration = Duration::from_millis(500);
/// Starts in a row before it is given up.
const MAX_RESTARTS: u32 = 5;
/// A server that ran this long had started well.
const STEADY: Duration = Duration::from_secs(30);

/// A running server, restarted on the same port when it ends.
pub struct Database {
    /// `None` only while it is being restarted.
    server: Option<Server>,
    options: Options,
}

impl Database {
    /// Finds PostgreSQL, creates the cluster on the first run, starts it.
    pub async fn start(options: &UpOptions, folder: &Folder, console: &Console) -> Result<Self> {
        let binaries = match &options.postgres_bin {
            Some(dir) => Binaries::at(dir)?,
            None => Binaries::find()?,
        };
        let mut options =
            Options { binaries, data_dir: folder.path("postgres"), port: 0, settings: Settings::Durable };
        if !options.data_dir.join("data").exists() {
            console.say(format!("Creating the database (PostgreSQL {})", options.binaries.version()));
        }
        let server = start(&options).await?;
        options.port = server.port();
        console.say(format!("PostgreSQL {} runs on 127.0.0.1:{}", server.binaries().version(), options.port));
        Ok(Self { server: Some(server), options })
    }

    /// Roles, database and schema; repeating it changes nothing.
    pub async fn prepare(&self, installation: &Installation, console: &Console) -> Result<()> {
        let Some(server) = &self.server else { bail!("PostgreSQL is not running") };
        let superuser = server.url(SUPERUSER, "postgres");
        store::migrate::bootstrap(
            &superuser,
            DATABASE,
            &installation.owner_password,
            &installation.app_password,
        )
        .await
        .context("the database cannot be prepared")?;
        store::migrate::migrate(&self.owner_url(installation)).await?;
        console.say(format!("The schema is at {}", store::migrate::latest_version()));
        Ok(())
    }

    /// What processes connect to.
    pub fn app_url(&self, installation: &Installation) -> String {
        self.url(APP, &installation.app_password)
    }

    /// What migrations connect to.
    pub fn owner_url(&self, installation: &Installation) -> String {
        self.url(OWNER, &installation.owner_password)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.options.port
    }

    /// Restarts it when it ends; ends only when that does not help.
    pub async fn watch(&mut self, console: &Console) -> anyhow::Error {
        let mut restarts = 0;
        loop {
            let started = std::time::Instant::now();
            if let Err(error) = self.until_it_ends(console).await {
                return error;
            }
            restarts = if started.elapsed() > STEADY { 1 } else { restarts + 1 };
            if restarts > MAX_RESTARTS {
                return anyhow!(
                    "PostgreSQL ended {restarts} times in a row: see server.log in {}",
                    self.options.data_dir.display()
                );
            }
            match start(&self.options).await {
                Ok(server) => {
                    console.say("PostgreSQL runs again");
                    self.server = Some(server);
                }
                Err(error) => return error,
            }
        }
    }

    async fn until_it_ends(&mut self, console: &Console) -> Result<()> {
        loop {
            let Some(server) = &mut self.server else { return Ok(()) };
            if let Some(status) = server.try_wait()? {
                console.say(format!("PostgreSQL ended ({status}); starting it again"));
                let ended = self.server.take();
                // Waits for its helpers.
                tokio::task::spawn_blocking(move || drop(ended))
                    .await
                    .context("PostgreSQL cannot be cleared away")?;
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends all connections, writes everything, stops.
    pub async fn stop(mut self) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        tokio::task::spawn_blocking(move || server.stop())
            .await
            .context("PostgreSQL cannot be stopped")??;
        Ok(())
    }

    fn url(&self, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{DATABASE}", self.options.port)
    }
}

/// Blocks for seconds, so it does so elsewhere.
async fn start(options: &Options) -> Result<Server> {
    let options = options.clone();
    Ok(tokio::task::spawn_blocking(move || Server::start(&options))
        .await
        .context("PostgreSQL cannot be started")??)
}
