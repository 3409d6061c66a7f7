//! A small identity provider that runs in the test: it signs whatever the test
//! says, and signs in whoever the test names. For what a real one does not do
//! when asked; see `keycloak` for a real one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// What access tokens are for.
pub const AUDIENCE: &str = "chancery-api";
/// Our client.
pub const CLIENT: &str = "chancery";
/// How long tokens count, in seconds.
const LIFE_SECS: i64 = 300;

/// The provider.
pub struct Issuer {
    /// Its issuer URL.
    pub url: String,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    url: String,
    state: Mutex<Present>,
}

struct Present {
    key: RsaKeyPair,
    kid: String,
    /// Who signs in: subject and groups.
    person: (String, Vec<String>),
    /// The session at the provider.
    sid: String,
    codes: HashMap<String, HashMap<String, String>>,
}

impl Issuer {
    /// Starts one on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/realm", listener.local_addr().expect("a port"));
        let state = Present {
            key: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            kid: "k1".to_owned(),
            person: (String::new(), Vec::new()),
            sid: String::new(),
            codes: HashMap::new(),
        };
        let inner = Arc::new(Inner { url: url.clone(), state: Mutex::new(state) });
        let router = Router::new()
            .route("/realm/.well-known/openid-configuration", get(describe))
            .route("/realm/keys", get(keys))
            .route("/realm/authorize", get(authorize))
            .route("/realm/token", post(exchange))
            .with_state(inner.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, inner, serving }
    }

    /// From now on this person signs in, in a new session of that name.
    pub fn signs_in(&self, subject: &str, groups: &[&str], sid: &str) {
        let mut state = self.inner.state();
        state.person = (subject.to_owned(), groups.iter().map(|g| (*g).to_owned()).collect());
        state.sid = sid.to_owned();
    }

    /// A new key; the old one is withdrawn.
    pub fn rotate(&self, kid: &str) {
        let mut state = self.inner.state();
        state.key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        state.kid = kid.to_owned();
    }

    /// An access token.
    pub fn token(&self, subject: &str, groups: &[&str]) -> String {
        self.token_with(subject, groups, |_| ())
    }

    /// An access token whose claims are changed before it is signed.
    pub fn token_with(&self, subject: &str, groups: &[&str], change: impl Fn(&mut Value)) -> String {
        let mut claims = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now(), "exp": now() + LIFE_SECS,
            "jti": Uuid::now_v7(), "groups": groups, "name": format!("{subject} Example"),
            "email": format!("{subject}@interior.example"),
        });
        change(&mut claims);
        self.inner.state().sign("at+jwt", &claims)
    }

    /// Says that a session ended, or all of a subject.
    pub fn logout_token(&self, sid: Option<&str>, subject: Option<&str>) -> String {
        let mut claims = json!({
            "iss": self.url, "aud": CLIENT, "iat": now(), "exp": now() + 60, "jti": Uuid::now_v7(),
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        for (name, value) in [("sid", sid), ("sub", subject)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        self.inner.state().sign("logout+jwt", &claims)
    }

    /// Nobody answers any more.
    pub async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, Present> {
        self.state.lock().expect("no panic")
    }
}

impl Present {
    fn sign(&self, typ: &str, claims: &Value) -> String {
        let header = json!({"alg": "RS256", "typ": typ, "kid": self.kid});
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{message}.{}", BASE64.encode(signature))
    }
}

fn now() -> i64 {
    domain::Clock::system().now().unix_secs()
}

async fn describe(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let url = &inner.url;
    Json(json!({
        "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/keys"), "end_session_endpoint": format!("{url}/logout"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"], "backchannel_logout_supported": true,
    }))
}

async fn keys(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let state = inner.state();
    let der = state.key.public_key().as_der().expect("a key").as_ref().to_vec();
    // The modulus of 256 bytes and the exponent 65537 end the key's encoding.
    let modulus = &der[der.len() - 5 - 256..der.len() - 5];
    Json(json!({"keys": [
        {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": state.kid, "n": BASE64.encode(modulus), "e": "AQAB"},
    ]}))
}

/// Signs in whoever the test named, without asking.
async fn authorize(
    State(inner): State<Arc<Inner>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Redirect {
    let code = Uuid::now_v7().to_string();
    let back = format!("{}?code={code}&state={}", asked["redirect_uri"], asked["state"]);
    inner.state().codes.insert(code, asked);
    Redirect::to(&back)
}

async fn exchange(State(inner): State<Arc<Inner>>, Form(form): Form<HashMap<String, String>>) -> Response {
    let mut state = inner.state();
    let asked = state.codes.remove(&form["code"]);
    let challenge = BASE64.encode(Sha256::digest(&form["code_verifier"]));
    let Some(asked) = asked.filter(|asked| asked["code_challenge"] == challenge) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))).into_response();
    };
    let (subject, groups) = &state.person;
    let claims = json!({
        "iss": inner.url, "aud": CLIENT, "sub": subject, "iat": now(), "exp": now() + LIFE_SECS,
        "nonce": asked["nonce"], "sid": state.sid, "groups": groups, "name": format!("{subject} Example"),
    });
    let id_token = state.sign("JWT", &claims);
    Json(json!({"access_token": "at", "token_type": "Bearer", "id_token": id_token})).into_response()
}
