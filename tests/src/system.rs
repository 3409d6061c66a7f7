//! An API and a scheduler in this process, over a database of their own: the
//! real router on real sockets, without a worker.

use std::net::SocketAddr;

use axum::body::Bytes;
use domain::keys::{CredentialKind, Pepper, mint};
use domain::models::Sha256Digest;
use domain::{Clock, EndpointId, PrincipalId, TenantId, VersionId};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use store::objects::Objects;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, rows};
use crate::http::call;

/// The one file of the version that [`System::endpoint`] serves.
pub const WEIGHTS: &[u8] = b"GGUF weights";

/// An API and a scheduler, serving a catalogue of one model.
pub struct System {
    pub db: Database,
    _dir: tempfile::TempDir,
    pub base: String,
    pub public: SocketAddr,
    pub pepper: Pepper,
    pub join_token: String,
    pub http: Client,
    shutdown: CancellationToken,
    processes: Vec<JoinHandle<()>>,
    pub objects: Objects,
}

impl System {
    pub async fn start() -> Self {
        Self::start_with(Clock::system(), |_| ()).await
    }

    /// With an API whose clock is this, and settings that the test changes.
    pub async fn start_with(clock: Clock, change: impl FnOnce(&mut api::Settings)) -> Self {
        let db = Database::fresh().await;
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::local(dir.path()).unwrap();
        let join_token = mint(CredentialKind::Join, [7; 20]);
        let pepper = Pepper::new([3; 32]);
        let deps = api::Deps {
            store: db.store.clone(),
            objects: objects.clone(),
            clock,
            pepper: pepper.clone(),
            join_token: join_token.clone(),
        };
        let any = "127.0.0.1:0".parse().unwrap();
        let mut settings = api::Settings { listen: any, internal_listen: any, ..api::Settings::default() };
        change(&mut settings);
        let server = api::Server::bind(settings, deps).await.unwrap();
        let (base, public) = (format!("http://{}/internal/v1", server.internal_addr), server.public_addr);
        let shutdown = CancellationToken::new();
        let mut processes = vec![tokio::spawn(server.run(shutdown.clone()))];
        processes.push(schedule(&db, &objects, &shutdown));
        let http = Client::builder().no_proxy().build().unwrap();
        Self { db, _dir: dir, base, public, pepper, join_token, http, shutdown, processes, objects }
    }

    pub async fn join(&self, name: &str) -> (String, String) {
        let body = json!({
            "name": name, "pool": "default", "zone": "here", "address": "http://127.0.0.1:9",
            "devices": [{"ordinal": 0, "class": "cpu", "memory_bytes": 4_000_000_000_u64, "milli": 2000}],
        });
        let (status, answer) = self.post("join", &self.join_token, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (answer["worker_id"].as_str().unwrap().to_owned(), answer["credential"].as_str().unwrap().to_owned())
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> (StatusCode, Value) {
        call(&self.http, Method::POST, &format!("{}/{path}", self.base), Some(token), Some(body)).await
    }

    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        call(&self.http, Method::GET, &format!("{}/{path}", self.base), Some(token), None).await
    }

    /// An endpoint with one replica of a version whose one file is `WEIGHTS`.
    pub async fn endpoint(&self) -> EndpointId {
        let (tenant, version, endpoint) =
            (TenantId::generate(), VersionId::generate(), EndpointId::generate());
        let file = Sha256Digest::of(WEIGHTS);
        let content = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(WEIGHTS))]);
        self.objects.put(&format!("models/sha256/{file}"), content, 1 << 20).await.unwrap();
        let manifest =
            json!({"format": "gguf", "files": [{"path": "m.gguf", "sha256": file, "bytes": WEIGHTS.len()}]});
        let mut statements = vec![
            format!("INSERT INTO tenants VALUES ('{tenant}', 'interior', 'Interior', now())"),
            format!("INSERT INTO projects VALUES ('{tenant}', '{tenant}', 'sandbox', 'Sandbox', now())"),
            format!("INSERT INTO models VALUES ('{version}', NULL, 'small', now())"),
            format!("INSERT INTO model_versions VALUES ('{version}', '{version}', NULL, decode('{file}', 'hex'), '{manifest}', now())"),
            format!("INSERT INTO model_files VALUES ('{version}', NULL, 'm.gguf', decode('{file}', 'hex'), {})", WEIGHTS.len()),
            format!(
                "INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at)
                 VALUES ('{endpoint}', '{tenant}', '{tenant}', 'chat', '{version}', 1, 'cpu', 1000000000, 500, now())"
            ),
        ];
        for object in [
            format!("tenant:{tenant}"),
            format!("project:{tenant}"),
            format!("model_version:{version}"),
            format!("endpoint:{endpoint}"),
        ] {
            statements.push(format!("INSERT INTO audit_events (id, at, actor, action, object, verdict, detail) VALUES (gen_random_uuid(), now(), 'test', 'create', '{object}', 'allowed', '{{}}')"));
        }
        statements.push(format!(
            "INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', '{endpoint}', now())"
        ));
        let mut su = self.db.superuser().await;
        for sql in statements {
            rows(&mut su, &sql).await.unwrap();
        }
        endpoint
    }

    /// A signed-in person of that role; of a tenant, if the role has one.
    pub async fn session(&self, role: &str) -> String {
        let principal = PrincipalId::generate();
        let token = mint(CredentialKind::Session, [u8::try_from(role.len()).unwrap(); 20]);
        let hash = hex::encode(self.pepper.hash(&token));
        let tenant = if role == "platform_admin" { "NULL" } else { "(SELECT id FROM tenants)" };
        self.set(&format!("INSERT INTO principals (id, tenant_id, login, display_name, role, password_hash, created_at) VALUES ('{principal}', {tenant}, '{role}', '{role}', '{role}', NULL, now())")).await;
        self.set(&format!("INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at) VALUES (decode('{hash}', 'hex'), '{principal}', '{principal}', now(), now(), now() + interval '1 hour')")).await;
        token
    }

    pub async fn set(&self, sql: &str) {
        rows(&mut self.db.superuser().await, sql).await.unwrap();
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        for process in self.processes {
            process.await.unwrap();
        }
        self.db.finish().await;
    }
}

/// One more scheduler.
pub fn schedule(db: &Database, objects: &Objects, shutdown: &CancellationToken) -> JoinHandle<()> {
    let deps = scheduler::Deps {
        store: db.store.clone(),
        objects: objects.clone(),
        clock: Clock::system(),
        signing_key: domain::certificates::SigningKey::derive(&domain::keys::Pepper::new([3; 32])),
    };
    let shutdown = shutdown.clone();
    tokio::spawn(async move { scheduler::run(scheduler::Settings::default(), deps, shutdown).await.unwrap() })
}
