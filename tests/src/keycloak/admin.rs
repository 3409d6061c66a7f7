//! What an administrator of the identity provider tells it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;

use super::realm::ask;

/// The administrator in the database that `cargo xtask test` has prepared.
const ADMIN: &str = "admin";

/// A token lives for a minute.
const TOKEN_KEPT: Duration = Duration::from_secs(30);

/// The administrator of a server.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    http: Client,
    server: String,
    token: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Admin {
    pub(super) fn new(http: Client, server: String) -> Self {
        Self { http, server, token: Arc::default() }
    }

    /// One request below `/admin/realms`; the answer must be a success.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}/admin/realms{path}", self.server);
        let mut request = self.http.request(method.clone(), &url).bearer_auth(self.token().await);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("Keycloak answers");
        let status = answer.status();
        let text = answer.text().await.expect("the answer is text");
        assert!(status.is_success(), "{method} {url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    async fn token(&self) -> String {
        let mut kept = self.token.lock().await;
        if let Some((since, token)) = &*kept
            && since.elapsed() < TOKEN_KEPT
        {
            return token.clone();
        }
        let url = format!("{}/realms/master/protocol/openid-connect/token", self.server);
        let form = [("grant_type", "password"), ("username", ADMIN), ("password", ADMIN)];
        let (status, answer) = ask(&self.http, &url, "admin-cli", &form).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let token = answer["access_token"].as_str().expect("a token").to_owned();
        *kept = Some((Instant::now(), token.clone()));
        token
    }
}
