//! A whole installation: `chancery up` as a stranger starts it, real processes
//! and the real model.

use std::fs::{File, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::wait::until;

/// A first start creates a cluster, verifies and loads the model.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Ends the installation when this test binary ends, however that happens.
const GUARD: &str = r#"cat >/dev/null
kill -INT "$1"
while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
rm -rf -- "$2""#;

/// The program under test, built by `cargo xtask test`.
pub fn program() -> PathBuf {
    env_path("CHANCERY_BIN")
}

/// The sample model, fetched by `cargo xtask test`.
pub fn model() -> PathBuf {
    env_path("CHANCERY_TEST_MODEL")
}

fn env_path(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set; run the tests with `cargo xtask test it`"))
}

/// `chancery up` in a folder of its own.
pub struct Installation {
    dir: TempDir,
    port: u16,
    up: Option<(Child, Child)>,
    /// For every request of the tests.
    pub http: reqwest::Client,
}

impl Installation {
    /// Starts on an empty folder and waits until a prompt can be answered.
    pub async fn fresh() -> Self {
        // Started by root, PostgreSQL's account must get through to the data.
        let dir = tempfile::Builder::new()
            .prefix("chancery-it-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .expect("a temporary folder");
        let mut this = Self { dir, port: free_port(), up: None, http: reqwest::Client::new() };
        this.start().await;
        this
    }

    /// Starts, on what an earlier start left.
    pub async fn start(&mut self) {
        let log = File::create(self.dir.path().join("up.log")).expect("the log can be written");
        let up = Command::new(program())
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--sample-model")
            .arg(model())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &up.id().to_string()])
            .arg(self.dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        self.up = Some((up, guard));
        let ready = self.url("/readyz");
        let start = std::time::Instant::now();
        loop {
            if self.http.get(&ready).send().await.is_ok_and(|r| r.status() == StatusCode::OK)
                && self.data_dir().join("interior-key").exists()
            {
                return;
            }
            let (up, _) = self.up.as_mut().expect("it was started");
            let exited = up.try_wait().expect("it can be waited for");
            assert!(
                exited.is_none() && start.elapsed() < READY_DEADLINE,
                "`chancery up` is not ready ({exited:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ctrl-C, and waits for a clean end.
    pub async fn stop(&mut self) {
        let (mut up, mut guard) = self.up.take().expect("it runs");
        kill(pid(up.id()), Signal::SIGINT).expect("it can be signalled");
        let status =
            until("the end of `chancery up`", STOP_DEADLINE, async || up.try_wait().expect("wait")).await;
        guard.kill().expect("the guard can be ended");
        guard.wait().expect("the guard can be reaped");
        assert!(status.success(), "`chancery up` ended with {status}:\n{}", self.log());
    }

    /// What it printed.
    pub fn log(&self) -> String {
        let mut text = String::new();
        for name in ["up.log", "data/logs/api.log", "data/logs/scheduler.log", "data/logs/worker.log"] {
            if let Ok(mut file) = File::open(self.dir.path().join(name)) {
                text += &format!("--- {name}\n");
                let mut content = String::new();
                file.read_to_string(&mut content).expect("logs are text");
                let from = content.len().saturating_sub(6000);
                text += content.get(from..).unwrap_or(&content);
            }
        }
        text
    }

    /// `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A URL of the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The sample ministry's API key.
    pub fn key(&self) -> String {
        secret(&self.data_dir().join("interior-key"))
    }

    /// A session of the bootstrap administrator.
    pub async fn admin(&self) -> String {
        let password = secret(&self.data_dir().join("admin-password"));
        let answer = self
            .call(
                reqwest::Method::POST,
                "/api/v1/sessions",
                None,
                Some(json!({"login": "admin@localhost", "password": password})),
            )
            .await;
        assert_eq!(answer.0, StatusCode::CREATED, "{}", answer.1);
        answer.1["token"].as_str().expect("a token").to_owned()
    }

    /// One JSON request.
    pub async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        crate::http::call(&self.http, method, &self.url(path), token, body).await
    }

    /// Processes of this installation whose first argument is `role`.
    pub fn pids(&self, role: &str) -> Vec<Pid> {
        let root = self.up.as_ref().expect("it runs").0.id();
        descendants(root)
            .into_iter()
            .filter(|id| {
                std::fs::read(format!("/proc/{id}/cmdline"))
                    .is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(role.as_bytes()))
            })
            .map(pid)
            .collect()
    }

    /// SIGKILL, to the one process with that role.
    pub fn kill(&self, role: &str) -> Pid {
        let pids = self.pids(role);
        assert_eq!(pids.len(), 1, "one {role} runs");
        kill(pids[0], Signal::SIGKILL).expect("it can be killed");
        pids[0]
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some((mut up, mut guard)) = self.up.take() {
            // Closing the guard's input makes it interrupt `up`.
            drop(guard.stdin.take());
            let _ = up.wait();
            let _ = guard.wait();
        }
    }
}

static SHARED: OnceCell<RwLock<Installation>> = OnceCell::const_new();

async fn shared() -> &'static RwLock<Installation> {
    SHARED.get_or_init(async || RwLock::new(Installation::fresh().await)).await
}

/// The shared installation, for tests that disturb nobody.
pub async fn calm() -> RwLockReadGuard<'static, Installation> {
    shared().await.read().await
}

/// The shared installation, alone: for tests that kill and restart.
pub async fn alone() -> RwLockWriteGuard<'static, Installation> {
    shared().await.write().await
}

pub(crate) fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids are small"))
}

fn secret(path: &Path) -> String {
    let mode = std::fs::metadata(path).expect("the secret is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{} is readable by others: {mode:o}", path.display());
    std::fs::read_to_string(path).expect("the secret is text").trim().to_owned()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn descendants(root: u32) -> Vec<u32> {
    let parent = |id: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id| Some((id, parent(id)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        at += 1;
    }
    found
}
