//! What the log never tells: the API as a process, at its most talkative, is
//! sent every kind of secret, rightly and wrongly; none is in what it wrote.

use domain::Clock;
use reqwest::header::COOKIE;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::browser::{Browser, location, parameter};
use tests::database::Database;
use tests::http::with_conventions;
use tests::issuer::{AUDIENCE, CLIENT, Issuer};
use tests::ministries::{PASSWORD, Platform};
use tests::process::ApiProcess;
use totp_rs::{Builder, Secret};

const ADMIN: &str = "admin@localhost";
const HEAD: &str = "head@interior";
const NEXT_PASSWORD: &str = "the next long enough password";
const FIRST_PASSWORD: &str = "a first password to be changed";
const WRONG_PASSWORD: &str = "what somebody typed by mistake";
const CLIENT_SECRET: &str = "client-secret-of-the-ministry";
const PROMPT: &str = "Draft the minister's resignation";
const IDEMPOTENCY_KEY: &str = "the-idempotency-key-that-seals-an-answer";
const DENIED_KEY: &str = "chy_0000000000000000000000000000000000000000";

/// Requests to the process, and the secrets among them.
struct Tongue {
    api: ApiProcess,
    http: Client,
    /// With prior knowledge of HTTP/2, whose library logs more.
    http2: Client,
    secrets: Vec<(&'static str, String)>,
}

impl Tongue {
    async fn send(
        &self,
        http: &Client,
        method: Method,
        path: &str,
        token: &str,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.api.url) };
        let mut request = with_conventions(http.request(method.clone(), url), &method);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// A request that is answered with this status, over HTTP/1 and, where it
    /// changes nothing, over HTTP/2 as well.
    async fn says(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
        expected: u16,
    ) -> Value {
        let (status, answer) = self.send(&self.http, method.clone(), path, token, body.as_ref()).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        if method == Method::GET || expected >= 400 {
            let (again, _) = self.send(&self.http2, method.clone(), path, token, body.as_ref()).await;
            assert_eq!(again, expected, "{method} {path} over HTTP/2");
        }
        answer
    }

    async fn post(&self, path: &str, token: &str, body: Value, expected: u16) -> Value {
        self.says(Method::POST, path, token, Some(body), expected).await
    }

    fn is_secret(&mut self, what: &'static str, value: &Value) -> String {
        let value = value.as_str().unwrap_or_else(|| panic!("{what}: {value}")).to_owned();
        self.secrets.push((what, value.clone()));
        value
    }

    async fn sign_in(&mut self, login: &str, password: &str) -> String {
        let session =
            self.post("/api/v1/sessions", "", json!({"login": login, "password": password}), 201).await;
        self.is_secret("a session", &session["token"])
    }

    /// Passwords, also such as are refused, and sessions.
    async fn passwords(&mut self) -> (String, String) {
        let admin = self.sign_in(ADMIN, PASSWORD).await;
        self.post("/api/v1/tenants", &admin, json!({"slug": "interior", "name": "Interior"}), 201).await;
        let head = json!({"login": HEAD, "display_name": "Head", "role": "tenant_admin",
            "password": FIRST_PASSWORD, "must_change_password": true});
        self.post("/api/v1/accounts?tenant=interior", &admin, head.clone(), 201).await;
        self.post("/api/v1/accounts?tenant=interior", &admin, head, 409).await;
        let first = self.sign_in(HEAD, FIRST_PASSWORD).await;
        let change = json!({"old": FIRST_PASSWORD, "new": NEXT_PASSWORD});
        self.post("/api/v1/me/password", &first, change, 204).await;
        let wrong = |field: &str| {
            let mut body = json!({"login": HEAD, "password": WRONG_PASSWORD});
            if !field.is_empty() {
                body[field] = json!(WRONG_PASSWORD);
            }
            body
        };
        self.post("/api/v1/sessions", "", wrong(""), 401).await;
        self.post("/api/v1/sessions", "", wrong("pasword"), 422).await;
        self.post("/api/v1/sessions", "", json!({"login": HEAD, "password": [WRONG_PASSWORD]}), 422).await;
        // Not JSON at all.
        let text = format!("{{\"login\": \"{HEAD}\", \"password\": \"{WRONG_PASSWORD}");
        for http in [&self.http, &self.http2] {
            let request = http.post(format!("{}/api/v1/sessions", self.api.url)).body(text.clone());
            let answer = request.header("content-type", "application/json").send().await.unwrap();
            assert!(answer.status().is_client_error());
        }
        (admin, self.sign_in(HEAD, NEXT_PASSWORD).await)
    }

    /// One-time codes: seed, code, codes for a lost device.
    async fn codes(&mut self, head: &str) {
        let enrolment = self.post("/api/v1/me/one-time-code", head, json!({}), 201).await;
        let seed = self.is_secret("a seed", &enrolment["secret"]);
        let device = Builder::new().with_secret(Secret::try_from_base32(&seed).unwrap()).build().unwrap();
        let code = || device.generate(u64::try_from(Clock::system().now().unix_secs()).unwrap()).to_string();
        let code = json!({"code": code()});
        let confirmed = self.post("/api/v1/me/one-time-code/confirm", head, code.clone(), 200).await;
        // Six digits alone are found anywhere.
        self.secrets.push(("a code", code["code"].to_string()));
        for recovery in confirmed["recovery_codes"].as_array().unwrap() {
            self.is_secret("a recovery code", recovery);
        }
        let with = |code: &Value| json!({"login": HEAD, "password": NEXT_PASSWORD, "one_time_code": code});
        self.post("/api/v1/sessions", "", with(&code["code"]), 401).await;
        let session = self.post("/api/v1/sessions", "", with(&confirmed["recovery_codes"][0]), 201).await;
        self.is_secret("a session", &session["token"]);
    }

    /// API keys, and what is kept of the request that made one.
    async fn keys(&mut self, head: &str) {
        let url = format!("{}/api/v1/api-keys", self.api.url);
        let mut answers = Vec::new();
        for http in [&self.http, &self.http2] {
            let request = http.post(&url).bearer_auth(head).header("idempotency-key", IDEMPOTENCY_KEY);
            let answer = request.json(&json!({"project": "sandbox", "name": "key"})).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED);
            answers.push(answer.json::<Value>().await.unwrap());
        }
        assert_eq!(answers[0], answers[1], "the kept answer is given again");
        let key = self.is_secret("an API key", &answers[0]["secret"]);
        let rotate = format!("/api/v1/api-keys/{}/rotate", answers[0]["key"]["id"].as_str().unwrap());
        let rotated = self.post(&rotate, head, json!({}), 201).await;
        self.is_secret("a rotated key", &rotated["secret"]);
        self.says(Method::GET, "/api/v1/me", &key, None, 200).await;
        self.says(Method::GET, "/api/v1/me", DENIED_KEY, None, 401).await;
        self.says(Method::GET, "/api/v1/accounts/x?tenant=interior", &key, None, 404).await;
        // What people write, which is nobody else's.
        let say = json!({"model": "chat", "messages": [{"role": "user", "content": PROMPT}]});
        self.post("/v1/chat/completions", &key, say.clone(), 404).await;
        self.post("/v1/chat/completions", &key, json!({"model": "chat", "messages": PROMPT}), 400).await;
        let line = json!({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": say});
        let part = Part::text(line.to_string()).file_name("in.jsonl");
        let form = Form::new().text("purpose", "batch").part("file", part);
        let request = self.http.post(format!("{}/v1/files", self.api.url)).bearer_auth(&key).multipart(form);
        let file: Value = request.send().await.unwrap().json().await.unwrap();
        let batch = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions",
            "completion_window": "24h"});
        self.post("/v1/batches", &key, batch, 400).await;
        let content = format!("/v1/files/{}/content", file["id"].as_str().unwrap());
        self.says(Method::GET, &content, &key, None, 200).await;
    }

    /// An identity provider: its client's secret, tokens, and all that goes
    /// through the browser.
    async fn provider(&mut self, admin: &str) {
        let id = Issuer::start().await;
        let new = json!({"name": "ours", "issuer": id.url, "client_id": CLIENT, "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE, "mappings": [{"group": "builders", "role": "developer"}]});
        let provider = self.post("/api/v1/identity-providers?tenant=interior", admin, new, 201).await;
        for (what, token, expected) in [
            ("a token", id.token("anna", &["builders"]), 200),
            ("an expired token", id.token_with("anna", &["builders"], |c| c["exp"] = json!(1)), 401),
            ("a strange token", id.token_with("anna", &[], |c| c["aud"] = json!("strange")), 401),
        ] {
            self.secrets.push((what, token.clone()));
            self.says(Method::GET, "/api/v1/me", &token, None, expected).await;
        }
        id.signs_in("anna", &["builders"], "s1");
        let browser = Browser::default();
        let begin = format!("{}{}?return_to=/", self.api.url, provider["login_path"].as_str().unwrap());
        let there = location(&browser.get(&begin).await).expect("the provider's page");
        let back = location(&browser.get(there.as_str()).await).expect("the way back");
        for name in ["code", "state"] {
            self.secrets.push(("of a sign-in", parameter(&back, name).expect("a parameter")));
        }
        // Whoever finds the answer in another browser is refused.
        assert!(Browser::default().get(back.as_str()).await.status().is_client_error());
        assert_eq!(browser.get(back.as_str()).await.status(), StatusCode::SEE_OTHER);
        let cookie = Platform::session(&browser).expect("a session");
        for http in [&self.http, &self.http2] {
            let request = http.get(format!("{}/api/v1/me", self.api.url));
            let request = request.header(COOKIE, format!("__Host-chancery-session={cookie}"));
            assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
        }
        self.secrets.push(("a cookie", cookie));
        let out = id.logout_token(Some("s1"), None);
        let url = format!("{}{}", self.api.url, provider["backchannel_logout_path"].as_str().unwrap());
        let request = self.http.post(url).header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(format!("logout_token={out}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        self.secrets.push(("a logout token", out));
        id.stop().await;
    }

    /// A worker's token and credentials.
    async fn worker(&mut self) {
        let join = format!("{}/join", self.api.internal);
        let body = json!({"name": "node", "pool": "default", "zone": "here", "address": "http://127.0.0.1:9",
            "devices": [{"ordinal": 0, "class": "cpu", "memory_bytes": 4_000_000_000_u64, "milli": 2000}]});
        let token = self.api.join_token.clone();
        let joined = self.post(&join, &token, body, 200).await;
        let credential = self.is_secret("a worker's credential", &joined["credential"]);
        self.is_secret("a gateway's key", &joined["gateway_key"]);
        self.secrets.push(("the join token", token));
        let desired = format!("{}/desired", self.api.internal);
        self.says(Method::GET, &desired, &credential, None, 200).await;
    }
}

#[tokio::test]
async fn the_log_at_its_most_talkative_tells_no_secret() {
    let db = Database::fresh().await;
    api::bootstrap_admin(&db.store, &Clock::system(), ADMIN, PASSWORD, api::FirstPassword::Stays)
        .await
        .unwrap();
    let plain_http = ("API__IDENTITY_PLAIN_HTTP_ON_LOOPBACK", "true");
    let api = ApiProcess::start(&db, &[plain_http, ("LOG__LEVEL", "trace")]).await;
    let client = || Client::builder().no_proxy();
    let mut it = Tongue {
        secrets: vec![("the pepper", hex::encode(api.pepper)), ("the database's URL", db.url())],
        api,
        http: client().build().unwrap(),
        http2: client().http2_prior_knowledge().build().unwrap(),
    };
    for secret in [
        PASSWORD,
        NEXT_PASSWORD,
        FIRST_PASSWORD,
        WRONG_PASSWORD,
        CLIENT_SECRET,
        PROMPT,
        IDEMPOTENCY_KEY,
        DENIED_KEY,
    ] {
        it.secrets.push(("what was sent", secret.to_owned()));
    }
    let (admin, head) = it.passwords().await;
    it.keys(&head).await;
    it.codes(&head).await;
    it.provider(&admin).await;
    it.worker().await;
    it.api.stop().await;

    let log = it.api.log();
    for level in ["TRACE", "DEBUG", "INFO"] {
        assert!(log.contains(level), "control: it logs at {level}");
    }
    assert!(log.contains("/api/v1/api-keys") && log.contains("h2::"), "control: it logs what is asked");
    let mut told = Vec::new();
    for (what, secret) in &it.secrets {
        assert!(secret.len() >= 8, "{what} is too short to look for");
        told.extend(log.lines().filter(|line| line.contains(secret)).map(|line| format!("{what}: {line}")));
    }
    assert!(told.is_empty(), "{} lines tell secrets:\n{}", told.len(), told[..told.len().min(20)].join("\n"));
    db.finish().await;
}
