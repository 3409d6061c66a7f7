//! The clone we work on, and how its commands are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

use crate::cache::Cache;

/// What `cargo run` tells us about xtask, which other packages must not inherit.
const OURS: [&str; 5] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// A clone and the cache that it shares with other clones.
pub struct Project {
    /// The folder of the workspace.
    pub root: PathBuf,
    /// Where the person who called us is.
    pub called_from: PathBuf,
    /// What survives the clone.
    pub cache: Cache,
    target: PathBuf,
}

impl Project {
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().context("xtask lies in the workspace")?;
        let root = fs::canonicalize(root).with_context(|| format!("cannot open {}", root.display()))?;
        let called_from = env::current_dir().context("cannot find the current folder")?;
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| called_from.join(dir));
        Ok(Self { root, called_from, cache: Cache::locate()?, target })
    }

    /// A file or folder of the clone.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where cargo puts what it builds for us.
    pub fn target(&self, relative: &str) -> PathBuf {
        self.target.join(relative)
    }

    /// A command at the root of the clone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            if OURS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Cargo, with queries checked against `.sqlx`: no database is needed.
    pub fn cargo(&self) -> Command {
        let mut command = self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.env("SQLX_OFFLINE", "true");
        if self.cache.moved() {
            command.env("CARGO_BUILD_BUILD_DIR", self.cache.build());
        }
        if in_ci() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }
}

/// CI starts from nothing each time: what speeds up the next edit only costs there.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
