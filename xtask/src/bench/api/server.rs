//! `chancery api` on one of the databases, with its defaults.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use domain::keys::{CredentialKind, mint};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::database::{APP, Kept, pepper};
use super::rows::{self, Kind};
use super::wire::{Connection, Request};
use crate::process::tail;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);
/// Ministries with a file that jobs can read, one for each client.
const FILES: u32 = 16;

pub struct Api {
    child: Child,
    log: PathBuf,
    pub address: SocketAddr,
}

impl Api {
    pub fn start(program: &Path, kept: &Kept, database: &str, dir: &Path) -> Result<Self> {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let objects = dir.join("objects");
        inputs(&objects)?;
        let address = free_address()?;
        let log = dir.join("api.log");
        let output = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .arg("api")
            .env("CHANCERY_DATABASE__URL_FILE", write("url", &kept.url(APP, database))?)
            .env("CHANCERY_OBJECTS__DIR", &objects)
            .env("CHANCERY_SECRETS__PEPPER_FILE", write("pepper", &pepper())?)
            .env("CHANCERY_SECRETS__JOIN_TOKEN_FILE", write("join", &mint(CredentialKind::Join, [5; 20]))?)
            // Few callers ask for all here; each stays far below the limit where there are many.
            .env("CHANCERY_API__REQUESTS_PER_MINUTE", u32::MAX.to_string())
            .env("CHANCERY_API__LISTEN", address.to_string())
            .env("CHANCERY_API__INTERNAL_LISTEN", free_address()?.to_string())
            .env("CHANCERY_METRICS__API_LISTEN", free_address()?.to_string());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let mut api = Self { child, log, address };
        let started = Instant::now();
        let request = Request::get(String::new(), "/healthz".to_owned());
        while !Connection::open(address).and_then(|mut it| it.call(&request)).is_ok_and(|it| it.status == 200)
        {
            if api.child.try_wait()?.is_some() || started.elapsed() > START_LIMIT {
                bail!("`chancery api` did not become healthy; it says:\n{}", api.said());
            }
            thread::sleep(POLL);
        }
        Ok(api)
    }

    pub fn stop(mut self) -> Result<()> {
        let started = Instant::now();
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        while started.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("`chancery api` ended with {status}; it says:\n{}", self.said());
                }
                return Ok(());
            }
            thread::sleep(POLL);
        }
        bail!("`chancery api` did not stop; it says:\n{}", self.said());
    }

    fn said(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // After an error; nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The content of a file of each client's ministry: a batch of one line.
fn inputs(objects: &Path) -> Result<()> {
    let line = r#"{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "catalogue", "messages": [{"role": "user", "content": "Name three rivers."}]}}"#;
    for t in 1..=FILES {
        let tenant = rows::id(Kind::Tenant, t, 0).parse().context("a tenant's id")?;
        let file = rows::id(Kind::File, t, 1).parse().context("a file's id")?;
        let path = objects.join(domain::files::File::object_key(tenant, file));
        fs::create_dir_all(path.parent().context("objects lie in folders")?)?;
        fs::write(&path, format!("{line}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
