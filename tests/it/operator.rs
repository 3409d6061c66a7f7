//! What operators do with the command line alone, on an installation that
//! `up` did not set up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::Clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::http::call;
use tests::installation::program;
use tests::system::System;
use tests::wait::until;
use totp_rs::{Builder, Secret, Totp};

const ADMIN: &str = "admin@localhost";
const PATIENCE: Duration = Duration::from_secs(20);

/// A database that was migrated, an API on it, and a folder.
struct Installation {
    system: System,
    url: String,
    dir: tempfile::TempDir,
}

/// What a command did.
struct Done {
    ok: bool,
    out: String,
    err: String,
}

impl Installation {
    async fn start() -> Self {
        let system = System::start().await;
        let url = format!("http://{}", system.public);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let database = file("database-url", &system.db.url());
        file("chancery.toml", &format!("[database]\nurl_file = {database:?}\n"));
        Self { system, url, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn run(&self, args: &[&str]) -> Done {
        let mut command = tokio::process::Command::new(program());
        command.current_dir(self.dir.path()).args(["--config", "chancery.toml", "--login", ADMIN]).args(args);
        let done = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { ok: done.status.success(), out: text(&done.stdout), err: text(&done.stderr) }
    }

    /// A command of who has the password in that file.
    async fn by(&self, password: &str, args: &[&str]) -> Done {
        let with = ["--server", &self.url, "--password-file", password];
        self.run(&[args, &with].concat()).await
    }

    async fn ok(&self, password: &str, args: &[&str]) -> String {
        let done = self.by(password, args).await;
        assert!(done.ok, "{args:?}: {}{}", done.out, done.err);
        done.out
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let token = Some(token).filter(|token| !token.is_empty());
        call(&self.system.http, method, &format!("{}{path}", self.url), token, body).await
    }

    async fn sign_in(&self, login: &str, password: &str) -> (StatusCode, Value) {
        let body = json!({ "login": login, "password": password });
        self.call(Method::POST, "/api/v1/sessions", "", Some(body)).await
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// The code that a device shows now.
fn code(device: &Totp) -> String {
    device.generate(u64::try_from(Clock::system().now().unix_secs()).unwrap()).to_string()
}

#[tokio::test]
async fn an_installation_without_up_gets_its_first_administrator_once() {
    let i = Installation::start().await;
    let made = i.run(&["bootstrap-admin", "--to", "first"]).await;
    assert!(made.ok && made.out.is_empty(), "{}{}", made.out, made.err);
    let first = read(&i.path("first"));
    assert!(!made.err.contains(&first) && first.len() >= 32);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(i.path("first")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = i.run(&["bootstrap-admin"]).await;
    assert!(!again.ok && again.out.is_empty() && again.err.contains("--reset"), "{}", again.err);
    let bad = i.run(&["bootstrap-admin", "--login", "admin"]).await;
    assert!(!bad.ok && bad.err.contains("login") && bad.err.contains("@"), "{}", bad.err);

    // The password is good for one thing only: on the command line, and whoever asks the API.
    let early = i.by("first", &["tenants", "list"]).await;
    assert!(!early.ok && early.err.contains("chancery accounts change-password"), "{}", early.err);
    let (status, session) = i.sign_in(ADMIN, &first).await;
    assert_eq!((status, &session["principal"]["must_change_password"]), (StatusCode::CREATED, &json!(true)));
    let token = session["token"].as_str().unwrap();
    for (method, path, body) in [
        (Method::GET, "/api/v1/tenants", None),
        (Method::GET, "/api/v1/audit", None),
        (Method::POST, "/api/v1/tenants", Some(json!({ "slug": "early", "name": "early" }))),
    ] {
        let (status, answer) = i.call(method, path, token, body).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
    }
    std::fs::write(i.path("second"), "a password of my own").unwrap();
    let same = i.by("first", &["accounts", "change-password", "--new-password-file", "first"]).await;
    assert!(!same.ok, "the same password again");
    i.ok("first", &["accounts", "change-password", "--new-password-file", "second"]).await;
    assert_eq!(i.sign_in(ADMIN, &first).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(i.call(Method::GET, "/api/v1/me", token, None).await.0, StatusCode::UNAUTHORIZED);
    i.ok("second", &["tenants", "list"]).await;
    let log = i.ok("second", &["audit", "list", "--actor", "system", "--action", "create_account"]).await;
    assert_eq!(log.lines().count(), 2, "{log}");
    i.system.stop().await;
}

#[tokio::test]
async fn breaking_the_glass_lets_an_administrator_back_in_and_is_recorded() {
    let i = Installation::start().await;
    assert!(i.run(&["bootstrap-admin", "--to", "first"]).await.ok);
    std::fs::write(i.path("second"), "a password of my own").unwrap();
    i.ok("first", &["accounts", "change-password", "--new-password-file", "second"]).await;

    // With one-time codes, all by the command line.
    let enrolled: Value =
        serde_json::from_str(&i.ok("second", &["one-time-code", "enrol", "--output", "json"]).await).unwrap();
    assert!(enrolled["url"].as_str().unwrap().starts_with("otpauth://totp/Chancery:"));
    let secret = Secret::try_from_base32(enrolled["secret"].as_str().unwrap()).unwrap();
    let device = Builder::new().with_secret(secret).build().unwrap();
    let wrong = i.by("second", &["one-time-code", "confirm", "000000000"]).await;
    assert!(!wrong.ok && wrong.err.contains("present code"), "{}", wrong.err);
    i.ok("second", &["one-time-code", "confirm", &code(&device), "--to", "recovery"]).await;
    let recovery: Vec<String> = read(&i.path("recovery")).lines().map(str::to_owned).collect();
    assert_eq!(recovery.len(), 10);
    // Another file is another sign-in, which asks.
    std::fs::copy(i.path("second"), i.path("elsewhere")).unwrap();
    let asked = i.by("elsewhere", &["tenants", "list"]).await;
    assert!(!asked.ok && asked.err.contains("one-time code"), "{}", asked.err);
    i.ok("elsewhere", &["tenants", "list", "--one-time-code", &recovery[0]]).await;
    i.ok("second", &["one-time-code", "remove", &recovery[1]]).await;
    std::fs::copy(i.path("second"), i.path("third")).unwrap();
    i.ok("third", &["tenants", "list"]).await;
    let enrolled: Value =
        serde_json::from_str(&i.ok("second", &["one-time-code", "enrol", "--output", "json"]).await).unwrap();
    let secret = Secret::try_from_base32(enrolled["secret"].as_str().unwrap()).unwrap();
    i.ok(
        "second",
        &["one-time-code", "confirm", &code(&Builder::new().with_secret(secret).build().unwrap())],
    )
    .await;

    // Disabled, device lost: the way back in.
    i.system.set(&format!("UPDATE principals SET disabled_at = now() WHERE login = '{ADMIN}'")).await;
    assert!(!i.run(&["bootstrap-admin"]).await.ok, "a disabled administrator is one");
    i.system.set(&format!("UPDATE principals SET disabled_at = NULL WHERE login = '{ADMIN}'")).await;
    let (_, open) = i.call(Method::GET, "/api/v1/me", &kept_session(&i, "second"), None).await;
    assert_eq!(open["role"], "platform_admin", "control: a session is open");
    i.system.set(&format!("UPDATE principals SET disabled_at = now() WHERE login = '{ADMIN}'")).await;
    let reset = i.run(&["bootstrap-admin", "--reset", "--output", "json"]).await;
    assert!(reset.ok, "{}", reset.err);
    let shown: Value = serde_json::from_str(&reset.out).unwrap();
    let password = shown["password"].as_str().unwrap();
    until("the end of the sessions", PATIENCE, async || {
        let (status, _) = i.call(Method::GET, "/api/v1/me", &kept_session(&i, "second"), None).await;
        (status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert_eq!(i.sign_in(ADMIN, "a password of my own").await.0, StatusCode::UNAUTHORIZED);
    let (status, session) = i.sign_in(ADMIN, password).await;
    assert_eq!(
        (status, &session["principal"]["must_change_password"], &session["principal"]["one_time_code"]),
        (StatusCode::CREATED, &json!(true), &json!(false))
    );
    std::fs::write(i.path("fourth"), password).unwrap();
    std::fs::write(i.path("fifth"), "another password of my own").unwrap();
    i.ok("fourth", &["accounts", "change-password", "--new-password-file", "fifth"]).await;

    // Somebody else beside it; nobody of another kind.
    assert!(i.run(&["bootstrap-admin", "--reset", "--login", "second@localhost"]).await.ok);
    std::fs::write(i.path("new"), "a password for someone").unwrap();
    let auditor = ["accounts", "create", "eye@localhost", "--role", "auditor", "--new-password-file", "new"];
    i.ok("fifth", &auditor).await;
    let other = i.run(&["bootstrap-admin", "--reset", "--login", "eye@localhost"]).await;
    assert!(!other.ok && other.err.contains("no administrator"), "{}", other.err);

    let log = i.ok("fifth", &["audit", "list", "--actor", "system", "--output", "json"]).await;
    let log: Vec<Value> = serde_json::from_str(&log).unwrap();
    let glass: Vec<&Value> = log.iter().filter(|event| event["detail"]["break_glass"] == true).collect();
    assert_eq!(glass.len(), 2, "{log:?}");
    assert_eq!(glass[1]["action"], "reset_password");
    let detail = &glass[1]["detail"];
    assert_eq!((&detail["was_disabled"], &detail["one_time_codes_removed"]), (&json!(true), &json!(true)));
    let denied = i.ok("fifth", &["audit", "list", "--denied", "--limit", "1"]).await;
    assert!(denied.lines().count() == 2 && denied.contains("denied"), "{denied}");
    i.system.stop().await;
}

/// The session that a command kept beside its password file.
fn kept_session(i: &Installation, file: &str) -> String {
    let kept: Value = serde_json::from_str(&read(&i.path(&format!(".session-of-{file}")))).unwrap();
    kept["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn budgets_are_set_listed_and_removed() {
    let i = Installation::start().await;
    assert!(i.run(&["bootstrap-admin", "--to", "first"]).await.ok);
    std::fs::write(i.path("admin"), "a password of my own").unwrap();
    i.ok("first", &["accounts", "change-password", "--new-password-file", "admin"]).await;
    i.ok("admin", &["tenants", "create", "health"]).await;
    let none = i.by("admin", &["budgets", "list"]).await;
    assert!(none.ok && none.err.contains("No budgets are set"), "{}{}", none.out, none.err);
    let bad = i.by("admin", &["budgets", "set", "health", "--budget", "cpu=1h"]).await;
    assert!(!bad.ok && bad.err.contains("cpu=100h/month"), "{}", bad.err);
    let unknown = i.by("admin", &["budgets", "set", "health", "--budget", "gpu=1h/day"]).await;
    assert!(!unknown.ok && unknown.err.contains("accelerator class that does not exist"), "{}", unknown.err);

    let set = ["budgets", "set", "health", "--budget", "cpu=1.5h/month", "--budget", "tokens=1000/day"];
    let shown = i.ok("admin", &set).await;
    for part in ["WHOSE", "tokens", "1000", "cpu", "1.5h", "0s", "month", "day"] {
        assert!(shown.contains(part), "{shown}");
    }
    let project = ["budgets", "set", "--project", "sandbox", "--tenant", "health", "--budget", "cpu=90s/day"];
    assert!(i.ok("admin", &project).await.contains("health/sandbox"));
    let listed = i.ok("admin", &["budgets", "list", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["nodes"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["nodes"][0]["budgets"][1]["limit"], 5400, "{listed}");
    i.ok("admin", &["budgets", "remove", "--project", "sandbox", "--tenant", "health"]).await;
    i.ok("admin", &["budgets", "remove", "health"]).await;
    assert!(!i.by("admin", &["budgets", "remove", "health"]).await.ok, "there are none any more");
    let log = i.ok("admin", &["audit", "list", "--tenant", "health", "--action", "put_tenant_budgets"]).await;
    assert_eq!(log.lines().count(), 2, "{log}");

    let usage = i.ok("admin", &["usage", "--history", "--from", "2026-03-01", "--to", "2026-03-02"]).await;
    assert!(usage.contains("ACCELERATOR HOURS") && usage.contains("COMPLETION TOKENS"), "{usage}");
    i.system.stop().await;
}

#[tokio::test]
async fn a_certificate_is_fetched_and_checked_without_the_installation() {
    let i = Installation::start().await;
    assert!(i.run(&["bootstrap-admin", "--to", "first"]).await.ok);
    std::fs::write(i.path("admin"), "a password of my own").unwrap();
    i.ok("first", &["accounts", "change-password", "--new-password-file", "admin"]).await;
    i.ok("admin", &["tenants", "create", "health"]).await;
    let none = i.by("admin", &["certificates", "get", "health"]).await;
    assert!(!none.ok && none.err.contains("no ministry"), "{}", none.err);
    i.ok("admin", &["tenants", "delete", "health", "--yes", "--certificate", "kept.json"]).await;
    assert!(i.ok("admin", &["certificates", "list"]).await.contains("finished"));
    i.ok("admin", &["certificates", "get", "health", "--to", "again.json"]).await;
    assert_eq!(read(&i.path("again.json")), read(&i.path("kept.json")));
    let key = i.ok("admin", &["certificates", "public-key"]).await;
    let verify = ["certificates", "verify", "again.json", "--public-key", key.trim()];
    let Installation { system, dir, .. } = i;
    system.stop().await;

    let offline = async |args: &[&str]| {
        let command = tokio::process::Command::new(program()).current_dir(dir.path()).args(args).output();
        command.await.unwrap()
    };
    let checked = offline(&verify).await;
    assert!(checked.status.success() && String::from_utf8_lossy(&checked.stdout).contains("health"));
    let text = read(&dir.path().join("again.json")).replace("health", "wealth");
    std::fs::write(dir.path().join("again.json"), text).unwrap();
    assert!(!offline(&verify).await.status.success(), "a changed certificate");
}
