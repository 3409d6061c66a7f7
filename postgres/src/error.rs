//! What can go wrong, each as one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why there is no running PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No usable PostgreSQL on this machine.
    #[error(
        "PostgreSQL 15 or newer is not installed: install it (Debian, Ubuntu: `apt-get install postgresql`; \
         Fedora: `dnf install postgresql-server`) or set CHANCERY_POSTGRES_BIN to the folder of its programs"
    )]
    NotInstalled,
    /// A folder that was named holds no usable PostgreSQL.
    #[error("{} holds no PostgreSQL 15 or newer (programs `postgres` and `initdb`): name another folder", .0.display())]
    NotUsable(PathBuf),
    /// Neither way of installing worked.
    #[error("PostgreSQL could not be installed ({0}): install PostgreSQL 15 or newer by hand")]
    Install(String),
    /// Root, and no account to step down to.
    #[error("PostgreSQL refuses to run as root and there is no account `postgres` or `nobody`: create one")]
    NoAccount,
    /// The account of the server cannot get to its own files.
    #[error(
        "PostgreSQL runs as `{account}`, which cannot enter {}: choose another folder than {}, \
         or let others pass through with `chmod o+x {}`", blocked.display(), wanted.display(), blocked.display()
    )]
    Unreachable {
        /// The account the server runs as.
        account: String,
        /// The folder that is closed to it.
        blocked: PathBuf,
        /// Where it should have got to.
        wanted: PathBuf,
    },
    /// Another process of ours holds the folder.
    #[error("another Chancery is using {}: stop it first, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// A PostgreSQL left behind by a killed process does not end.
    #[error("a PostgreSQL (process {pid}) is still running in {} and does not stop: end it with `kill -QUIT {pid}`", data_dir.display())]
    Orphan {
        /// Its process.
        pid: u32,
        /// Its folder.
        data_dir: PathBuf,
    },
    /// The port that was asked for is taken.
    #[error(
        "port {0} is in use: stop what listens there (`ss -ltnp 'sport = :{0}'` names it) or choose another port"
    )]
    PortInUse(u16),
    /// No space.
    #[error("the disk that holds {} is full: free some space and start again", .0.display())]
    DiskFull(PathBuf),
    /// The data belongs to another major version.
    #[error(
        "{} was written by PostgreSQL {data}, and only version {found} is here: install PostgreSQL {data} \
         or set CHANCERY_POSTGRES_BIN to the folder of its programs", data_dir.display()
    )]
    Version {
        /// The folder.
        data_dir: PathBuf,
        /// Major version that wrote it.
        data: u32,
        /// Major version that was to be started.
        found: u32,
    },
    /// The password of an existing cluster is gone.
    #[error("{} is missing, without it nobody can sign in to the database beside it: restore it from a backup", .0.display())]
    PasswordLost(PathBuf),
    /// `initdb` failed.
    #[error("a new database could not be created in {}; PostgreSQL says:\n{output}", data_dir.display())]
    Create {
        /// The folder.
        data_dir: PathBuf,
        /// The last lines of `initdb`.
        output: String,
    },
    /// The server ended, or was not ready in time.
    #[error("PostgreSQL did not start in {}; the end of its log:\n{log}", data_dir.display())]
    Start {
        /// The folder.
        data_dir: PathBuf,
        /// The last lines of its log.
        log: String,
    },
    /// A file, folder or process.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What PostgreSQL and the kernel print when there is no space left.
const NO_SPACE: &str = "No space left on device";

impl PostgresError {
    /// For `map_err`: names the act and its object, and recognises a full disk.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path.to_path_buf()),
            _ => Self::Io { doing, path: path.to_path_buf(), source },
        }
    }

    /// A full disk, if the output says so; otherwise what `otherwise` makes of it.
    pub(crate) fn from_output(
        data_dir: &Path,
        output: String,
        otherwise: impl FnOnce(PathBuf, String) -> Self,
    ) -> Self {
        if output.contains(NO_SPACE) {
            Self::DiskFull(data_dir.to_path_buf())
        } else {
            otherwise(data_dir.to_path_buf(), output)
        }
    }
}
