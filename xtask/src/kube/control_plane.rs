//! etcd and an API server on this machine, gone when dropped. Commits are
//! durable, as ours are.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// How long the API server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What the only user shows.
const TOKEN: &str = "bench";

/// It has no controllers: what is created stays as it is.
pub struct ControlPlane {
    programs: PathBuf,
    dir: PathBuf,
    /// Those started last end first.
    running: Vec<Child>,
}

impl ControlPlane {
    /// Starts with the programs of [`super::ensure`], and writes into `dir`.
    pub fn start(programs: &Path, dir: &Path) -> Result<Self> {
        let mut plane = Self { programs: programs.to_owned(), dir: dir.to_owned(), running: Vec::new() };
        let [etcd, peers, api] = [free_port()?, free_port()?, free_port()?];
        let url = |port| format!("http://127.0.0.1:{port}");
        let data = plane.path("etcd");
        plane.spawn(
            "etcd",
            &[
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={}", url(etcd)),
                format!("--advertise-client-urls={}", url(etcd)),
                format!("--listen-peer-urls={}", url(peers)),
            ],
        )?;
        let key = plane.path("sa.key");
        process::output(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))
            .context("openssl is missing: install it (Debian, Ubuntu: `apt-get install openssl`)")?;
        let tokens = plane.write("tokens.csv", &format!("{TOKEN},bench,bench,system:masters\n"))?;
        plane.spawn(
            "kube-apiserver",
            &[
                format!("--etcd-servers={}", url(etcd)),
                format!("--secure-port={api}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", plane.path("certificates").display()),
                format!("--token-auth-file={}", tokens.display()),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", key.display()),
                format!("--service-account-signing-key-file={}", key.display()),
                "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
                // Both wait for controllers that are not there.
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
            ],
        )?;
        plane.write(
            "kubeconfig",
            &format!(
                "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{api}\", insecure-skip-tls-verify: true}}}}]\nusers: [{{name: u, user: {{token: {TOKEN}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
            ),
        )?;
        let began = Instant::now();
        while !process::works(plane.kubectl().args(["get", "--raw", "/readyz"])) {
            plane.check()?;
            if began.elapsed() > START_LIMIT {
                bail!(
                    "the API server does not answer; it wrote {}",
                    plane.path("kube-apiserver.log").display()
                );
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(plane)
    }

    /// What clients are given.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// A client.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.programs.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    /// Writes a file beside the data.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Starts one more program, which ends with this.
    pub fn spawn(&mut self, name: &str, arguments: &[String]) -> Result<()> {
        let log = self.path(&format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(self.programs.join(name));
        command.args(arguments).current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(file.try_clone().context("the log is open")?).stderr(file);
        self.running.push(command.spawn().with_context(|| format!("cannot run {name}"))?);
        Ok(())
    }

    /// Fails if a program ended by itself.
    pub fn check(&mut self) -> Result<()> {
        for child in &mut self.running {
            if let Some(status) = child.try_wait().context("a program of the cluster is lost")? {
                bail!("a program of the cluster ended ({status}); see the logs in {}", self.dir.display());
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        while let Some(mut child) = self.running.pop() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener.local_addr().context("it has a port")?.port())
}
