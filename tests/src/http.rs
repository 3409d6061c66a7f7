//! JSON over HTTP, as tests want it.

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

/// One request; the answer's status and JSON (null when there is none).
pub async fn call(
    http: &Client,
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = http.request(method, url);
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
