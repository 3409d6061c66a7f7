//! The data folder.
//!
//! ```text
//! .chancery/            0700, started by root 0711: PostgreSQL's account must pass
//!   admin-password      of admin@localhost
//!   interior-key        API key of the sample ministry
//!   client.toml         where the commands find API and credentials
//!   chancery.toml       settings of the child processes, written at each start
//!   secrets/            pepper, join token, passwords and URLs of the database
//!   postgres/ objects/ worker/ logs/ run/
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::Console;
use crate::files::{self, Lock};
use crate::roles::Role;

/// Roles that `up` runs, in the order of their start.
pub const ROLES: [Role; 3] = [Role::Api, Role::Scheduler, Role::Worker];
/// Processes of an `up` that was killed drain before they end.
const EARLIER_RUN_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The data folder, held by this process.
#[derive(Debug)]
pub struct Folder {
    given: PathBuf,
    root: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// Creates what is missing and takes the lock.
    pub async fn open(given: &Path, console: &Console) -> Result<Self> {
        files::private_dir(given)?;
        let root = fs::canonicalize(given).with_context(|| format!("cannot open {}", given.display()))?;
        let mode = if nix::unistd::geteuid().is_root() { 0o711 } else { 0o700 };
        fs::set_permissions(&root, Permissions::from_mode(mode))
            .with_context(|| format!("cannot close {} to others", given.display()))?;
        for name in ["secrets", "objects", "worker", "logs", "run"] {
            files::private_dir(&root.join(name))?;
        }
        let path = root.join("run/up.lock");
        let Some(mut lock) = Lock::try_take(&path)? else {
            let pid = files::read_trimmed(&path).unwrap_or_default();
            bail!(
                "another `chancery up` (process {pid}) is using {}: stop it first, \
                 or choose another folder with --data-dir",
                given.display()
            );
        };
        // Only a help for whoever finds the lock held.
        let _ = lock.note(&std::process::id().to_string());
        let folder = Self { given: given.to_owned(), root, _lock: lock };
        folder.wait_for_earlier_run(console).await?;
        Ok(folder)
    }

    /// An absolute path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path inside as the user would write it.
    pub fn shown(&self, name: &str) -> String {
        self.given.join(name).display().to_string()
    }

    /// The folder as the user named it.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// The lock that a role holds while it runs.
    pub fn role_lock(&self, role: Role) -> PathBuf {
        self.root.join(format!("run/{}.lock", role.name()))
    }

    /// The log of a role.
    pub fn role_log(&self, role: Role) -> PathBuf {
        self.root.join(format!("logs/{}.log", role.name()))
    }

    async fn wait_for_earlier_run(&self, console: &Console) -> Result<()> {
        let deadline = Instant::now() + EARLIER_RUN_LIMIT;
        for role in ROLES {
            let mut told = false;
            while Lock::try_take(&self.role_lock(role))?.is_none() {
                if !told {
                    console.say(format!("Waiting for the {} of an earlier run to end", role.name()));
                    told = true;
                }
                if Instant::now() > deadline {
                    bail!(
                        "the {} of an earlier run does not end: find it with `pgrep -af 'chancery.*{}'` and kill it",
                        role.name(),
                        role.name()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}
