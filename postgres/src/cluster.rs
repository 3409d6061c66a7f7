//! The folder of a server: created once, then only ever read by us.
//!
//! ```text
//! data_dir/                 the server's account, mode 0700
//!   data/                   what initdb makes
//!   socket/                 the Unix socket, if the path is short enough
//!   server.log              what the server prints
//!   superuser-password      the caller's, mode 0600
//!   lock                    held while a server of ours runs here
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::{PostgresError, output};

/// The role that owns the cluster.
pub const SUPERUSER: &str = "postgres";

/// Where root keeps data whose own folder the server's account cannot reach.
const SHARED_STATE: &str = "/var/lib/chancery";

/// Random bytes in the superuser's password, which is their hexadecimal form.
const PASSWORD_BYTES: usize = 24;

/// Everyone signs in with a password; nobody comes from another machine.
const HBA: &str = "\
# Written by Chancery when the cluster was created.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
";

/// How much the data matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// A crash, also of the machine, loses nothing that was committed.
    Durable,
    /// For tests: fast, and gone after a crash of the machine.
    Throwaway,
}

/// Settings of every server, over `postgresql.conf`: what it prints must not
/// hold statements or rows.
const ALWAYS: [&str; 9] = [
    "listen_addresses=127.0.0.1",
    "password_encryption=scram-sha-256",
    "unix_socket_permissions=0700",
    "log_destination=stderr",
    "logging_collector=off",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_timezone=UTC",
    "timezone=UTC",
];

impl Settings {
    /// Given to `postgres` as `-c`.
    pub(crate) fn server(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::Durable => &["fsync=on", "synchronous_commit=on", "full_page_writes=on"],
            Self::Throwaway => &[
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "wal_level=minimal",
                "max_wal_senders=0",
                "max_connections=300",
                "autovacuum_naptime=1h",
            ],
        };
        ALWAYS.iter().chain(own).copied()
    }

    fn initdb(self) -> &'static [&'static str] {
        match self {
            Self::Durable => &["--data-checksums"],
            Self::Throwaway => &["--no-sync"],
        }
    }
}

/// A cluster on disk, locked for this process.
pub(crate) struct Cluster {
    /// The folder, as an absolute path without links.
    pub root: PathBuf,
    pub account: Option<Account>,
    pub binaries: Binaries,
    pub password: String,
    /// Released by the kernel when this process ends, however it ends.
    _lock: File,
}

impl Cluster {
    /// Opens the cluster in `data_dir`, creating what is missing.
    pub fn open(data_dir: &Path, binaries: &Binaries, settings: Settings) -> Result<Self, PostgresError> {
        make_private_dir(data_dir)?;
        let found = fs::canonicalize(data_dir).map_err(PostgresError::io("open", data_dir))?;
        let account = Account::for_data(&found.join("data"))?;
        let root = match &account {
            Some(account) => place(data_dir, found, account, settings)?,
            None => found,
        };
        let lock = lock(&root)?;
        let data = root.join("data");
        crate::postmaster::stop_orphan(&data)?;

        let password_file = root.join("superuser-password");
        let mut cluster =
            Self { root, account, binaries: binaries.clone(), password: String::new(), _lock: lock };
        if data.join("PG_VERSION").is_file() {
            cluster.binaries = matching(&data, binaries)?;
            cluster.password = fs::read_to_string(&password_file)
                .map_err(|_| PostgresError::PasswordLost(password_file))?
                .trim()
                .to_owned();
        } else {
            cluster.password = random_hex::<PASSWORD_BYTES>();
            write_private(&password_file, &cluster.password)?;
            cluster.create(settings)?;
        }
        Ok(cluster)
    }

    /// What initdb makes.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// A program of PostgreSQL, as the server's account, in a clean environment:
    /// variables such as `PGPORT` of whoever starts us must change nothing.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(&self.root).stdin(Stdio::null());
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        command
    }

    /// Gives a path that this process made to the server's account.
    pub fn give(&self, path: &Path) -> Result<(), PostgresError> {
        self.account.as_ref().map_or(Ok(()), |account| account.give(path))
    }

    /// Builds the cluster beside its final place, so that one which was cut off
    /// in the middle is never mistaken for data.
    fn create(&self, settings: Settings) -> Result<(), PostgresError> {
        let (unfinished, pwfile) = (self.root.join("data.new"), self.root.join("initdb-password"));
        remove(&unfinished)?;
        write_private(&pwfile, &self.password)?;
        self.give(&pwfile)?;
        let output = self
            .command("initdb")
            .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"])
            .args(settings.initdb())
            .arg(format!("--username={SUPERUSER}"))
            .args([std::ffi::OsStr::new("--pwfile"), pwfile.as_os_str()])
            .args([std::ffi::OsStr::new("--pgdata"), unfinished.as_os_str()])
            .output();
        remove(&pwfile)?;
        let output = output.map_err(PostgresError::io("run", &self.binaries.program("initdb")))?;
        if !output.status.success() {
            let text = output::tail_of(&[output.stdout, output.stderr].concat());
            remove(&unfinished)?;
            return Err(PostgresError::from_output(&self.root, text, |data_dir, output| {
                PostgresError::Create { data_dir, output }
            }));
        }
        let hba = unfinished.join("pg_hba.conf");
        fs::write(&hba, HBA).map_err(PostgresError::io("write", &hba))?;
        fs::rename(&unfinished, self.data()).map_err(PostgresError::io("rename", &unfinished))
    }
}

/// Makes `found` usable by root's unprivileged account. A folder under a closed
/// one (a clone in /root) cannot be: then the data go to a place that can, and
/// `data_dir` becomes a link to it.
fn place(
    data_dir: &Path,
    found: PathBuf,
    account: &Account,
    settings: Settings,
) -> Result<PathBuf, PostgresError> {
    let Some(blocked) = account.blocked_on_the_way_to(&found) else {
        account.give(&found)?;
        return Ok(found);
    };
    let is_empty = fs::read_dir(&found).map_err(PostgresError::io("read", &found))?.next().is_none();
    if settings == Settings::Throwaway || !is_empty {
        return Err(PostgresError::Unreachable { account: account.name.clone(), blocked, wanted: found });
    }
    let elsewhere = Path::new(SHARED_STATE).join(format!("postgres-{}", random_hex::<8>()));
    fs::create_dir_all(SHARED_STATE).map_err(PostgresError::io("create", Path::new(SHARED_STATE)))?;
    make_private_dir(&elsewhere)?;
    account.give(&elsewhere)?;
    fs::remove_dir(&found).map_err(PostgresError::io("remove", &found))?;
    symlink(&elsewhere, data_dir).map_err(PostgresError::io("link", data_dir))?;
    Ok(elsewhere)
}

fn lock(root: &Path) -> Result<File, PostgresError> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(PostgresError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(PostgresError::InUse(root.to_path_buf())),
        Err(fs::TryLockError::Error(error)) => Err(PostgresError::io("lock", &path)(error)),
    }
}

/// Programs of the version that wrote `data`.
fn matching(data: &Path, binaries: &Binaries) -> Result<Binaries, PostgresError> {
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(PostgresError::io("read", &path))?;
    let major = text.trim().parse().unwrap_or(0);
    binaries.of_major(major).ok_or_else(|| PostgresError::Version {
        data_dir: data.to_path_buf(),
        data: major,
        found: binaries.major(),
    })
}

/// A folder for its owner alone, and its parents as the umask has them.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), PostgresError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(PostgresError::io("create", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.map_err(PostgresError::io("create", path)),
    }
}

/// Replaces a file by one that its owner alone may read.
fn write_private(path: &Path, text: &str) -> Result<(), PostgresError> {
    remove(path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(PostgresError::io("write", path))
}

/// Removes a file or a whole folder, or nothing.
pub(crate) fn remove(path: &Path) -> Result<(), PostgresError> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PostgresError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// `N` random bytes in hexadecimal.
#[expect(
    clippy::disallowed_methods,
    reason = "names and passwords must not repeat, and nothing depends on them"
)]
pub(crate) fn random_hex<const N: usize>() -> String {
    rand::random::<[u8; N]>().iter().map(|byte| format!("{byte:02x}")).collect()
}
