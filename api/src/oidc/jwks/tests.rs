//! The cache against a real server that rotates, stalls, breaks and lies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::Response;
use axum::routing::get;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::oidc::testing::{P256, RSA, RSA_OTHER, hand_clock};

const START: i64 = 1_800_000_000;
/// Short, so that a server that stalls costs a test little.
const TIMEOUT: Duration = Duration::from_millis(400);

/// What the server answers when asked for keys.
#[derive(Clone)]
enum Answer {
    Keys(Value),
    Status(u16),
    Stall,
    StallInBody,
    Huge,
    Endless,
    Text(&'static str),
    Redirect,
}

#[derive(Clone)]
struct Server {
    issuer: IssuerUrl,
    answer: Arc<Mutex<Answer>>,
    /// What it says of itself, if not the truth.
    description: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> (Self, JoinHandle<()>) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let issuer = format!("http://{}/realms/interior", listener.local_addr().unwrap());
        let server = Self {
            issuer: issuer.parse().unwrap(),
            answer: Arc::new(Mutex::new(Answer::Keys(json!({"keys": [RSA.jwk("k1")]})))),
            description: Arc::default(),
            asked: Arc::default(),
        };
        let app = Router::new()
            .route("/realms/interior/.well-known/openid-configuration", get(describe))
            .route("/keys", get(publish))
            .with_state(server.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (server, serving)
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn description(&self) -> Value {
        let issuer = self.issuer.as_str();
        let base = issuer.strip_suffix("/realms/interior").unwrap();
        json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"), "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{base}/keys"), "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    fn describes_itself_with(&self, member: &str, value: Value) {
        let mut description = self.description();
        description[member] = value;
        *self.description.lock().unwrap() = Some(description);
    }
}

async fn describe(Shared(server): Shared<Server>) -> axum::Json<Value> {
    let lie = server.description.lock().unwrap().clone();
    axum::Json(lie.unwrap_or_else(|| server.description()))
}

async fn publish(Shared(server): Shared<Server>) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    let answer = server.answer.lock().unwrap().clone();
    let builder = Response::builder().header(CONTENT_TYPE, "application/json");
    match answer {
        Answer::Keys(keys) => builder.body(Body::from(keys.to_string())),
        Answer::Status(status) => builder.status(status).body(Body::from("{}")),
        Answer::Stall => std::future::pending().await,
        Answer::StallInBody => {
            let parts = futures_util::stream::once(async { Ok::<_, std::io::Error>("{\"keys\":[") });
            builder.body(Body::from_stream(futures_util::StreamExt::chain(
                parts,
                futures_util::stream::pending(),
            )))
        }
        Answer::Huge => builder.body(Body::from(vec![b' '; 10_000_000])),
        Answer::Endless => {
            let spaces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 16_384]));
            builder.body(Body::from_stream(spaces))
        }
        Answer::Text(text) => builder.header(CONTENT_TYPE, "text/html").body(Body::from(text)),
        Answer::Redirect => builder.status(302).header(LOCATION, "/elsewhere").body(Body::empty()),
    }
    .unwrap()
}

struct World {
    server: Server,
    serving: JoinHandle<()>,
    cache: KeyCache,
    hand: Arc<AtomicI64>,
    kept: Arc<Mutex<Vec<Snapshot>>>,
}

async fn world() -> World {
    let (server, serving) = Server::start().await;
    let (clock, hand) = hand_clock(START);
    let kept: Arc<Mutex<Vec<Snapshot>>> = Arc::default();
    let keep = kept.clone();
    let cache = KeyCache::new(Fetcher::new(true, TIMEOUT).unwrap(), clock, move |_, snapshot| {
        keep.lock().unwrap().push(snapshot);
    });
    World { server, serving, cache, hand, kept }
}

impl World {
    async fn keys(&self, kid: &str) -> Result<Arc<KeySet>, KeysError> {
        self.cache.keys(&self.server.issuer, Some(kid)).await
    }

    async fn has(&self, kid: &str) -> bool {
        self.keys(kid).await.unwrap().has(kid)
    }

    fn pass(&self, secs: i64) {
        self.hand.fetch_add(secs, Ordering::SeqCst);
    }
}

/// Waits for something that happens in the background.
async fn until(mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(std::time::Instant::now() < deadline, "it did not happen within 10 s");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_tokens_at_once_ask_once() {
    let w = world().await;
    let all = join_all((0..200).map(|_| w.keys("k1"))).await;
    assert!(all.into_iter().all(|keys| keys.unwrap().has("k1")));
    assert_eq!(w.server.asked(), 1);
    assert_eq!(w.kept.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_names_make_at_most_one_request_in_30_seconds() {
    let w = world().await;
    assert!(w.has("k1").await);
    for n in 0..50 {
        assert!(!w.has(&format!("x{n}")).await);
    }
    assert_eq!(w.server.asked(), 1);
    w.pass(30);
    join_all((0..50).map(|n| async move { format!("y{n}") }).map(|kid| async { w.has(&kid.await).await }))
        .await;
    assert_eq!(w.server.asked(), 2);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_forgotten() {
    let w = world().await;
    assert!(w.has("k1").await);
    w.server.answers(Answer::Keys(json!({"keys": [RSA_OTHER.jwk("k2"), P256.jwk("k3")]})));
    assert!(!w.has("k2").await, "asked a moment ago");
    w.pass(31);
    assert!(w.has("k2").await);
    w.pass(31);
    assert!(!w.has("k1").await);
}

#[tokio::test]
async fn keys_are_renewed_beside_the_requests_they_serve() {
    let w = world().await;
    assert!(w.has("k1").await);
    w.server.answers(Answer::Keys(json!({"keys": [RSA_OTHER.jwk("k2")]})));
    w.pass(300);
    // The withdrawn key still serves the request that notices its age.
    assert!(w.has("k1").await);
    until(|| w.kept.lock().unwrap().len() == 2).await;
    assert!(!w.has("k1").await);
    assert_eq!(w.server.asked(), 2);
}

#[tokio::test]
async fn a_broken_endpoint_is_named_and_the_keys_serve_on() {
    for (answer, says) in [
        (Answer::Status(500), "answered 500"),
        (Answer::Status(404), "answered 404"),
        (Answer::Status(204), "answered 204"),
        (Answer::Stall, "did not answer within"),
        (Answer::StallInBody, "did not answer within"),
        (Answer::Huge, "more than 256 KiB"),
        (Answer::Endless, "more than 256 KiB"),
        (Answer::Text("<!doctype html><title>Sign in</title>"), "it is not JSON"),
        (Answer::Text(""), "it is not JSON"),
        (Answer::Text("[]"), "no array of keys"),
        (Answer::Redirect, "redirects"),
        (Answer::Keys(json!({"keys": []})), "no key in it"),
        (Answer::Keys(json!({"keys": [{"kty": "oct", "k": "AAAA"}]})), "no key in it"),
        (Answer::Keys(json!({"keys": vec![RSA.jwk("a"); 65]})), "more than 64"),
    ] {
        // Without keys, the reason is told.
        let w = world().await;
        w.server.answers(answer.clone());
        let refused = chain(&w.keys("k1").await.unwrap_err());
        assert!(refused.contains(says), "{says}: {refused}");
        let again = w.keys("k1").await.unwrap_err();
        assert!(matches!(&again, KeysError::Recently(why) if why.contains(says)), "{again}");
        assert_eq!(w.server.asked(), 1, "asked again at once after: {says}");

        // With keys, they serve on.
        let w = world().await;
        assert!(w.has("k1").await);
        w.server.answers(answer);
        w.pass(24 * 3600);
        assert!(w.has("k1").await, "{says}");
        w.pass(31);
        assert!(!w.has("k2").await, "{says}");
        assert_eq!(w.kept.lock().unwrap().len(), 1, "{says}");
    }
}

#[tokio::test]
async fn a_stopped_issuer_is_believed_for_two_days() {
    let w = world().await;
    assert!(w.has("k1").await);
    w.serving.abort();
    until(|| w.serving.is_finished()).await;
    w.pass(48 * 3600 - 1);
    assert!(w.has("k1").await);
    w.pass(1);
    assert!(w.keys("k1").await.is_err());
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let w = world().await;
    assert!(w.has("k1").await);
    let kept = serde_json::to_string(&w.kept.lock().unwrap()[0]).unwrap();
    assert_eq!(w.cache.snapshot(&w.server.issuer), Some(w.kept.lock().unwrap()[0].clone()));
    w.server.answers(Answer::Status(500));

    let (clock, _) = hand_clock(START + 3600);
    let restarted = KeyCache::new(Fetcher::new(true, TIMEOUT).unwrap(), clock, |_, _| {});
    let snapshot: Snapshot = serde_json::from_str(&kept).unwrap();
    restarted.restore(&w.server.issuer, snapshot.clone()).unwrap();
    assert!(restarted.keys(&w.server.issuer, Some("k1")).await.unwrap().has("k1"));
    // Older ones do not replace newer ones, and nonsense nothing.
    let older = Snapshot {
        fetched_at: snapshot.fetched_at - Duration::from_secs(1),
        jwks: json!({"keys": [P256.jwk("old")]}).to_string(),
    };
    restarted.restore(&w.server.issuer, older).unwrap();
    assert_eq!(restarted.snapshot(&w.server.issuer), Some(snapshot.clone()));
    let nonsense = Snapshot { jwks: "{}".to_owned(), ..snapshot };
    assert_eq!(restarted.restore(&w.server.issuer, nonsense), Err(NotKeySet::NoArray));
}

#[tokio::test]
async fn a_request_that_is_given_up_does_not_end_the_asking() {
    let w = world().await;
    let first = w.keys("k1");
    // Polled once: the asking has begun; then dropped.
    assert!(futures_util::FutureExt::now_or_never(first).is_none());
    assert!(w.has("k1").await);
    assert_eq!(w.server.asked(), 1);
}

#[tokio::test]
async fn a_clock_put_back_does_not_stop_the_asking() {
    let w = world().await;
    assert!(w.has("k1").await);
    w.pass(-7200);
    w.server.answers(Answer::Keys(json!({"keys": [RSA.jwk("k2")]})));
    assert!(w.has("k2").await);
}

#[tokio::test]
async fn a_provider_that_speaks_for_another_is_refused() {
    for (member, value, says) in [
        ("issuer", json!("https://id.justice.example"), "calls itself"),
        ("issuer", json!(null), "calls itself"),
        ("jwks_uri", json!("http://id.interior.example/keys"), "is not https"),
        ("jwks_uri", json!("file:///etc/passwd"), "is not https"),
        ("jwks_uri", json!("keys"), "is not a URL"),
        ("jwks_uri", json!(7), "cannot be used"),
        ("token_endpoint", json!("http://169.254.169.254/token"), "is not https"),
        ("authorization_endpoint", json!("javascript:alert(1)"), "is not https"),
    ] {
        let w = world().await;
        w.server.describes_itself_with(member, value);
        let refused = chain(&w.keys("k1").await.unwrap_err());
        assert!(refused.contains(says), "{member}: {refused}");
        assert_eq!(w.server.asked(), 0);
    }
    let w = world().await;
    w.server.describes_itself_with("issuer", json!(format!("{}/", w.server.issuer)));
    assert!(w.keys("k1").await.is_err(), "a slash more");
}

#[tokio::test]
async fn plain_http_is_only_taken_where_the_settings_allow_it() {
    let (server, _serving) = Server::start().await;
    let (clock, _) = hand_clock(START);
    let strict = KeyCache::new(Fetcher::new(false, TIMEOUT).unwrap(), clock, |_, _| {});
    let refused = chain(&strict.keys(&server.issuer, None).await.unwrap_err());
    assert!(refused.contains("is not https"), "{refused}");
    assert_eq!(server.asked(), 0);
}

#[test]
fn limits_are_those_of_the_documents() {
    use crate::oidc::fetch::{FETCH_TIMEOUT, MAX_ANSWER_BYTES};
    assert_eq!((REFRESH_EVERY, FETCH_TIMEOUT), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!(MAX_ANSWER_BYTES, 256 * 1024);
    assert!(KEYS_SERVE >= Duration::from_secs(24 * 3600));
}
