//! What makes this installation itself: secrets, settings, the administrator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use domain::Clock;
use domain::keys::{CredentialKind, mint};
use store::Store;

use super::console::Console;
use super::database::Database;
use super::folder::{Folder, ROLES};
use super::{ports, sample};
use crate::args::UpOptions;
use crate::client::settings::CLIENT_FILE;
use crate::config::{ClientSettings, Config};
use crate::roles::Role;
use crate::{files, random};

/// Who may do everything.
pub const ADMIN: &str = "admin@localhost";
/// File with that password.
pub const ADMIN_PASSWORD: &str = "admin-password";
/// Settings of the child processes.
const SETTINGS: &str = "chancery.toml";
/// Name of the one worker. Not the host's, so that the machine may be renamed.
const WORKER: &str = "local";

/// Paths of everything in the data folder.
#[derive(Debug)]
pub struct Installation {
    root: PathBuf,
    /// Settings of the child processes.
    pub settings_file: PathBuf,
    /// File with the administrator's password.
    pub admin_password_file: PathBuf,
    /// File with the sample ministry's key.
    pub sample_key_file: PathBuf,
    /// Lock and log of each role.
    pub roles: Vec<(Role, PathBuf, PathBuf)>,
    /// Password of the role that owns the tables.
    pub owner_password: String,
    /// Password of the role that processes log in as.
    pub app_password: String,
}

impl Installation {
    /// Reads the secrets, making those that are missing.
    pub fn prepare(folder: &Folder) -> Result<Self> {
        ensure_secret(&folder.path("secrets/pepper"), || Ok(hex::encode(random::<32>()?)))?;
        ensure_secret(&folder.path("secrets/join-token"), || Ok(mint(CredentialKind::Join, random()?)))?;
        ensure_secret(&folder.path(ADMIN_PASSWORD), || Ok(hex::encode(random::<16>()?)))?;
        let password = |name| ensure_secret(&folder.path(name), || Ok(hex::encode(random::<24>()?)));
        Ok(Self {
            root: folder.path(""),
            settings_file: folder.path(SETTINGS),
            admin_password_file: folder.path(ADMIN_PASSWORD),
            sample_key_file: folder.path(sample::KEY_FILE),
            roles: ROLES.map(|role| (role, folder.role_lock(role), folder.role_log(role))).to_vec(),
            owner_password: password("secrets/database-owner-password")?,
            app_password: password("secrets/database-app-password")?,
        })
    }

    /// Decides what is `up`'s to decide, and writes it all down for the child
    /// processes and for the commands.
    pub fn configure(&self, config: &mut Config, database: &Database, options: &UpOptions) -> Result<()> {
        let at = |name: &str| self.root.join(name);
        let (app, owner) = (at("secrets/database-url"), at("secrets/database-owner-url"));
        files::write_private(&app, &database.app_url(self))?;
        files::write_private(&owner, &database.owner_url(self))?;
        config.database.url_file = Some(app);
        config.database.owner_url_file = Some(owner);
        config.objects.dir = at("objects");
        config.secrets.pepper_file = Some(at("secrets/pepper"));
        config.secrets.join_token_file = Some(at("secrets/join-token"));

        let kept = Config::load_with(Some(&self.settings_file), &Default::default()).ok();
        let kept = |address: fn(&Config) -> SocketAddr| kept.as_ref().map(address);
        let mut taken = vec![config.api.listen.port(), database.port()];
        config.api.internal_listen = ports::keep_or_choose(kept(|c| c.api.internal_listen), &mut taken)?;
        config.metrics.api_listen = ports::keep_or_choose(kept(|c| c.metrics.api_listen), &mut taken)?;
        config.metrics.scheduler_listen =
            ports::keep_or_choose(kept(|c| c.metrics.scheduler_listen), &mut taken)?;
        config.metrics.worker_listen = ports::keep_or_choose(kept(|c| c.metrics.worker_listen), &mut taken)?;

        config.worker.api_url = ports::url_of(config.api.internal_listen);
        config.worker.data_dir = at("worker");
        if config.worker.name.is_none() {
            config.worker.name = Some(WORKER.parse().context("a constant short name")?);
        }
        if let Some(dir) = options.sample_model.as_deref().map(Path::new).and_then(folder_of) {
            config.api.model_import_dirs.push(dir);
        }
        config.client = ClientSettings {
            server: Some(ports::url_of(config.api.listen)),
            key_file: (!options.no_sample || self.sample_key_file.exists())
                .then(|| self.sample_key_file.clone()),
            login: Some(ADMIN.to_owned()),
            password_file: Some(self.admin_password_file.clone()),
            tenant: (!options.no_sample || self.sample_key_file.exists()).then(|| sample::TENANT.to_owned()),
        };
        files::write_private(&self.settings_file, &config.to_toml()?)?;
        let client = toml::to_string(&config.client).context("the settings cannot be written as TOML")?;
        files::write_private(&at(CLIENT_FILE), &format!("[client]\n{client}"))
    }

    /// Creates the administrator on the first run.
    pub async fn ensure_admin(&self, config: &Config, console: &Console) -> Result<()> {
        let password = files::read_secret(&self.admin_password_file)?;
        let store =
            Store::connect(&config.database.url()?, 1).await.context("cannot connect to the database")?;
        let outcome =
            api::bootstrap_admin(&store, &Clock::system(), ADMIN, &password, api::FirstPassword::Stays).await;
        store.close().await;
        if outcome.context("the administrator cannot be created")? == api::AdminOutcome::Created {
            console.say(format!("Created the administrator {ADMIN}"));
        }
        Ok(())
    }
}

/// The folder of a file, without links.
fn folder_of(file: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(file).ok()?.parent().map(Path::to_path_buf)
}

/// The secret in a file, which is made if it is missing.
fn ensure_secret(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    if path.exists() {
        return files::read_secret(path);
    }
    let secret = make()?;
    files::write_private(path, &format!("{secret}\n"))?;
    Ok(secret)
}
