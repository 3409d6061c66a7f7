//! `chancery api` and `chancery scheduler` as processes of their own over the
//! database of a test: they can be killed and started again, and what they log
//! can be read.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domain::keys::{CredentialKind, mint};
use nix::sys::signal::{Signal, kill};
use reqwest::{Client, StatusCode};
use tempfile::TempDir;

use crate::database::Database;
use crate::installation::{free_port, pid, program};
use crate::wait::until;

/// A debug build starts within this.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Requests in flight may end first.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// The process, and what it was given.
pub struct ApiProcess {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    /// Base URL of the public listener; the same after each start.
    pub url: String,
    /// Base URL of the internal listener's routes.
    pub internal: String,
    /// What workers join with.
    pub join_token: String,
    /// The key of all hashes.
    pub pepper: [u8; 32],
    http: Client,
    settings: Vec<(String, String)>,
}

impl ApiProcess {
    /// Starts it with these settings besides, as variables name them, and
    /// waits until it answers.
    pub async fn start(db: &Database, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a secret can be written");
            path.display().to_string()
        };
        let pepper = [3; 32];
        let join_token = mint(CredentialKind::Join, [7; 20]);
        let (port, internal) = (free_port(), free_port());
        let own = [
            ("DATABASE__URL_FILE", file("url", &db.url())),
            ("SECRETS__PEPPER_FILE", file("pepper", &hex::encode(pepper))),
            ("SECRETS__JOIN_TOKEN_FILE", file("join", &join_token)),
            ("OBJECTS__DIR", dir.path().join("objects").display().to_string()),
            ("API__LISTEN", format!("127.0.0.1:{port}")),
            ("API__INTERNAL_LISTEN", format!("127.0.0.1:{internal}")),
            ("METRICS__API_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let more = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let settings = own.into_iter().chain(more);
        let settings = settings.map(|(name, value)| (format!("CHANCERY_{name}"), value)).collect();
        let mut this = Self {
            dir,
            port,
            child: None,
            url: format!("http://127.0.0.1:{port}"),
            internal: format!("http://127.0.0.1:{internal}/internal/v1"),
            join_token,
            pepper,
            http: Client::builder().no_proxy().build().expect("a client"),
            settings,
        };
        this.spawn().await;
        this
    }

    /// Starts it, on the same address.
    pub async fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let child = Command::new(program())
            // Its end is the end of its standard input: no test leaves it behind.
            .args(["api", "--supervised"])
            .arg(self.dir.path().join("lock"))
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
        let url = format!("{}/healthz", self.url);
        until(&format!("an API on port {}", self.port), START_DEADLINE, async || {
            let exited =
                self.child.as_mut().expect("it was started").try_wait().expect("it can be waited for");
            assert!(exited.is_none(), "the API ended with {exited:?}:\n{}", self.log());
            self.http
                .get(&url)
                .timeout(START_DEADLINE)
                .send()
                .await
                .is_ok_and(|r| r.status() == StatusCode::OK)
                .then_some(())
        })
        .await;
    }

    /// SIGKILL: it ends in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }

    /// SIGTERM, and waits for a clean end.
    pub async fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(pid(child.id()), Signal::SIGTERM).expect("it can be signalled");
        let ended = async || child.try_wait().expect("it can be waited for");
        let status = until("the end of the API", STOP_DEADLINE, ended).await;
        assert!(status.success(), "the API ended with {status}:\n{}", self.log());
    }

    /// All that it wrote, of every start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("the log is text")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for ApiProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `chancery scheduler`, maybe one of several over the same database.
pub struct SchedulerProcess {
    dir: TempDir,
    child: Option<Child>,
}

impl SchedulerProcess {
    /// Starts it. Whether it leads is told by the database.
    pub fn start(db: &Database) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a secret can be written");
            path
        };
        let log = File::create(dir.path().join("log")).expect("a log");
        let child = Command::new(program())
            // Its end is the end of its standard input: no test leaves it behind.
            .args(["scheduler", "--supervised"])
            .arg(dir.path().join("lock"))
            .env("CHANCERY_DATABASE__URL_FILE", file("url", &db.url()))
            .env("CHANCERY_DATABASE__CONNECTIONS", "8")
            .env("CHANCERY_SECRETS__PEPPER_FILE", file("pepper", &hex::encode([3; 32])))
            .env("CHANCERY_OBJECTS__DIR", dir.path().join("objects"))
            .env("CHANCERY_METRICS__SCHEDULER_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        Self { dir, child: Some(child) }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGSTOP, SIGCONT and the like.
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.id()), signal).expect("it can be signalled");
    }

    /// SIGKILL: it ends in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
    }

    /// SIGTERM, and waits for a clean end.
    pub async fn stop(mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(pid(child.id()), Signal::SIGTERM).expect("it can be signalled");
        let ended = async || child.try_wait().expect("it can be waited for");
        let status = until("the end of the scheduler", STOP_DEADLINE, ended).await;
        assert!(status.success(), "the scheduler ended with {status}:\n{}", self.log());
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).expect("the log is text")
    }
}

impl Drop for SchedulerProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
