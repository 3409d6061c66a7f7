//! The inference listener: gateways ask here, and events go back as the engine
//! makes them. Nothing is stored; when the gateway hangs up, the connection to
//! the engine closes, which cancels the generation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use domain::PlacementId;
use domain::inference::{Event, FailureKind, GenerateRequest};
use domain::workloads::WorkloadOwner;
use futures_util::{Stream, stream};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::engines::{EventStream, StreamError};
use crate::holding::Node;
use crate::registry::{Held, InFlight};

/// Largest request.
const MAX_REQUEST_BYTES: usize = 8 << 20;
const MAX_CONNECTIONS: usize = 1024;
const MAX_STREAMS: u32 = 256;
/// Also how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Wait after the system could not accept a connection, e.g. too many files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const NDJSON: &str = "application/x-ndjson";

/// The routes.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(async || axum::Json(serde_json::json!({"status": "ok"}))))
        .route("/generate/{placement_id}", post(generate))
        .with_state(node)
}

/// Serves until `stop`, then finishes the answers under way.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let service = TowerToHyperService::new(router);
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            // Full: those who wait do so in the system's queue.
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!("Cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Events are small and each is awaited.
        let _ = stream.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone()).into_owned();
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = watched.await {
                debug!("A connection ended: {error}");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn generate(
    State(node): State<Arc<Node>>,
    Path(placement_id): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if !is_gateway(&node, &headers) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    let read = axum::body::to_bytes(request.into_body(), MAX_REQUEST_BYTES);
    let body = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let message = format!("a request is at most {MAX_REQUEST_BYTES} bytes");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, FailureKind::Invalid, message);
        }
        Err(_) => {
            let message = "the request did not arrive in time".to_owned();
            return refuse(StatusCode::REQUEST_TIMEOUT, FailureKind::Invalid, message);
        }
    };
    let request: GenerateRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            // Where, but not what: the text may be a prompt.
            let at = format!("line {}, column {}", error.line(), error.column());
            let message = format!("the body is no generate request ({at})");
            return refuse(StatusCode::BAD_REQUEST, FailureKind::Invalid, message);
        }
    };
    match begin(&node, &placement_id, &request).await {
        Ok(answer) => ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(events(answer))).into_response(),
        Err((status, message)) => refuse(status, FailureKind::NotReady, message),
    }
}

fn is_gateway(node: &Node, headers: &HeaderMap) -> bool {
    let identities = node.link.identities();
    let identity = identities.borrow();
    let given =
        headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match (identity.as_ref(), given) {
        (Some(identity), Some(given)) => identity.gateway_key.as_bytes().ct_eq(given).into(),
        _ => false,
    }
}

/// An answer that consists of one failure.
fn refuse(status: StatusCode, kind: FailureKind, message: String) -> Response {
    let line = line_of(&Event::Failed { kind, message });
    (status, [(header::CONTENT_TYPE, NDJSON)], line).into_response()
}

fn line_of(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).expect("events have string keys only");
    line.push(b'\n');
    line.into()
}

/// An answer under way.
struct Answer {
    events: EventStream,
    held: Arc<Held>,
    started: bool,
    ended: bool,
    in_flight: InFlight,
}

async fn begin(
    node: &Node,
    placement_id: &str,
    request: &GenerateRequest,
) -> Result<Answer, (StatusCode, String)> {
    let unknown = || (StatusCode::NOT_FOUND, "this worker does not hold that placement".to_owned());
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    if !node.link.contact.may_serve(Instant::now()) {
        return Err(unavailable(
            "this worker has lost contact with the API; its work may be placed elsewhere",
        ));
    }
    let id: PlacementId = placement_id.parse().map_err(|_| unknown())?;
    let held = node
        .registry
        .get(id)
        .filter(|held| matches!(held.placement.owner, WorkloadOwner::Endpoint(_)))
        .ok_or_else(unknown)?;
    let in_flight = held.enter().ok_or_else(|| unavailable("the placement is being drained"))?;
    let socket = held.engine.socket().ok_or_else(|| unavailable("the model is not in memory yet"))?;
    let events = EventStream::open(&socket, request).await.map_err(|error| {
        debug!("An engine does not answer: {}", crate::link::chain(&error));
        unavailable("the engine does not take requests; it is being restarted")
    })?;
    Ok(Answer { events, held, started: false, ended: false, in_flight })
}

/// The lines of an answer. Nothing is read ahead of the gateway.
fn events(answer: Answer) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(answer, async |mut answer| {
        let line = answer.next().await?;
        Some((Ok(line), answer))
    })
}

impl Answer {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let stop = self.held.stop.clone();
        let next = tokio::select! {
            next = self.events.next() => next?,
            () = stop.cancelled() => {
                self.ended = true;
                return Some(self.failure("the placement was ended".to_owned()));
            }
        };
        match next {
            Ok((event, line)) => {
                self.started = true;
                crate::count_tokens(&event);
                self.in_flight.count(&event);
                Some(line)
            }
            Err(error) => {
                self.ended = true;
                Some(self.failure(sentence(&error)))
            }
        }
    }

    /// Before the first event, another replica may still answer.
    fn failure(&self, message: String) -> Bytes {
        let kind = if self.started { FailureKind::Internal } else { FailureKind::NotReady };
        line_of(&Event::Failed { kind, message })
    }
}

fn sentence(error: &StreamError) -> String {
    format!("{error}; it is being restarted")
}
