//! A whole Chancery in a temporary folder, measured from outside.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use crate::process::tail;
use crate::up::Inputs;

const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A folder that is removed, also where it is a link to.
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("chancery-bench-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        if let Ok(elsewhere) = fs::canonicalize(self.path().join("postgres")) {
            let _ = fs::remove_dir_all(elsewhere);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `chancery up`.
pub struct System {
    child: Child,
    log: PathBuf,
    pub client: Client,
    /// From the start of the process until `/readyz` said 200.
    pub start_took: Duration,
}

impl System {
    pub fn start(inputs: &Inputs, data_dir: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let log = data_dir.with_extension("log");
        let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&inputs.binary);
        command.arg("up").arg("--data-dir").arg(data_dir).args(["--listen", &address]);
        command.arg("--sample-model").arg(&inputs.model).arg("--postgres-bin").arg(inputs.postgres.dir());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot run {}", inputs.binary.display()))?;
        let client = Client::new(&format!("http://{address}"));
        let mut system = Self { child, log, client, start_took: Duration::ZERO };
        while !system.client.is_ready() {
            if system.child.try_wait()?.is_some() || started.elapsed() > START_LIMIT {
                bail!("`chancery up` did not become ready; it says:\n{}", system.said());
            }
            thread::sleep(POLL);
        }
        system.start_took = started.elapsed();
        let key = data_dir.join("interior-key");
        system.client.key = fs::read_to_string(&key)
            .with_context(|| format!("cannot read {}", key.display()))?
            .trim()
            .to_owned();
        Ok(system)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As Ctrl-C does; returns how long it took.
    pub fn stop(mut self) -> Result<Duration> {
        let started = Instant::now();
        kill(self.process(), Signal::SIGINT)?;
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("`chancery up` ended with {status} after Ctrl-C; it says:\n{}", self.said());
                }
                return Ok(started.elapsed());
            }
            thread::sleep(POLL);
        }
        bail!(
            "`chancery up` did not stop within {} s of Ctrl-C; it says:\n{}",
            STOP_LIMIT.as_secs(),
            self.said()
        );
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn said(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // After an error: ask, and wait, so that its children end with it.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(self.process(), Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
