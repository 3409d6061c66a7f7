//! The internal listener of an API, with the state in memory and in the hands
//! of the test.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::models::Sha256Digest;
use domain::workers::{
    CompleteRequest, DesiredPlacement, DesiredState, JoinRequest, JoinResponse, LEASE_TTL_SECS, LeaseRequest,
    LeasedChunk, PlacementReport, RenewRequest, RenewResponse, ReportRequest,
};
use domain::{Clock, LeaseToken, WorkerId};
use tokio::sync::watch;

pub const JOIN_TOKEN: &str = "chj_test";
pub const GATEWAY_KEY: &str = "gateway-key";
/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Inner {
    pub worker: Option<JoinRequest>,
    pub worker_id: Option<WorkerId>,
    pub joins: u32,
    pub credential: String,
    pub desired: Option<DesiredState>,
    pub reports: HashMap<domain::PlacementId, PlacementReport>,
    /// Every distinct detail that was ever reported.
    pub details: Vec<String>,
    pub blobs: HashMap<Sha256Digest, Vec<u8>>,
    pub waiting: VecDeque<LeasedChunk>,
    pub leased: HashMap<u32, LeaseToken>,
    pub leases: u32,
    pub renewals: u32,
    /// Committed results by chunk.
    pub completed: HashMap<u32, CompleteRequest>,
    /// Leases that are refused when results come.
    pub lost: Vec<u32>,
}

/// The API; clones share their state.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Mutex<Inner>>,
    changes: watch::Sender<u64>,
    pub url: String,
}

impl Api {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let api = Self { inner: Arc::default(), changes: watch::Sender::new(0), url };
        let routes = Router::new()
            .route("/join", post(join))
            .route("/report", post(report))
            .route("/desired", get(desired))
            .route("/blobs/{sha256}", get(blob))
            .route("/jobs/{job}/lease", post(lease))
            .route("/jobs/{job}/chunks/{index}/renew", post(renew))
            .route("/jobs/{job}/chunks/{index}/complete", post(complete));
        let router = Router::new().nest("/internal/v1", routes).with_state(api.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        api
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Changes the state, and wakes whoever waits for it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let out = change(&mut self.lock());
        self.changes.send_modify(|n| *n += 1);
        out
    }

    /// What the worker is to hold from now on.
    pub fn desire(&self, epoch: i64, placements: Vec<DesiredPlacement>) {
        self.change(|inner| {
            let revision = format!("r{}", LeaseToken::generate());
            inner.desired = Some(DesiredState { epoch, revision, placements });
        });
    }

    /// Waits until the state yields something.
    pub async fn wait<T>(&self, what: &str, mut seen: impl FnMut(&Inner) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                if let Some(found) = seen(&self.lock()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain until {what}; reports: {:?}", self.lock().reports.values()),
        }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let expected = format!("Bearer {}", self.lock().credential);
        if given == Some(&expected) { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

type Answer<T> = Result<T, StatusCode>;

async fn join(
    State(api): State<Api>,
    headers: HeaderMap,
    Json(request): Json<JoinRequest>,
) -> Answer<Json<JoinResponse>> {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != &format!("Bearer {JOIN_TOKEN}")) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok(Json(api.change(|inner| {
        inner.joins += 1;
        inner.worker = Some(request);
        inner.credential = format!("chw_{}", inner.joins);
        JoinResponse {
            worker_id: *inner.worker_id.get_or_insert_with(WorkerId::generate),
            credential: inner.credential.clone(),
            gateway_key: GATEWAY_KEY.to_owned(),
        }
    })))
}

async fn report(
    State(api): State<Api>,
    headers: HeaderMap,
    Json(report): Json<ReportRequest>,
) -> Answer<StatusCode> {
    api.authorize(&headers)?;
    api.change(|inner| {
        inner.details.extend(report.placements.iter().filter_map(|p| p.detail.clone()));
        inner.details.dedup();
        inner.reports = report.placements.into_iter().map(|p| (p.placement_id, p)).collect();
    });
    Ok(StatusCode::NO_CONTENT)
}

async fn desired(
    State(api): State<Api>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Answer<Json<DesiredState>> {
    let mut changes = api.changes.subscribe();
    loop {
        api.authorize(&headers)?;
        let now = api.lock().desired.clone();
        match now {
            Some(state) if query.get("after") != Some(&state.revision) => return Ok(Json(state)),
            _ => changes.changed().await.unwrap(),
        }
    }
}

async fn blob(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(sha256): Path<Sha256Digest>,
) -> Answer<Vec<u8>> {
    api.authorize(&headers)?;
    api.lock().blobs.get(&sha256).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn lease(
    State(api): State<Api>,
    headers: HeaderMap,
    Path(job): Path<String>,
    Json(request): Json<LeaseRequest>,
) -> Answer<Result<Json<LeasedChunk>, StatusCode>> {
    api.authorize(&headers)?;
    Ok(api.change(|inner| {
        inner.leases += 1;
        assert_eq!(request.generation, 1);
        let chunk = inner.waiting.pop_front().ok_or(StatusCode::NO_CONTENT)?;
        assert_eq!(chunk.job_id.to_string(), job);
        inner.leased.insert(chunk.index, chunk.token);
        Ok(Json(chunk))
    }))
}

async fn renew(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((_, index)): Path<(String, u32)>,
    Json(request): Json<RenewRequest>,
) -> Answer<Json<RenewResponse>> {
    api.authorize(&headers)?;
    let held = api.change(|inner| {
        inner.renewals += 1;
        inner.leased.get(&index).copied()
    });
    match held {
        Some(token) if token == request.token => Ok(Json(RenewResponse {
            expires_at: Clock::system().now() + Duration::from_secs(LEASE_TTL_SECS),
        })),
        _ => Err(StatusCode::CONFLICT),
    }
}

async fn complete(
    State(api): State<Api>,
    headers: HeaderMap,
    Path((_, index)): Path<(String, u32)>,
    Json(request): Json<CompleteRequest>,
) -> Answer<StatusCode> {
    api.authorize(&headers)?;
    api.change(|inner| {
        if inner.lost.contains(&index) || inner.leased.remove(&index) != Some(request.token) {
            return Err(StatusCode::CONFLICT);
        }
        inner.completed.insert(index, request);
        Ok(StatusCode::NO_CONTENT)
    })
}
