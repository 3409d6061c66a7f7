//! Who the server runs as: PostgreSQL refuses root, so root steps down.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User, chown, geteuid};

use crate::PostgresError;

/// Accounts that root steps down to, best first.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged account for the server; only root has one.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` for an ordinary user, whose server runs as themselves. For root
    /// the owner of `data`, if there are data already, else a candidate.
    pub fn for_data(data: &Path) -> Result<Option<Self>, PostgresError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let owner = fs::metadata(data).ok().map(|found| found.uid()).filter(|uid| *uid != 0);
        let user = match owner {
            Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            None => CANDIDATES.iter().find_map(|name| User::from_name(name).ok().flatten()),
        };
        let user = user.ok_or(PostgresError::NoAccount)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Makes `command` run as this account, without root's groups.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives `path` to this account.
    pub fn give(&self, path: &Path) -> Result<(), PostgresError> {
        chown(path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .map_err(|error| PostgresError::io("change the owner of", path)(error.into()))
    }

    /// The first folder on the way to `path` that this account may not enter.
    /// `path` itself is not asked: it will be the account's own.
    pub fn blocked_on_the_way_to(&self, path: &Path) -> Option<PathBuf> {
        let mut parents: Vec<_> = path.ancestors().skip(1).filter(|at| !at.as_os_str().is_empty()).collect();
        parents.reverse();
        parents
            .into_iter()
            .find(|at| fs::metadata(at).is_ok_and(|found| !self.may_enter(&found)))
            .map(Path::to_path_buf)
    }

    fn may_enter(&self, folder: &Metadata) -> bool {
        let bit = match () {
            () if folder.uid() == self.uid => 0o100,
            () if folder.gid() == self.gid => 0o010,
            () => 0o001,
        };
        folder.mode() & bit != 0
    }
}
