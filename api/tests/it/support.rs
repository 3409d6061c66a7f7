//! A server with a database of its own, and a client that reads its answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use api::{Deps, Server, Settings};
use domain::Clock;
use domain::keys::{CredentialKind, Pepper, mint};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use store::Store;
use store::objects::Objects;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const ADMIN: &str = "admin@localhost";
pub const PASSWORD: &str = "a long enough password";

/// One PostgreSQL for this test binary.
fn postgres() -> &'static postgres::Server {
    static SERVER: OnceLock<postgres::Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let binaries = postgres::Binaries::find().expect("PostgreSQL is installed");
        postgres::Server::throwaway(&binaries).expect("a private PostgreSQL starts")
    })
}

/// An empty database with the present schema; how to log in as `chancery_app`.
async fn database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    // Roles belong to the whole cluster, and changing one twice at once fails.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let name = format!("api_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let server = tokio::task::spawn_blocking(postgres).await.expect("the server starts");
    store::migrate::bootstrap(&server.url(postgres::SUPERUSER, "postgres"), &name, "owner", "app")
        .await
        .expect("the cluster can be bootstrapped");
    let url = |role: &str, password: &str| {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{name}", server.port())
    };
    store::migrate::migrate(&url("chancery_owner", "owner")).await.expect("every migration applies");
    url("chancery_app", "app")
}

/// A running API.
pub struct Api {
    pub public: SocketAddr,
    pub internal: SocketAddr,
    pub store: Store,
    pub http: Client,
    pub dir: TempDir,
    clock: Clock,
    url: String,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }
}

impl Api {
    /// With settings for tests, changed by `change`.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(database().await, Clock::system(), change).await
    }

    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Another server on the database of this one.
    pub async fn twin(&self) -> Self {
        Self::start_on(self.url.clone(), self.clock.clone(), |_| {}).await
    }

    /// With a clock that the test moves.
    pub async fn start_at(clock: Clock) -> Self {
        Self::start_on(database().await, clock, |_| {}).await
    }

    /// A connection that row-level security does not bind.
    pub async fn superuser(&self) -> PgConnection {
        let name = self.url.rsplit('/').next().expect("a database");
        PgConnection::connect(&postgres().url(postgres::SUPERUSER, name)).await.expect("the server answers")
    }

    async fn start_on(url: String, clock: Clock, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings {
            listen: any,
            internal_listen: any,
            model_import_dirs: vec![dir.path().join("import")],
            max_model_file_bytes: 1 << 20,
            ..Settings::default()
        };
        change(&mut settings);
        let store = Store::connect(&url, 8).await.expect("the database answers");
        let outcome =
            api::bootstrap_admin(&store, &Clock::system(), ADMIN, PASSWORD, api::FirstPassword::Stays).await;
        outcome.expect("the administrator is created");
        let deps = Deps {
            store: store.clone(),
            objects: Objects::local(&dir.path().join("objects")).expect("a directory"),
            clock: clock.clone(),
            pepper: Pepper::new([7; 32]),
            join_token: mint(CredentialKind::Join, [1; 20]),
        };
        let server = Server::bind(settings, deps).await.expect("ports are free");
        let (public, internal) = (server.public_addr, server.internal_addr);
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server.run(shutdown.clone()));
        Self { public, internal, store, http: Client::new(), dir, clock, url, shutdown, server }
    }

    /// Asks for a stop, without waiting for it.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Stops and waits until everything is finished.
    pub async fn stopped(self) {
        self.shutdown.cancel();
        self.server.await.expect("the server ends well");
    }

    pub async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request =
            conventional(self.http.request(method.clone(), format!("http://{}{path}", self.public)), &method);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, token, Some(body)).await
    }

    pub async fn sign_in(&self, login: &str) -> String {
        let body = json!({ "login": login, "password": PASSWORD });
        text(&self.post("/api/v1/sessions", "", body).await.expect(201)["token"])
    }

    /// A tenant with an administrator, a developer and a key.
    pub async fn tenant(&self, admin: &str, slug: &str) -> Tenant {
        self.post("/api/v1/tenants", admin, json!({ "slug": slug, "name": slug })).await.expect(201);
        for role in ["tenant_admin", "developer"] {
            let login = format!("{role}@{slug}");
            let body = json!({ "login": login, "display_name": role, "password": PASSWORD, "role": role });
            self.post(&format!("/api/v1/accounts?tenant={slug}"), admin, body).await.expect(201);
        }
        let own_admin = self.sign_in(&format!("tenant_admin@{slug}")).await;
        let developer = self.sign_in(&format!("developer@{slug}")).await;
        let body = json!({ "project": "sandbox", "name": "test" });
        let key = self.post("/api/v1/api-keys", &own_admin, body).await.expect(201);
        Tenant { admin: own_admin, developer, key: text(&key["secret"]), key_id: text(&key["key"]["id"]) }
    }

    /// A catalogue model with one version.
    pub async fn model(&self, admin: &str, name: &str) {
        self.post("/api/v1/models", admin, json!({ "name": name })).await.expect(201);
        let path = format!("/api/v1/models/{name}/versions/upload?filename=model.gguf");
        self.upload(&path, admin, b"GGUF small enough".to_vec()).await.expect(201);
    }

    pub async fn upload(&self, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = conventional(self.http.post(format!("http://{}{path}", self.public)), &Method::POST)
            .bearer_auth(token);
        read(request.header("content-type", "application/octet-stream").body(body)).await
    }

    /// Names of stored objects.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().join("objects")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

/// A fresh Idempotency-Key on what makes, any revision on what updates.
pub fn conventional(request: reqwest::RequestBuilder, method: &Method) -> reqwest::RequestBuilder {
    match *method {
        Method::POST => request.header("idempotency-key", uuid::Uuid::now_v7().to_string()),
        Method::PATCH | Method::PUT => request.header("if-match", "*"),
        _ => request,
    }
}

pub struct Tenant {
    pub admin: String,
    pub developer: String,
    pub key: String,
    pub key_id: String,
}

pub async fn read(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.expect("the server answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.expect("the answer is text");
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Asks until it holds.
pub async fn until<F: Future<Output = bool>>(what: &str, deadline: Duration, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < deadline, "{what} did not happen within {deadline:?}");
        tokio::task::yield_now().await;
    }
}
