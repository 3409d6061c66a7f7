//! JSON over HTTP, as tests want it.

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use uuid::Uuid;

/// What the API asks of every request that makes or updates: a fresh
/// Idempotency-Key, and any revision.
pub fn with_conventions(request: RequestBuilder, method: &Method) -> RequestBuilder {
    match *method {
        Method::POST => request.header("idempotency-key", Uuid::now_v7().to_string()),
        Method::PATCH | Method::PUT => request.header("if-match", "*"),
        _ => request,
    }
}

/// One request; the answer's status and JSON (null when there is none).
pub async fn call(
    http: &Client,
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = with_conventions(http.request(method.clone(), url), &method);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("the server answers");
    let status = answer.status();
    let text = answer.text().await.expect("the answer is text");
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}
