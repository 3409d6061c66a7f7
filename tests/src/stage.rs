//! An API and a scheduler in this process, and workers whose answers the test
//! writes: for what real engines do not do when asked, such as failing in the
//! middle of an answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Json, Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use domain::certificates::SigningKey;
use domain::inference::{Event, GenerateRequest};
use domain::keys::{CredentialKind, Pepper, mint};
use domain::models::Sha256Digest;
use domain::workers::{DesiredState, LeasedChunk, ReplicaLoad};
use domain::{AuditId, Clock, EndpointId, KeyId, PlacementId, ProjectId, TenantId, VersionId};
use futures_util::StreamExt;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use store::objects::Objects;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, rows};
use crate::http::call;
use crate::wait::until;

/// How long anything on the stage may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_millis(300);

/// An API and a scheduler.
pub struct Stage {
    /// Their database.
    pub db: Database,
    /// Base URL of the public listener.
    pub public: String,
    /// Base URL of the internal listener's routes.
    pub internal: String,
    /// For requests of the test.
    pub http: Client,
    /// Their object store.
    pub objects: Objects,
    pepper: Pepper,
    join_token: String,
    shutdown: CancellationToken,
    processes: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// A tenant with a project and an API key.
#[derive(Clone, Debug)]
pub struct Ministry {
    /// The tenant.
    pub tenant: TenantId,
    /// The project, with the same UUID.
    pub project: ProjectId,
    /// The secret of its API key.
    pub key: String,
}

impl Stage {
    /// Starts both on an empty database.
    pub async fn start() -> Self {
        Self::start_with(|_, _| ()).await
    }

    /// The same, with settings that the test changes.
    pub async fn start_with(change: impl FnOnce(&mut api::Settings, &mut scheduler::Settings)) -> Self {
        let db = Database::fresh().await;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let objects = Objects::local(dir.path()).expect("an object store");
        let pepper = Pepper::new([3; 32]);
        let join_token = mint(CredentialKind::Join, [7; 20]);
        let deps = api::Deps {
            store: db.store.clone(),
            objects: objects.clone(),
            clock: Clock::system(),
            pepper: pepper.clone(),
            join_token: join_token.clone(),
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut settings = api::Settings { listen: any, internal_listen: any, ..api::Settings::default() };
        let mut scheduling = scheduler::Settings::default();
        change(&mut settings, &mut scheduling);
        let server = api::Server::bind(settings, deps).await.expect("the API listens");
        let public = format!("http://{}", server.public_addr);
        let internal = format!("http://{}/internal/v1", server.internal_addr);
        let shutdown = CancellationToken::new();
        let deps = scheduler::Deps {
            store: db.store.clone(),
            objects: objects.clone(),
            clock: Clock::system(),
            signing_key: SigningKey::derive(&pepper),
        };
        let stop = shutdown.clone();
        let processes = vec![
            tokio::spawn(server.run(shutdown.clone())),
            tokio::spawn(async move {
                scheduler::run(scheduling, deps, stop).await.expect("the scheduler runs");
            }),
        ];
        let http = Client::builder().no_proxy().build().expect("a client");
        Self { db, public, internal, http, objects, pepper, join_token, shutdown, processes, _dir: dir }
    }

    /// Stops everything, which settles everything, and checks what is left.
    pub async fn stop(self) {
        self.stop_and(async |_| ()).await;
    }

    /// Stops everything, then lets the test look at the database.
    pub async fn stop_and(self, look: impl AsyncFnOnce(&Database)) {
        self.shutdown.cancel();
        for process in self.processes {
            process.await.expect("no process of the stage panics");
        }
        look(&self.db).await;
        self.db.finish().await;
    }

    /// A statement with the superuser's hands.
    pub async fn set(&self, sql: &str) {
        rows(&mut self.db.superuser().await, sql).await.expect("the statement is right");
    }

    async fn insert(&self, object: &str, sql: &str) {
        self.set(sql).await;
        let id = AuditId::generate();
        self.set(&format!(
            "INSERT INTO audit_events VALUES ('{id}', NULL, now(), 'test', 'create', '{object}', 'allowed', '{{}}')"
        ))
        .await;
    }

    /// A tenant.
    pub async fn ministry(&self, slug: &str) -> Ministry {
        let tenant = TenantId::generate();
        let mut random = [0; 20];
        random[..16].copy_from_slice(tenant.0.as_bytes());
        let key = mint(CredentialKind::ApiKey, random);
        let (id, hash) = (KeyId::generate(), hex::encode(self.pepper.hash(&key)));
        self.insert(
            &format!("tenant:{tenant}"),
            &format!("INSERT INTO tenants VALUES ('{tenant}', '{slug}', '{slug}', now())"),
        )
        .await;
        self.insert(
            &format!("project:{tenant}"),
            &format!("INSERT INTO projects VALUES ('{tenant}', '{tenant}', 'sandbox', 'Sandbox', now())"),
        )
        .await;
        self.insert(
            &format!("key:{id}"),
            &format!(
                "INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at)
                 VALUES ('{id}', '{tenant}', '{tenant}', 'key', 'chy_', decode('{hash}', 'hex'), now())"
            ),
        )
        .await;
        Ministry { tenant, project: ProjectId(tenant.0), key }
    }

    /// A version of a model of the catalogue. Nobody here loads its file.
    pub async fn model(&self, name: &str) -> VersionId {
        let version = VersionId::generate();
        let file = Sha256Digest::of(name.as_bytes());
        let manifest =
            json!({"format": "gguf", "files": [{"path": "m.gguf", "sha256": file, "bytes": 1000}]});
        self.set(&format!("INSERT INTO models VALUES ('{version}', NULL, '{name}', now())")).await;
        self.insert(
            &format!("model_version:{version}"),
            &format!("INSERT INTO model_versions VALUES ('{version}', '{version}', NULL, decode('{file}', 'hex'), '{manifest}', now())"),
        )
        .await;
        version
    }

    /// An endpoint under the name of its model's version.
    pub async fn endpoint(&self, of: &Ministry, name: &str, version: VersionId, replicas: u32) -> EndpointId {
        let (endpoint, tenant) = (EndpointId::generate(), of.tenant);
        self.insert(
            &format!("endpoint:{endpoint}"),
            &format!(
                "INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at)
                 VALUES ('{endpoint}', '{tenant}', '{tenant}', '{name}', '{version}', {replicas}, 'cpu', 1000000000, 500, now())"
            ),
        )
        .await;
        self.set(&format!(
            "INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', '{endpoint}', now())"
        ))
        .await;
        endpoint
    }

    /// A worker that joins and says of every placement that it is ready.
    pub async fn worker(&self, name: &str, script: impl Script) -> Worker {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("a port"));
        let devices =
            json!([{"ordinal": 0, "class": "cpu", "memory_bytes": 4_000_000_000_u64, "milli": 500}]);
        let body =
            json!({"name": name, "pool": "default", "zone": "here", "address": address, "devices": devices});
        let url = format!("{}/join", self.internal);
        let (status, joined) = call(&self.http, Method::POST, &url, Some(&self.join_token), Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{joined}");
        let text = |field: &str| joined[field].as_str().expect("a text").to_owned();
        let inner = Arc::new(Inner {
            gateway_key: text("gateway_key"),
            script: Box::new(script),
            asked: AtomicUsize::new(0),
            hung_up: AtomicUsize::new(0),
        });
        let router = Router::new().route("/generate/{placement}", post(generate)).with_state(inner.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let placements = Arc::<Mutex<HashMap<PlacementId, i64>>>::default();
        let load = Arc::<Mutex<Option<ReplicaLoad>>>::default();
        let credential = text("credential");
        let reporting = tokio::spawn(report(
            self.http.clone(),
            self.internal.clone(),
            credential.clone(),
            placements.clone(),
            load.clone(),
        ));
        let tasks = vec![serving, reporting];
        Worker { id: text("worker_id"), credential, placements, load, inner, tasks }
    }

    /// A request of a ministry to the public listener.
    pub fn request(&self, of: &Ministry, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.public)).bearer_auth(&of.key)
    }

    /// A request of a ministry with JSON, and its answer.
    pub async fn call(
        &self,
        of: &Ministry,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        call(&self.http, method, &format!("{}{path}", self.public), Some(&of.key), body).await
    }

    /// Waits until an endpoint has this many ready replicas.
    pub async fn until_ready(&self, replicas: i64) {
        until("readiness", PATIENCE, async || {
            let ready = self.db.count("SELECT count(*) FROM placements WHERE state = 'ready'").await;
            (ready == replicas).then_some(())
        })
        .await;
    }
}

/// What a worker answers to a request.
pub trait Script: Fn(&GenerateRequest) -> Vec<Step> + Send + Sync + 'static {}
impl<F: Fn(&GenerateRequest) -> Vec<Step> + Send + Sync + 'static> Script for F {}

type BoxedScript = Box<dyn Fn(&GenerateRequest) -> Vec<Step> + Send + Sync>;

/// A step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// This event.
    Say(Event),
    /// Nothing more until the caller hangs up.
    Hang,
    /// The connection breaks.
    Break,
}

/// A worker on the stage. Dropped, it is dead: its port refuses connections.
pub struct Worker {
    /// Its identifier.
    pub id: String,
    credential: String,
    placements: Arc<Mutex<HashMap<PlacementId, i64>>>,
    load: Arc<Mutex<Option<ReplicaLoad>>>,
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

struct Inner {
    gateway_key: String,
    script: BoxedScript,
    asked: AtomicUsize,
    hung_up: AtomicUsize,
}

impl Worker {
    /// How many answers it was asked for.
    pub fn asked(&self) -> usize {
        self.inner.asked.load(Ordering::SeqCst)
    }

    /// How many answers ended because the caller hung up.
    pub fn hung_up(&self) -> usize {
        self.inner.hung_up.load(Ordering::SeqCst)
    }

    /// Closes its port but goes on reporting: it looks alive and is not.
    pub fn stop_serving(&self) {
        self.tasks[0].abort();
    }

    /// Says from now on that each of its replicas is so busy.
    pub fn is_busy(&self, load: ReplicaLoad) {
        *self.load.lock().expect("no panic") = Some(load);
    }

    /// What is placed on it, with generations.
    pub fn placements(&self) -> Vec<(PlacementId, i64)> {
        self.placements.lock().expect("no panic").iter().map(|(id, g)| (*id, *g)).collect()
    }

    /// Says something about a job's chunks.
    pub async fn post(&self, stage: &Stage, path: &str, body: Value) -> (StatusCode, Value) {
        call(
            &stage.http,
            Method::POST,
            &format!("{}/{path}", stage.internal),
            Some(&self.credential),
            Some(body),
        )
        .await
    }

    /// Leases a chunk of a job for whichever placement it has for it.
    pub async fn lease(&self, stage: &Stage, job: &str) -> Option<LeasedChunk> {
        until("a share of the job", PATIENCE, async || {
            for (placement, generation) in self.placements() {
                let body = json!({"placement_id": placement, "generation": generation});
                match self.post(stage, &format!("jobs/{job}/lease"), body).await {
                    (StatusCode::OK, chunk) => {
                        return Some(Some(serde_json::from_value(chunk).expect("a leased chunk")));
                    }
                    (StatusCode::NO_CONTENT, _) => return Some(None),
                    (status, answer) => assert_eq!(status, StatusCode::CONFLICT, "{answer}"),
                }
            }
            None
        })
        .await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn report(
    http: Client,
    internal: String,
    credential: String,
    placements: Arc<Mutex<HashMap<PlacementId, i64>>>,
    load: Arc<Mutex<Option<ReplicaLoad>>>,
) {
    loop {
        let (status, desired) =
            call(&http, Method::GET, &format!("{internal}/desired"), Some(&credential), None).await;
        if status == StatusCode::OK {
            let desired: DesiredState = serde_json::from_value(desired).expect("desired state");
            let load = *load.lock().expect("no panic");
            let reports: Vec<Value> = desired
                .placements
                .iter()
                .map(|p| {
                    let state = if p.drain { "ended" } else { "ready" };
                    let load = load.filter(|_| !p.drain);
                    json!({"placement_id": p.placement_id, "generation": p.generation, "state": state, "detail": null, "load": load})
                })
                .collect();
            let live = desired.placements.iter().filter(|p| !p.drain).map(|p| (p.placement_id, p.generation));
            *placements.lock().expect("no panic") = live.collect();
            let body = json!({"placements": reports});
            call(&http, Method::POST, &format!("{internal}/report"), Some(&credential), Some(body)).await;
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Counts when it is dropped before the answer's end.
struct HangUp(Option<Arc<Inner>>);

impl HangUp {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(inner) = &self.0 {
            inner.hung_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn generate(
    State(inner): State<Arc<Inner>>,
    Path(_): Path<PlacementId>,
    headers: HeaderMap,
    Json(request): Json<GenerateRequest>,
) -> Response {
    let expected = format!("Bearer {}", inner.gateway_key);
    if headers.get(AUTHORIZATION).is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    inner.asked.fetch_add(1, Ordering::SeqCst);
    let steps = (inner.script)(&request);
    let guard = HangUp(Some(inner));
    let body =
        futures_util::stream::unfold((steps.into_iter(), guard), |(mut steps, mut guard)| async move {
            match steps.next() {
                Some(Step::Say(event)) => {
                    let line = serde_json::to_string(&event).expect("an event is JSON") + "\n";
                    Some((Ok(Bytes::from(line)), (steps, guard)))
                }
                Some(Step::Hang) => std::future::pending::<Option<_>>().await,
                Some(Step::Break) => {
                    guard.disarm();
                    Some((Err(std::io::Error::other("the test breaks it")), (steps, guard)))
                }
                None => {
                    guard.disarm();
                    None
                }
            }
        });
    // Each event is sent by itself, as a real worker does.
    let body = body.then(|part| async {
        tokio::task::yield_now().await;
        part
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(body)).into_response()
}

/// For scripts: an answer of these words, one token each.
pub fn says(words: &[&str]) -> Vec<Step> {
    let tokens = u32::try_from(words.len()).expect("few words");
    let mut steps = vec![Step::Say(Event::Started { prompt_tokens: 5 })];
    steps.extend(words.iter().map(|w| text(w)));
    steps.push(Step::Say(Event::Finished {
        reason: domain::inference::FinishReason::Stop,
        counts: domain::inference::TokenCounts { prompt_tokens: 5, completion_tokens: tokens },
        accelerator_ms: 7,
    }));
    steps
}

/// For scripts: a word of one token.
pub fn text(word: &str) -> Step {
    Step::Say(Event::Text { text: word.to_owned(), tokens: 1 })
}
