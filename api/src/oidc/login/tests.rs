//! Sign-ins against a real server that plays the provider, honestly and not.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::oidc::testing::{ED25519, P256, P384, RSA, Signer, b64, hand_clock, token};

const START: i64 = 1_800_000_000;
const REDIRECT: &str = "http://127.0.0.1:8080/auth/callback";
const SECRET: &str = "s+e:c r%et";

type Change = Box<dyn Fn(&mut Value, &mut Value) + Send + Sync>;

/// What the server does at the token endpoint.
struct Behaviour {
    algorithm: SigningAlgorithm,
    /// Changes header and claims of the ID token before it is signed.
    change: Change,
    /// Answers instead of a token.
    instead: Option<fn() -> Response>,
    auth_methods: Value,
    iss_parameter: bool,
    userinfo: Value,
    /// What the browser was sent with: challenge and nonce by code.
    codes: HashMap<String, (String, String)>,
    /// How clients proved themselves.
    proofs: Vec<String>,
}

#[derive(Clone)]
struct Server {
    base: String,
    inner: Arc<Mutex<Behaviour>>,
}

async fn description(State(server): State<Server>) -> Json<Value> {
    let (base, inner) = (&server.base, server.inner.lock().unwrap());
    Json(json!({
        "issuer": base, "authorization_endpoint": format!("{base}/authorize"), "token_endpoint": format!("{base}/token"),
        "jwks_uri": format!("{base}/keys"), "userinfo_endpoint": format!("{base}/userinfo"),
        "end_session_endpoint": format!("{base}/logout?ui=plain"),
        "response_types_supported": ["code"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": inner.auth_methods,
        "authorization_response_iss_parameter_supported": inner.iss_parameter,
    }))
}

async fn keys(State(_): State<Server>) -> Json<Value> {
    Json(json!({"keys": [RSA.jwk("rsa"), P256.jwk("p256"), P384.jwk("p384"), ED25519.jwk("ed")]}))
}

fn signer(algorithm: SigningAlgorithm) -> (&'static Signer, &'static str) {
    match algorithm {
        SigningAlgorithm::RS256 | SigningAlgorithm::PS256 => (&RSA, "rsa"),
        SigningAlgorithm::ES256 => (&P256, "p256"),
        SigningAlgorithm::ES384 => (&P384, "p384"),
        SigningAlgorithm::EdDSA => (&ED25519, "ed"),
    }
}

async fn exchange(
    State(server): State<Server>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let mut inner = server.inner.lock().unwrap();
    if let Some(answer) = inner.instead {
        return answer();
    }
    let proof = match (headers.get(AUTHORIZATION), form.get("client_secret")) {
        (Some(basic), _) => basic.to_str().unwrap().to_owned(),
        (None, Some(secret)) => format!("post {secret}"),
        (None, None) => "none".to_owned(),
    };
    inner.proofs.push(proof);
    let refused = |error: &str| (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response();
    let Some((challenge, nonce)) = inner.codes.remove(&form["code"]) else { return refused("invalid_grant") };
    let verifier = Sha256::digest(form["code_verifier"].as_bytes());
    if b64(verifier) != challenge
        || form["redirect_uri"] != REDIRECT
        || form["grant_type"] != "authorization_code"
    {
        return refused("invalid_grant");
    }
    let (signer, kid) = signer(inner.algorithm);
    let mut header = json!({"alg": inner.algorithm.as_str(), "typ": "JWT", "kid": kid});
    let mut claims = json!({
        "iss": server.base, "aud": "chancery", "sub": "anna-1", "iat": START, "exp": START + 60, "nonce": nonce,
        "sid": "sid-1", "name": "Anna\u{0} Ada", "email": "anna@interior.example", "groups": ["/staff"],
    });
    (inner.change)(&mut header, &mut claims);
    let id_token = token(signer, inner.algorithm, &header, &claims);
    Json(json!({"access_token": "at-1", "token_type": "Bearer", "expires_in": 60, "id_token": id_token}))
        .into_response()
}

async fn userinfo(State(server): State<Server>, headers: HeaderMap) -> Response {
    assert_eq!(headers[AUTHORIZATION], "Bearer at-1");
    Json(server.inner.lock().unwrap().userinfo.clone()).into_response()
}

struct World {
    server: Server,
    serving: JoinHandle<()>,
    provider: IdentityProvider,
    fetcher: Fetcher,
    cache: KeyCache,
    pepper: Pepper,
    secret: Option<&'static str>,
}

async fn world() -> World {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let inner = Behaviour {
        algorithm: SigningAlgorithm::RS256,
        change: Box::new(|_, _| {}),
        instead: None,
        auth_methods: json!(["client_secret_basic", "client_secret_post"]),
        iss_parameter: false,
        userinfo: json!({"sub": "anna-1"}),
        codes: HashMap::new(),
        proofs: Vec::new(),
    };
    let server = Server { base: base.clone(), inner: Arc::new(Mutex::new(inner)) };
    let app = Router::new()
        .route("/.well-known/openid-configuration", get(description))
        .route("/keys", get(keys))
        .route("/token", post(exchange))
        .route("/userinfo", get(userinfo))
        .with_state(server.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let provider = IdentityProvider {
        id: ProviderId::generate(),
        tenant_id: None,
        name: "interior".parse().unwrap(),
        label: "Interior".to_owned(),
        issuer: base.parse().unwrap(),
        client_id: "chancery".to_owned(),
        audience: "chancery-api".to_owned(),
        algorithms: SigningAlgorithm::ALL.to_vec(),
        groups_claim: "groups".to_owned(),
        mappings: Vec::new(),
        enabled: true,
        revision: 1,
        created_at: now(),
    };
    let fetcher = Fetcher::new(true, Duration::from_secs(5)).unwrap();
    let cache = KeyCache::new(fetcher.clone(), hand_clock(START).0, |_, _| {});
    World { server, serving, provider, fetcher, cache, pepper: Pepper::new([3; 32]), secret: Some(SECRET) }
}

fn now() -> Timestamp {
    hand_clock(START).0.now()
}

/// A sign-in that the provider agreed to.
struct Underway {
    cookie: String,
    answer: Answer,
}

impl World {
    fn client(&self) -> Client<'_> {
        Client {
            provider: &self.provider,
            secret: self.secret,
            redirect_url: REDIRECT,
            fetcher: &self.fetcher,
            keys: &self.cache,
            pepper: &self.pepper,
        }
    }

    fn behave(&self, how: impl FnOnce(&mut Behaviour)) {
        how(&mut self.server.inner.lock().unwrap());
    }

    fn change(&self, change: impl Fn(&mut Value, &mut Value) + Send + Sync + 'static) {
        self.behave(|b| b.change = Box::new(change));
    }

    /// What browser and provider do.
    async fn begin(&self) -> Underway {
        let begun = self.client().begin("/models?page=2", now(), crate::state::random()).await.unwrap();
        let query: HashMap<_, _> = begun.url.query_pairs().into_owned().collect();
        assert_eq!(
            begun.url.as_str().split('?').next(),
            Some(format!("{}/authorize", self.server.base).as_str())
        );
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["client_id"], "chancery");
        assert_eq!(query["redirect_uri"], REDIRECT);
        assert_eq!(query["code_challenge_method"], "S256");
        assert_eq!(
            query["scope"].split(' ').collect::<BTreeSet<_>>(),
            BTreeSet::from(["openid", "profile", "email"])
        );
        for secret in ["state", "nonce", "code_challenge"] {
            assert!(query[secret].len() >= 43, "{secret}");
            assert!(!begun.cookie.contains(&query[secret]));
        }
        assert!(begun.cookie.len() < 4000);
        let code = format!("code-{}", query["state"]);
        let sent = (query["code_challenge"].clone(), query["nonce"].clone());
        self.behave(|b| drop(b.codes.insert(code.clone(), sent)));
        let answer = Answer { code: Some(code), state: Some(query["state"].clone()), iss: None, error: None };
        Underway { cookie: begun.cookie, answer }
    }

    async fn finish(&self, underway: &Underway) -> Result<SignedIn, LoginError> {
        self.client().finish(Some(&underway.cookie), &underway.answer, now()).await
    }

    /// A whole sign-in; the error's chain, if it fails.
    async fn sign_in(&self) -> Result<SignedIn, String> {
        let underway = self.begin().await;
        self.finish(&underway).await.map_err(|e| crate::problem::chain(&e))
    }

    fn logout_token(&self, jti: &str) -> String {
        let claims = json!({
            "iss": self.server.base, "aud": "chancery", "iat": START, "exp": START + 60, "jti": jti, "sid": "sid-1",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        let header = json!({"alg": "RS256", "typ": "logout+jwt", "kid": "rsa"});
        token(&RSA, SigningAlgorithm::RS256, &header, &claims)
    }
}

#[tokio::test]
async fn a_person_signs_in_with_every_algorithm() {
    for algorithm in SigningAlgorithm::ALL {
        let w = world().await;
        w.behave(|b| b.algorithm = algorithm);
        let signed_in = w.sign_in().await.unwrap_or_else(|e| panic!("{algorithm}: {e}"));
        assert_eq!((signed_in.subject.as_str(), signed_in.session.as_deref()), ("anna-1", Some("sid-1")));
        assert_eq!(signed_in.person.display_name, "Anna Ada");
        assert_eq!(signed_in.person.login, "anna@interior.example");
        assert_eq!(signed_in.groups, BTreeSet::from(["/staff".to_owned()]));
        assert_eq!(signed_in.return_to, "/models?page=2");
        assert!(Unverified::parse(&signed_in.id_token).is_ok());
    }
}

#[tokio::test]
async fn the_client_proves_itself_as_the_provider_asks() {
    let mut w = world().await;
    w.sign_in().await.unwrap();
    w.behave(|b| b.auth_methods = json!(["client_secret_post"]));
    w.sign_in().await.unwrap();
    w.behave(|b| b.auth_methods = Value::Null);
    w.sign_in().await.unwrap();
    w.secret = None;
    w.sign_in().await.unwrap();
    let basic =
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("chancery:s%2Be%3Ac+r%25et"));
    let proofs = w.server.inner.lock().unwrap().proofs.clone();
    assert_eq!(proofs, [basic.as_str(), &format!("post {SECRET}"), &basic, "none"]);
}

#[tokio::test]
async fn an_answer_that_is_not_this_sign_ins_is_refused() {
    let w = world().await;
    let try_with = async |change: &dyn Fn(&mut Underway)| {
        let mut underway = w.begin().await;
        change(&mut underway);
        w.finish(&underway).await.unwrap_err()
    };
    let changed = |cookie: &str| {
        let other = if &cookie[20..21] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &cookie[..20], &cookie[21..])
    };
    let other = w.begin().await;
    use LoginError as E;
    assert!(matches!(try_with(&|u| u.answer.state = None).await, E::OtherState));
    assert!(matches!(try_with(&|u| u.answer.state = other.answer.state.clone()).await, E::OtherState));
    assert!(matches!(try_with(&|u| u.cookie = other.cookie.clone()).await, E::OtherState));
    assert!(matches!(try_with(&|u| u.cookie = String::new()).await, E::NothingPending));
    assert!(matches!(try_with(&|u| u.cookie = changed(&u.cookie)).await, E::NothingPending));
    assert!(matches!(try_with(&|u| u.answer.code = None).await, E::NoCode));
    assert!(matches!(try_with(&|u| u.answer.code = Some("x".repeat(5000))).await, E::NoCode));
    assert!(matches!(
        try_with(&|u| u.answer.iss = Some("https://evil.example".to_owned())).await,
        E::OtherIssuer
    ));
    let denied = try_with(&|u| u.answer.error = Some("access_denied\n<script>".to_owned())).await;
    assert!(matches!(denied, E::Refused { error } if error == "access_deniedscript"));
    // The code of another sign-in does not fit the verifier.
    let mixed = try_with(&|u| u.answer.code = other.answer.code.clone()).await;
    assert!(matches!(mixed, E::Refused { error } if error == "invalid_grant"));

    let underway = w.begin().await;
    assert!(matches!(w.client().finish(None, &underway.answer, now()).await, Err(E::NothingPending)));
    let late = w.client().finish(Some(&underway.cookie), &underway.answer, now() + LOGIN_LIFE).await;
    assert!(matches!(late, Err(E::TooLate)));
    // A cookie counts for its own provider only, and a code once.
    let mut elsewhere = w.provider.clone();
    elsewhere.id = ProviderId::generate();
    let client = Client { provider: &elsewhere, ..w.client() };
    let crossed = client.finish(Some(&underway.cookie), &underway.answer, now()).await;
    assert!(matches!(crossed, Err(E::NothingPending)));
    w.finish(&underway).await.unwrap();
    assert!(matches!(w.finish(&underway).await, Err(E::Refused { .. })));
}

#[tokio::test]
async fn a_provider_that_promises_its_name_must_say_it() {
    let w = world().await;
    w.behave(|b| b.iss_parameter = true);
    let mut underway = w.begin().await;
    assert!(matches!(w.finish(&underway).await, Err(LoginError::OtherIssuer)));
    underway.answer.iss = Some(w.server.base.clone());
    w.finish(&underway).await.unwrap();
}

#[tokio::test]
async fn an_id_token_that_does_not_fit_is_refused() {
    type Mutate = fn(&mut Value, &mut Value);
    let cases: [(Mutate, &str); 12] = [
        (|_, c| c["nonce"] = json!("other"), "nonce"),
        (|_, c| drop(c.as_object_mut().unwrap().remove("nonce")), "nonce"),
        (|_, c| c["aud"] = json!("other"), "aud does not name"),
        (|_, c| c["aud"] = json!(["chancery", "other"]), "azp"),
        (|_, c| c["iss"] = json!("https://evil.example"), "iss is another"),
        (|_, c| c["exp"] = json!(START - 31), "expired"),
        (|_, c| drop(c.as_object_mut().unwrap().remove("sub")), "cannot be read"),
        (|_, c| c["at_hash"] = json!("AAAA"), "at_hash"),
        (|_, c| c["at_hash"] = json!(7), "cannot be read"),
        (|h, _| h["typ"] = json!("at+jwt"), "of another type"),
        (|h, _| h["kid"] = json!("p256"), "does not fit"),
        (|h, _| h["jku"] = json!("https://evil.example/keys"), "brings a key"),
    ];
    for (change, says) in cases {
        let w = world().await;
        w.change(change);
        let refused = w.sign_in().await.unwrap_err();
        assert!(refused.contains(says), "{says}: {refused}");
    }
    let mut w = world().await;
    w.provider.algorithms = vec![SigningAlgorithm::ES256];
    assert!(w.sign_in().await.unwrap_err().contains("RS256 is not one of this issuer's"));
    // The right hash is taken, of each length.
    for (algorithm, hash) in [
        (SigningAlgorithm::RS256, b64(&Sha256::digest("at-1")[..16])),
        (SigningAlgorithm::ES384, b64(&Sha384::digest("at-1")[..24])),
        (SigningAlgorithm::EdDSA, b64(&Sha512::digest("at-1")[..32])),
    ] {
        let w = world().await;
        w.behave(|b| b.algorithm = algorithm);
        w.change(move |_, c| c["at_hash"] = json!(hash));
        w.sign_in().await.unwrap();
    }
}

#[tokio::test]
async fn groups_come_from_userinfo_where_the_token_has_none() {
    let w = world().await;
    w.change(|_, c| drop(c.as_object_mut().unwrap().remove("groups")));
    w.behave(|b| {
        b.userinfo = json!({"sub": "anna-1", "groups": ["/chiefs"], "name": "Other", "email": "x@y"});
    });
    let signed_in = w.sign_in().await.unwrap();
    assert_eq!(signed_in.groups, BTreeSet::from(["/chiefs".to_owned()]));
    assert_eq!(signed_in.person.display_name, "Anna Ada", "the signed claim wins");
    // Somebody else's userinfo.
    w.behave(|b| b.userinfo = json!({"sub": "bert-2", "groups": ["/chiefs"]}));
    assert!(w.sign_in().await.unwrap_err().contains("userinfo"));
    w.behave(|b| b.userinfo = json!([]));
    assert!(w.sign_in().await.unwrap_err().contains("userinfo"));
}

#[tokio::test]
async fn a_token_endpoint_that_breaks_signs_nobody_in() {
    type Instead = fn() -> Response;
    let cases: [(Instead, &str); 6] = [
        (|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), "cannot be read"),
        (|| "<html>".into_response(), "cannot be read"),
        (|| vec![b' '; 1 << 20].into_response(), "more than 256 KiB"),
        (|| (StatusCode::FOUND, [(LOCATION, "/x")]).into_response(), "redirects"),
        (|| Json(json!({"access_token": "a", "token_type": "Bearer"})).into_response(), "no ID token"),
        (
            || (StatusCode::UNAUTHORIZED, Json(json!({"error": "invalid_client"}))).into_response(),
            "invalid_client",
        ),
    ];
    for (answer, says) in cases {
        let w = world().await;
        w.behave(|b| b.instead = Some(answer));
        let refused = w.sign_in().await.unwrap_err();
        assert!(refused.contains(says), "{says}: {refused}");
    }
    let w = world().await;
    let underway = w.begin().await;
    w.serving.abort();
    while !w.serving.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(w.finish(&underway).await, Err(LoginError::Discovery(DiscoveryError::Fetch(_)))));
    assert!(w.client().begin("/", now(), [1; 96]).await.is_err());
}

#[tokio::test]
async fn signing_out_goes_to_the_provider_and_comes_back() {
    let w = world().await;
    let signed_in = w.sign_in().await.unwrap();
    let url = w.client().logout_url(&signed_in.id_token, "http://127.0.0.1:8080/").await.unwrap().unwrap();
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(query["ui"], "plain");
    assert_eq!(query["client_id"], "chancery");
    assert_eq!(query["id_token_hint"], signed_in.id_token);
    assert_eq!(query["post_logout_redirect_uri"], "http://127.0.0.1:8080/");
}

#[tokio::test]
async fn the_providers_word_on_a_sign_out_counts_once() {
    let w = world().await;
    let used = UsedTokens::default();
    let claims = w.client().logged_out(&w.logout_token("l1"), now()).await.unwrap();
    assert_eq!(claims.session.as_deref(), Some("sid-1"));
    used.take(w.provider.id, &claims, now()).unwrap();
    assert!(matches!(used.take(w.provider.id, &claims, now()), Err(LoginError::Replayed)));
    // Another provider's token of the same name is another token.
    used.take(ProviderId::generate(), &claims, now()).unwrap();
    let other = w.client().logged_out(&w.logout_token("l2"), now()).await.unwrap();
    used.take(w.provider.id, &other, now()).unwrap();
    // An ID token signs nobody out.
    let id_token = w.sign_in().await.unwrap().id_token;
    let refused = w.client().logged_out(&id_token, now()).await.unwrap_err();
    assert!(matches!(refused, LoginError::Token(TokenError::WrongType)));
}

#[test]
fn only_paths_of_this_origin_are_returned_to() {
    for good in ["/", "/models", "/a/b?c=d&e=%2F#f", "/@evil.example", "/a//b"] {
        assert_eq!(local_path(good), Some(good));
    }
    for bad in [
        "",
        "models",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/a\r\nSet-Cookie: x",
        "/a b",
        "/\u{e9}",
        "/\tevil",
        " /a",
        "/a\0",
        &format!("/{}", "a".repeat(600)),
    ] {
        assert_eq!(local_path(bad), None, "{bad:?}");
    }
}
