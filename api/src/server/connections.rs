//! Accepting and serving connections: HTTP/1.1 and HTTP/2, with a cap, time
//! limits, and a stop that drops no accepted request.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Version};
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::io::WriteTimeout;
use crate::settings::Settings;
use crate::state::App;

/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 100;
/// Pause after the machine could not accept, e.g. without file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// When stopping: how long a connection that was just accepted may take to
/// send its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How long a connection may take to say goodbye once it is idle.
const GOODBYE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Limits {
    header: Duration,
    idle: Duration,
    write: Duration,
}

/// Serves until the app drains, and then until every request is answered or
/// the time for that is over.
pub(super) async fn serve(listener: TcpListener, router: Router, app: &App, name: &'static str) {
    let settings = &app.settings;
    let limits = Limits {
        header: Duration::from_secs(settings.header_timeout_secs),
        idle: Duration::from_secs(settings.idle_timeout_secs),
        write: Duration::from_secs(settings.write_timeout_secs),
    };
    let builder = Arc::new(builder(settings));
    let (open, forced) = (TaskTracker::new(), CancellationToken::new());
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let start = |stream: TcpStream, peer, permit: OwnedSemaphorePermit| {
        // Without it, small answers wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let router = router.clone().layer(axum::Extension(ConnectInfo::<std::net::SocketAddr>(peer)));
        let served = connection(stream, router, builder.clone(), limits.clone(), app.draining.clone());
        let forced = forced.clone();
        open.spawn(async move {
            metrics::gauge!("chancery_http_connections", "listener" => name).increment(1);
            forced.run_until_cancelled(served).await;
            metrics::gauge!("chancery_http_connections", "listener" => name).decrement(1);
            drop(permit);
        });
    };
    let accepting = async {
        loop {
            let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => start(stream, peer, permit),
                Err(e) => {
                    tracing::warn!(error = %e, "Cannot accept a connection on the {name} listener");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    app.draining.run_until_cancelled(accepting).await;

    // The kernel has accepted these already; closing now would reset them.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        let Ok(permit) = permits.clone().try_acquire_owned() else { break };
        start(stream, peer, permit);
    }
    drop(listener);
    open.close();
    let drain = Duration::from_secs(settings.drain_timeout_secs);
    if tokio::time::timeout(drain, open.wait()).await.is_err() {
        tracing::warn!("{} connections of the {name} listener were cut after {drain:?}", open.len());
        forced.cancel();
        open.wait().await;
    }
}

fn builder(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(settings.header_timeout_secs))
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_http2_streams)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).expect("a small constant"));
    builder
}

async fn connection(
    stream: TcpStream,
    router: Router,
    builder: Arc<auto::Builder<TokioExecutor>>,
    limits: Limits,
    draining: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let counted = activity.clone();
    let stopping = draining.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let busy = Busy::new(counted.clone());
        let (router, stopping) = (router.clone(), stopping.clone());
        async move {
            let http1 = request.version() < Version::HTTP_2;
            let mut response = router.oneshot(request.map(Body::new)).await?;
            if http1 && stopping.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Body::new(Counted { body, _busy: busy })))
        }
    });
    let io = TokioIo::new(WriteTimeout::new(stream, limits.write));
    let mut served = pin!(builder.serve_connection(io, service));

    let mut deadline = Instant::now() + limits.header;
    let mut closing = false;
    loop {
        let changed = activity.changed.notified();
        tokio::select! {
            // What has arrived is served before any time limit is looked at.
            biased;
            result = &mut served => {
                if let Err(e) = result {
                    tracing::debug!(error = e.to_string(), "A connection ended early");
                }
                return;
            }
            // Its requests began or ended: the time to be idle, or to send the
            // rest of the last answer and close, starts anew.
            () = changed => {
                if !closing && draining.is_cancelled() {
                    closing = true;
                    served.as_mut().graceful_shutdown();
                }
                deadline = Instant::now() + if closing { limits.write + GOODBYE } else { limits.idle };
            }
            () = draining.cancelled(), if !closing && activity.started() => {
                closing = true;
                deadline = Instant::now() + GOODBYE;
                served.as_mut().graceful_shutdown();
            }
            // Accepted, and its first request may be on its way.
            () = draining.cancelled(), if !closing && deadline > Instant::now() + FIRST_REQUEST => {
                deadline = Instant::now() + FIRST_REQUEST;
            }
            () = sleep_until(deadline), if activity.idle() => {
                if closing {
                    return;
                }
                closing = true;
                deadline = Instant::now() + GOODBYE;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Requests of one connection.
#[derive(Default)]
struct Activity {
    in_flight: AtomicUsize,
    total: AtomicUsize,
    changed: Notify,
}

impl Activity {
    fn idle(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    fn started(&self) -> bool {
        self.total.load(Ordering::Relaxed) > 0
    }
}

/// One request, until its answer is sent or given up.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::Relaxed);
        activity.total.fetch_add(1, Ordering::Relaxed);
        activity.changed.notify_one();
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// A body that keeps its connection busy.
struct Counted {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
