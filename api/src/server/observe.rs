//! Each request has an id, a span, a line in the log and its place in the
//! metrics. Paths are logged as their route: a path may hold what is private.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

use crate::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken from a client.
const MAX_ID_BYTES: usize = 64;

/// Id of a request, in its answer's `x-request-id`, in problems and in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTag(Arc<str>);

impl std::fmt::Display for RequestTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestTag {
    /// The client's id if it is a plain word, else a fresh one.
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|id| {
            (8..=MAX_ID_BYTES).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        });
        Self(given.map_or_else(|| Uuid::now_v7().to_string().into(), Arc::from))
    }
}

pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let tag = RequestTag::of(request.headers());
    let method = method_name(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |m| m.as_str().to_owned());
    request.extensions_mut().insert(tag.clone());

    let span = tracing::info_span!("request", request.id = %tag, http.method = method, http.route = route);
    let mut response = next.run(request).instrument(span.clone()).await;

    if let Ok(value) = HeaderValue::from_str(&tag.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let seconds = start.elapsed().as_secs_f64();
    let labels = [("method", method.to_owned()), ("route", route.clone()), ("status", status.to_string())];
    metrics::counter!("chancery_http_requests_total", &labels).increment(1);
    metrics::histogram!("chancery_http_request_seconds", &labels).record(seconds);
    let millis = seconds * 1000.0;
    span.in_scope(|| match response.extensions().get::<Arc<Problem>>() {
        Some(problem) => tracing::info!(
            http.status = status,
            millis,
            problem = problem.detail,
            "{method} {route} was answered with {status}"
        ),
        None => tracing::debug!(http.status = status, millis, "{method} {route} was answered with {status}"),
    });
    response
}

/// A client can invent methods; labels stay few.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_from_clients() {
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            RequestTag::of(&headers).to_string()
        };
        assert_eq!(of("trace-0123.4_5"), "trace-0123.4_5");
        for bad in ["short", "with space", "quote\"quote", &"x".repeat(65), "é-non-ascii"] {
            assert_ne!(of(bad), bad);
            assert_eq!(of(bad).len(), 36);
        }
    }
}
