//! A real identity provider: Keycloak, with its own database, in a folder of
//! its own. Tests share one server and have realms of their own in it; a test
//! that stops the provider starts one for itself.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::installation::free_port;

mod admin;
mod realm;

use admin::Admin;
pub use realm::{Realm, Tokens};

/// On a busy machine; usually it takes seconds.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Our confidential client in every realm.
pub const CLIENT: &str = "chancery";
/// Its secret.
pub const CLIENT_SECRET: &str = "a secret that both sides know";
/// A public client that may exchange passwords for tokens.
pub const DIRECT_CLIENT: &str = "tests";
/// What access tokens are for.
pub const AUDIENCE: &str = "chancery-api";
/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";
/// Everybody, with the group they are in.
pub const USERS: [(&str, Option<&str>); 5] = [
    ("ada", Some("admins")),
    ("dan", Some("developers")),
    ("dora", Some("developers")),
    ("aud", Some("auditors")),
    ("nora", None),
];
const GROUPS: [&str; 3] = ["admins", "developers", "auditors"];

/// Starts as fast as it can: it lives for seconds, so that what a compiler of
/// peak speed gains never pays for itself.
const JAVA: [&str; 4] = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// What Keycloak's own starter, `bin/kc.sh`, gives it besides; that one puts a
/// shell between us and the process.
const KEYCLOAK: [&str; 6] = [
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    "-Dpicocli.disable.closures=true",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.security=ALL-UNNAMED",
];

/// Ends the server when this test binary ends, however that happens.
const GUARD: &str = r#"cat >/dev/null
kill -KILL "$1"
while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
rm -rf -- "$2""#;

/// The application that signs people in, as a realm knows it.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// Where codes may be sent.
    pub redirect_uris: Vec<String>,
    /// Where people may be sent after they signed out.
    pub post_logout_redirect_uris: Vec<String>,
    /// What is told that a session ended.
    pub backchannel_logout_url: Option<String>,
}

/// A server.
pub struct Keycloak {
    dir: TempDir,
    port: u16,
    running: Option<(Child, Child)>,
    http: Client,
    admin: Admin,
}

impl Keycloak {
    /// The server that tests share. It ends with the process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Keycloak> = OnceCell::const_new();
        SHARED.get_or_init(Self::fresh).await
    }

    /// A server of one's own, to stop and start.
    pub async fn fresh() -> Self {
        let installed = installed();
        let dir = tempfile::Builder::new().prefix("chancery-kc-").tempdir().expect("a temporary folder");
        for shared in ["lib", "conf", "providers", "themes"] {
            symlink(installed.join(shared), dir.path().join(shared)).expect("a link");
        }
        copy(&installed.join("data"), &dir.path().join("data"));
        // Tests that share the server have a runtime each, and a kept connection
        // ends with the one that opened it.
        let http = Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client");
        let port = free_port();
        let admin = Admin::new(http.clone(), format!("http://127.0.0.1:{port}"));
        let mut this = Self { dir, port, running: None, http, admin };
        this.start().await;
        this
    }

    /// Starts on what is there, on the same port, and waits until it answers.
    pub async fn start(&mut self) {
        let home = self.dir.path();
        let log = File::create(self.log_path()).expect("the log can be written");
        let server = Command::new("java")
            .args(JAVA)
            .args(KEYCLOAK)
            .arg(format!("-Dkc.home.dir={}", home.display()))
            .arg(format!("-Djboss.server.config.dir={}", home.join("conf").display()))
            .arg("-cp")
            .arg(installed().join("lib/quarkus-run.jar"))
            .args(["io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized"])
            .args(["--http-enabled=true", "--hostname-strict=false", "--cache=local"])
            .args(["--http-host=127.0.0.1", &format!("--http-port={}", self.port)])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            .spawn()
            .expect("Java is installed by `cargo xtask test`; run that once");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard", &server.id().to_string()])
            .arg(home)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        self.running = Some((server, guard));
        let (url, start) = (self.url("/realms/master"), Instant::now());
        while !self.http.get(&url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            let (server, _) = self.running.as_mut().expect("it was started");
            let exited = server.try_wait().expect("it can be waited for");
            assert!(
                exited.is_none() && start.elapsed() < READY_DEADLINE,
                "Keycloak is not ready ({exited:?}):\n{}",
                std::fs::read_to_string(self.log_path()).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it in order, so that it keeps what it was told.
    pub async fn stop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let (mut server, mut guard) = self.running.take().expect("it runs");
        kill(crate::installation::pid(server.id()), Signal::SIGTERM).expect("it can be signalled");
        crate::wait::until("the end of Keycloak", STOP_DEADLINE, async || server.try_wait().expect("wait"))
            .await;
        guard.kill().expect("the guard can be ended");
        guard.wait().expect("the guard can be reaped");
    }

    /// A new realm, named `name` and a number so that every test has its own.
    pub async fn realm(&self, name: &str, application: &Application) -> Realm {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.admin.call(Method::POST, "", Some(&representation(&name, application))).await;
        Realm::new(self.http.clone(), self.admin.clone(), self.url(&format!("/realms/{name}")), name)
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("keycloak.log")
    }
}

impl Drop for Keycloak {
    fn drop(&mut self) {
        if let Some((mut server, mut guard)) = self.running.take() {
            // Closing the guard's input makes it end the server; reaped at once,
            // for the guard waits until the process is gone.
            drop(guard.stdin.take());
            let _ = server.wait();
            let _ = guard.wait();
        }
    }
}

/// Where `cargo xtask test` has installed it.
fn installed() -> PathBuf {
    std::env::var_os("CHANCERY_TEST_KEYCLOAK")
        .map(PathBuf::from)
        .expect("CHANCERY_TEST_KEYCLOAK is not set; run the tests with `cargo xtask test it`")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of Keycloak") {
        let entry = entry.expect("a file of Keycloak");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// A realm's file, as Keycloak imports it.
fn representation(name: &str, application: &Application) -> Value {
    let mappers = json!([
        {
            "name": "groups", "protocol": "openid-connect", "protocolMapper": "oidc-group-membership-mapper",
            "config": {
                "claim.name": "groups", "full.path": "false", "id.token.claim": "true",
                "access.token.claim": "true", "userinfo.token.claim": "true",
            },
        },
        {
            "name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
            "config": {
                "included.custom.audience": AUDIENCE, "access.token.claim": "true", "id.token.claim": "false",
            },
        },
    ]);
    let logout = application.backchannel_logout_url.as_deref().unwrap_or_default();
    let after_logout = application.post_logout_redirect_uris.join("##");
    let users: Vec<Value> = USERS.iter().map(|(user, group)| person(name, user, *group)).collect();
    json!({
        "realm": name,
        "enabled": true,
        // Passwords are no secrets here: hashing them hard only takes time.
        "passwordPolicy": "hashAlgorithm(pbkdf2-sha256) and hashIterations(1)",
        "groups": GROUPS.map(|group| json!({"name": group})),
        "users": users,
        "clients": [
            {
                "clientId": CLIENT, "protocol": "openid-connect", "publicClient": false, "secret": CLIENT_SECRET,
                "standardFlowEnabled": true, "directAccessGrantsEnabled": false, "frontchannelLogout": false,
                "redirectUris": application.redirect_uris,
                "attributes": {
                    "pkce.code.challenge.method": "S256",
                    "access.token.header.type.rfc9068": "true",
                    "backchannel.logout.url": logout,
                    "backchannel.logout.session.required": "true",
                    "post.logout.redirect.uris": after_logout,
                },
                "protocolMappers": mappers,
            },
            {
                "clientId": DIRECT_CLIENT, "protocol": "openid-connect", "publicClient": true,
                "standardFlowEnabled": false, "directAccessGrantsEnabled": true,
                "attributes": {"access.token.header.type.rfc9068": "true"},
                "protocolMappers": mappers,
            },
        ],
    })
}

fn person(realm: &str, user: &str, group: Option<&str>) -> Value {
    json!({
        "username": user, "enabled": true, "email": format!("{user}@{realm}.example"), "emailVerified": true,
        "firstName": user, "lastName": "Example",
        "credentials": [{"type": "password", "value": PASSWORD, "temporary": false}],
        "groups": group.map(|group| format!("/{group}")).into_iter().collect::<Vec<_>>(),
    })
}
