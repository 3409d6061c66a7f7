//! The identity provider of the tests does what the tests of sign-in rely on.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::StatusCode;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::browser::{Browser, SignIn, parameter};
use tests::keycloak::{AUDIENCE, Application, CLIENT, Keycloak, PASSWORD, Realm, Tokens};
use tokio::sync::mpsc;

/// Nobody listens there: no browser is sent there.
const CALLBACK: &str = "http://127.0.0.1:9/callback";
const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters";
const PATIENCE: Duration = Duration::from_secs(20);

fn application() -> Application {
    Application { redirect_uris: vec![CALLBACK.to_owned()], ..Application::default() }
}

fn authorize_url(realm: &Realm) -> String {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    realm.authorize_url(CALLBACK, "the-state", "the-nonce", &challenge)
}

async fn sign_in(realm: &Realm, browser: &Browser, user: &str) -> Tokens {
    let back = browser.sign_in(&authorize_url(realm), user, PASSWORD).await.back();
    assert!(back.as_str().starts_with(CALLBACK), "{back}");
    assert_eq!(parameter(&back, "state").as_deref(), Some("the-state"));
    realm.exchange(&parameter(&back, "code").expect("a code"), CALLBACK, VERIFIER).await.unwrap()
}

/// The claims of a token that one of the realm's present keys has signed.
async fn claims(realm: &Realm, token: &str, audience: &str) -> Value {
    let header = decode_header(token).unwrap();
    let keys: JwkSet = serde_json::from_value(realm.jwks().await).unwrap();
    let key = keys.find(&header.kid.unwrap()).expect("the key is published");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[&realm.issuer]);
    decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap().claims
}

#[tokio::test]
async fn two_ministries_sign_in_with_a_code_and_pkce() {
    let keycloak = Keycloak::shared().await;
    for name in ["interior", "health"] {
        let realm = keycloak.realm(name, &application()).await;
        let discovery = realm.discovery().await;
        assert_eq!(discovery["issuer"], realm.issuer);
        assert_eq!(discovery["backchannel_logout_supported"], true);

        let tokens = sign_in(&realm, &Browser::default(), "ada").await;
        let id = claims(&realm, &tokens.id_token, CLIENT).await;
        assert_eq!(id["nonce"], "the-nonce");
        assert_eq!(id["sub"], realm.subject("ada").await);
        assert_eq!(id["groups"], serde_json::json!(["admins"]));
        let access = claims(&realm, &tokens.access_token, AUDIENCE).await;
        assert_eq!(access["groups"], serde_json::json!(["admins"]));
        assert_eq!(decode_header(&tokens.access_token).unwrap().typ.as_deref(), Some("at+jwt"));
        assert_eq!(decode_header(&tokens.id_token).unwrap().typ.as_deref(), Some("JWT"));

        let direct = realm.tokens("nora").await.unwrap();
        let access = claims(&realm, &direct.access_token, AUDIENCE).await;
        // Who is in no group has no such claim.
        assert!(access["groups"].is_null(), "{access}");
    }
}

#[tokio::test]
async fn a_code_needs_its_verifier_and_pkce_is_required() {
    let realm = Keycloak::shared().await.realm("interior", &application()).await;
    let back = Browser::default().sign_in(&authorize_url(&realm), "dan", PASSWORD).await.back();
    let code = parameter(&back, "code").unwrap();
    let wrong = "another-verifier-of-more-than-forty-three-characters";
    assert_eq!(realm.exchange(&code, CALLBACK, wrong).await.unwrap_err()["error"], "invalid_grant");

    let without = authorize_url(&realm).replace("code_challenge", "ignored");
    let back = Browser::default().sign_in(&without, "dan", PASSWORD).await.back();
    assert_eq!(parameter(&back, "error").as_deref(), Some("invalid_request"), "{back}");
}

#[tokio::test]
async fn keys_rotate_and_old_ones_can_be_forgotten() {
    let realm = Keycloak::shared().await.realm("health", &application()).await;
    let before = realm.active_kid().await;
    let old = realm.tokens("aud").await.unwrap().access_token;
    let after = realm.rotate_keys().await;
    assert_ne!(before, after);
    let new = realm.tokens("aud").await.unwrap().access_token;
    assert_eq!(decode_header(&new).unwrap().kid.as_deref(), Some(&*after));
    // Both verify, until the old one is forgotten.
    claims(&realm, &old, AUDIENCE).await;
    claims(&realm, &new, AUDIENCE).await;
    realm.forget_old_keys().await;
    let keys: JwkSet = serde_json::from_value(realm.jwks().await).unwrap();
    assert!(keys.find(&before).is_none() && keys.find(&after).is_some());
}

#[tokio::test]
async fn a_wrong_password_and_a_disabled_person_are_refused() {
    let realm = Keycloak::shared().await.realm("interior", &application()).await;
    let browser = Browser::default();
    let page = browser.sign_in(&authorize_url(&realm), "dora", "wrong").await.refused();
    assert!(page.contains("Invalid username or password"), "{page}");
    realm.disable("dora").await;
    let page = browser.sign_in(&authorize_url(&realm), "dora", PASSWORD).await.refused();
    assert!(page.contains("Account is disabled"), "{page}");
    assert_eq!(realm.tokens("dora").await.unwrap_err()["error"], "invalid_grant");
    realm.enable("dora").await;
    assert!(matches!(browser.sign_in(&authorize_url(&realm), "dora", PASSWORD).await, SignIn::Back(_)));
}

#[tokio::test]
async fn groups_can_be_changed() {
    let realm = Keycloak::shared().await.realm("health", &application()).await;
    realm.set_groups("ada", &["developers", "auditors"]).await;
    let access = claims(&realm, &realm.tokens("ada").await.unwrap().access_token, AUDIENCE).await;
    let mut groups: Vec<_> = access["groups"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    groups.sort_unstable();
    assert_eq!(groups, ["auditors", "developers"]);
}

#[tokio::test]
async fn an_application_is_told_that_a_session_ended() {
    let (tell, mut told) = mpsc::channel(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/logout", listener.local_addr().unwrap());
    let receive = post(move |body: String| async move {
        tell.send(body).await.unwrap();
        StatusCode::OK
    });
    let receiver =
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/logout", receive)).await });

    let application = Application { backchannel_logout_url: Some(url), ..application() };
    let realm = Keycloak::shared().await.realm("interior", &application).await;
    let browser = Browser::default();
    let tokens = sign_in(&realm, &browser, "dan").await;
    let session = claims(&realm, &tokens.id_token, CLIENT).await["sid"].clone();
    // Signed in already: no form.
    let back = browser.sign_in(&authorize_url(&realm), "nobody", "nothing").await.back();
    assert!(parameter(&back, "code").is_some(), "{back}");

    realm.end_sessions("dan").await;
    let body = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let token = body.strip_prefix("logout_token=").expect("a logout token");
    let logout = claims(&realm, token, CLIENT).await;
    assert_eq!(logout["sid"], session);
    assert!(logout["events"]["http://schemas.openid.net/event/backchannel-logout"].is_object(), "{logout}");
    let page = browser.sign_in(&authorize_url(&realm), "dan", "wrong").await.refused();
    assert!(page.contains("Invalid username or password"), "{page}");
    receiver.abort();
}

#[tokio::test]
async fn a_provider_that_was_stopped_knows_its_realms_again() {
    let mut keycloak = Keycloak::fresh().await;
    let realm = keycloak.realm("health", &application()).await;
    let kid = realm.rotate_keys().await;
    keycloak.stop().await;
    assert!(reqwest::get(&realm.issuer).await.is_err());
    keycloak.start().await;
    assert_eq!(realm.active_kid().await, kid);
    sign_in(&realm, &Browser::default(), "ada").await;
}
