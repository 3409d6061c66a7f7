//! A running server: ready when `start` returns, stopped when dropped.

use std::env;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PostgresError;
use crate::account::Account;
use crate::binaries::Binaries;
use crate::cluster::{self, Cluster, SUPERUSER, Settings};
use crate::output::Log;
use crate::postmaster::{POLL, is_ready};

/// Replaying the log after a power cut takes minutes on a large database.
const DURABLE_START_LIMIT: Duration = Duration::from_secs(600);
const THROWAWAY_START_LIMIT: Duration = Duration::from_secs(60);

/// A fast shutdown writes a checkpoint; then patience ends.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Between choosing a free port and binding it somebody may take it.
const PORT_TRIES: usize = 5;

/// Longest path of a Unix socket, and the name that PostgreSQL adds to the folder.
const MAX_SOCKET_PATH: usize = 107;
const SOCKET_NAME: &str = "/.s.PGSQL.65535";

/// Waits until its standard input closes, which it does when we end, however
/// that happens; then ends the server if it is still the same one, and removes
/// the folder if one is named.
const GUARD: &str = r#"cat >/dev/null
if [ "$(head -n 1 "$1/postmaster.pid" 2>/dev/null)" = "$2" ]; then
  kill -s "$3" "$2"
  while kill -0 "$2" 2>/dev/null; do sleep 0.1; done
fi
[ -z "$4" ] || rm -rf -- "$4""#;

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its programs. If `data_dir` was written by another major version, that
    /// version is used, if this machine has it.
    pub binaries: Binaries,
    /// Its folder, created if missing. Started by root under a folder that is
    /// closed to others, the data go to `/var/lib/chancery` and this is a link.
    pub data_dir: PathBuf,
    /// Its port on 127.0.0.1; 0 chooses a free one.
    pub port: u16,
    /// How much the data matter.
    pub settings: Settings,
}

/// A PostgreSQL server that ends with this value, or with this process.
pub struct Server {
    child: Child,
    guard: Child,
    log: Log,
    cluster: Arc<Cluster>,
    socket_dir: PathBuf,
    port: u16,
    /// Removed after the server has ended: the socket's folder if it lies
    /// outside the cluster, and of a throwaway the cluster itself.
    temporary: Vec<TemporaryDir>,
}

impl Server {
    /// Creates the cluster if `data_dir` is empty, starts the server and waits
    /// until it takes connections. A server that a killed process left behind
    /// in the same folder is stopped first.
    ///
    /// # Errors
    /// Says in one sentence why not: see [`PostgresError`].
    pub fn start(options: &Options) -> Result<Self, PostgresError> {
        Self::start_in(options, Path::new(""))
    }

    /// A server for tests, in a temporary folder that is removed with it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn throwaway(binaries: &Binaries) -> Result<Self, PostgresError> {
        let dir = TemporaryDir::create()?;
        let options = Options {
            binaries: binaries.clone(),
            data_dir: dir.0.clone(),
            port: 0,
            settings: Settings::Throwaway,
        };
        let mut server = Self::start_in(&options, &dir.0)?;
        server.temporary.push(dir);
        Ok(server)
    }

    /// `remove`: a folder that the guard removes when this process is killed.
    fn start_in(options: &Options, remove: &Path) -> Result<Self, PostgresError> {
        let cluster = Arc::new(Cluster::open(&options.data_dir, &options.binaries, options.settings)?);
        let mut tries = if options.port == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let port = if options.port == 0 { free_port()? } else { options.port };
            let mut server = Self::spawn(Arc::clone(&cluster), port, options.settings, remove)?;
            match server.wait_until_ready(options.settings) {
                Ok(()) => return Ok(server),
                Err(PostgresError::PortInUse(_)) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(
        cluster: Arc<Cluster>,
        port: u16,
        settings: Settings,
        remove: &Path,
    ) -> Result<Self, PostgresError> {
        let mut temporary = Vec::new();
        let mut socket_dir = cluster.root.join("socket");
        if socket_dir.as_os_str().len() + SOCKET_NAME.len() > MAX_SOCKET_PATH {
            let dir = TemporaryDir::create()?;
            socket_dir.clone_from(&dir.0);
            temporary.push(dir);
        }
        cluster::make_private_dir(&socket_dir)?;
        cluster.give(&socket_dir)?;

        let mut command = cluster.command("postgres");
        command.arg("-D").arg(cluster.data()).arg("-p").arg(port.to_string()).arg("-k").arg(&socket_dir);
        for setting in settings.server() {
            command.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C is for us, who then stop it in order.
        command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().map_err(PostgresError::io("run", &cluster.binaries.program("postgres")))?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let helpers = Log::copy(stderr, &cluster.root.join("server.log"))
            .and_then(|log| Ok((log, spawn_guard(&cluster.data(), child.id(), settings, remove)?)));
        match helpers {
            Ok((log, guard)) => Ok(Self { child, guard, log, cluster, socket_dir, port, temporary }),
            Err(error) => {
                // It has no data to lose yet, and nothing watches over it.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn wait_until_ready(&mut self, settings: Settings) -> Result<(), PostgresError> {
        let limit = match settings {
            Settings::Durable => DURABLE_START_LIMIT,
            Settings::Throwaway => THROWAWAY_START_LIMIT,
        };
        let deadline = Instant::now() + limit;
        while !self.has_ended() && Instant::now() < deadline {
            if is_ready(&self.cluster.data(), self.child.id()) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        self.end();
        let log = self.log.tail();
        if log.contains("Address already in use") {
            return Err(PostgresError::PortInUse(self.port));
        }
        Err(PostgresError::from_output(&self.cluster.root, log, |data_dir, log| PostgresError::Start {
            data_dir,
            log,
        }))
    }

    /// `postgres://…` over TCP. The superuser's password is part of it; other
    /// roles' passwords are known to whoever created them, who adds them.
    pub fn url(&self, user: &str, database: &str) -> String {
        let password = if user == SUPERUSER { format!(":{}", self.cluster.password) } else { String::new() };
        format!("postgres://{user}{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.cluster.password
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The programs it runs from.
    pub fn binaries(&self) -> &Binaries {
        &self.cluster.binaries
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `Some` if it ended by itself; start another one then.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, PostgresError> {
        self.child.try_wait().map_err(PostgresError::io("wait for PostgreSQL in", &self.cluster.root))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// Ends all connections, writes everything, stops.
    ///
    /// # Errors
    /// [`PostgresError::Start`] with the log if it had not been running well:
    /// it ended with another status than 0.
    pub fn stop(mut self) -> Result<(), PostgresError> {
        let status = self.end();
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        Err(PostgresError::Start { data_dir: self.cluster.root.clone(), log: self.log.tail() })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Fast shutdown, then harder; does nothing to a server that has ended.
    fn end(&mut self) -> Option<ExitStatus> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            if self.has_ended() {
                break;
            }
            let _ = kill(pid, signal);
            let deadline = Instant::now() + STOP_LIMIT;
            while !self.has_ended() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
        let status = self.child.wait().ok();
        self.log.finish();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("root", &self.cluster.root)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Our death would otherwise leave the server running: see [`GUARD`].
fn spawn_guard(data: &Path, pid: u32, settings: Settings, remove: &Path) -> Result<Child, PostgresError> {
    let signal = match settings {
        Settings::Durable => "INT",
        Settings::Throwaway => "QUIT",
    };
    Command::new("/bin/sh")
        .args(["-c", GUARD, "guard"])
        .arg(data)
        .args([&pid.to_string(), signal])
        .arg(remove)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(PostgresError::io("run", Path::new("/bin/sh")))
}

fn free_port() -> Result<u16, PostgresError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(PostgresError::io("find a free port on", Path::new("127.0.0.1")))
}

/// A private folder with a short path that the server's account can reach.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn create() -> Result<Self, PostgresError> {
        let account = Account::for_data(Path::new(""))?;
        let name = format!("chancery-{}", cluster::random_hex::<6>());
        let path = [env::temp_dir(), "/tmp".into()]
            .into_iter()
            .filter_map(|dir| fs::canonicalize(dir).ok())
            .map(|dir| dir.join(&name))
            .find(|path| account.as_ref().is_none_or(|account| account.blocked_on_the_way_to(path).is_none()))
            .unwrap_or_else(|| Path::new("/var/tmp").join(&name));
        cluster::make_private_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What is left in a temporary folder harms nobody.
        let _ = cluster::remove(&self.0);
    }
}
