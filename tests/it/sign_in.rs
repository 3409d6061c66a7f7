//! Ministries sign in with a real identity provider: Keycloak, a realm each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::browser::{Browser, location, parameter};
use tests::keycloak::{AUDIENCE, Application, CLIENT, CLIENT_SECRET, Keycloak, PASSWORD, Realm};
use tests::ministries::Platform;
use tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(20);

/// A ministry whose people are a realm's.
struct Ministry {
    realm: Realm,
    provider: Value,
}

impl Ministry {
    async fn new(p: &Platform, keycloak: &Keycloak, name: &str, backchannel: Option<String>) -> Self {
        p.tenant(name).await;
        let application = Application {
            redirect_uris: vec![format!("{}/*", p.url)],
            post_logout_redirect_uris: vec![format!("{}/*", p.url)],
            backchannel_logout_url: backchannel,
        };
        let realm = keycloak.realm(name, &application).await;
        let new = json!({
            "name": "staff", "issuer": realm.issuer, "client_id": CLIENT, "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE,
            "mappings": [
                {"group": "admins", "role": "tenant_admin"},
                {"group": "developers", "role": "user", "project": "sandbox"},
                {"group": "auditors", "role": "auditor"},
            ],
        });
        let provider = p.provider(name, new).await;
        Self { realm, provider }
    }

    /// Where the provider sends a browser back to.
    async fn at_provider(&self, p: &Platform, browser: &Browser, user: &str) -> reqwest::Url {
        let url = p.authorize_url(browser, &self.provider, "/").await;
        browser.sign_in(&url, user, PASSWORD).await.back()
    }

    /// A session of that user.
    async fn session(&self, p: &Platform, browser: &Browser, user: &str) -> String {
        let back = self.at_provider(p, browser, user).await;
        let done = p.callback(browser, back.as_str()).await;
        assert_eq!(done.status(), StatusCode::SEE_OTHER, "{user}: {:?}", done.text().await);
        Platform::session(browser).expect("a session")
    }
}

#[tokio::test]
async fn two_ministries_sign_in_each_with_its_own_realm() {
    let (p, keycloak) = (Platform::start().await, Keycloak::shared().await);
    let ministries = [
        Ministry::new(&p, keycloak, "interior", None).await,
        Ministry::new(&p, keycloak, "health", None).await,
    ];
    let mut accounts = Vec::new();
    for (ministry, slug) in ministries.iter().zip(["interior", "health"]) {
        for (user, role) in [("ada", "tenant_admin"), ("aud", "auditor"), ("dan", "member")] {
            let session = ministry.session(&p, &Browser::default(), user).await;
            let (status, me) = p.me(&session).await;
            assert_eq!(status, StatusCode::OK, "{me}");
            assert_eq!((&me["role"], &me["tenant"]["slug"]), (&json!(role), &json!(slug)), "{user}");
            accounts.push(me["principal"]["id"].as_str().unwrap().to_owned());
        }
        // Who is in no group comes back and gets nothing.
        let browser = Browser::default();
        let back = ministry.at_provider(&p, &browser, "nora").await;
        assert_eq!(p.callback(&browser, back.as_str()).await.status(), StatusCode::FORBIDDEN);
        assert_eq!(Platform::session(&browser), None);
        // The same provider's access token, as programs use it.
        let token = ministry.realm.tokens("ada").await.unwrap().access_token;
        assert_eq!(p.me(&token).await.1["role"], "tenant_admin");
        let id_token = ministry.realm.tokens("ada").await.unwrap().id_token;
        if !id_token.is_empty() {
            assert_eq!(p.me(&id_token).await.0, StatusCode::UNAUTHORIZED, "an ID token is no credential");
        }
        let nobody = ministry.realm.tokens("nora").await.unwrap().access_token;
        assert_eq!(p.me(&nobody).await.0, StatusCode::UNAUTHORIZED);
    }
    accounts.sort();
    accounts.dedup();
    assert_eq!(accounts.len(), 6, "nobody is the same person in both");
    // One ministry's answer at the other's callback.
    let browser = Browser::default();
    let back = ministries[0].at_provider(&p, &browser, "ada").await;
    let id = |m: &Ministry| m.provider["id"].as_str().unwrap().to_owned();
    let crossed = back.as_str().replace(&id(&ministries[0]), &id(&ministries[1]));
    assert_eq!(p.callback(&browser, &crossed).await.status(), StatusCode::UNAUTHORIZED);
    // Keycloak names itself in its answers, and another name is refused.
    let back = ministries[0].at_provider(&p, &browser, "ada").await;
    assert_eq!(parameter(&back, "iss").as_deref(), Some(&*ministries[0].realm.issuer));
    let mut lie = back.clone();
    let pairs: Vec<(String, String)> = back.query_pairs().into_owned().collect();
    let other = ministries[1].realm.issuer.clone();
    lie.query_pairs_mut().clear().extend_pairs(
        pairs
            .into_iter()
            .map(|(name, value)| if name == "iss" { (name, other.clone()) } else { (name, value) }),
    );
    assert_eq!(p.callback(&browser, lie.as_str()).await.status(), StatusCode::UNAUTHORIZED);
    p.system.stop().await;
}

#[tokio::test]
async fn groups_follow_the_provider_at_every_sign_in() {
    let (p, keycloak) = (Platform::start().await, Keycloak::shared().await);
    let ministry = Ministry::new(&p, keycloak, "interior", None).await;
    let role = async |session: &str| p.me(session).await.1["role"].clone();
    let first = ministry.session(&p, &Browser::default(), "dan").await;
    assert_eq!(role(&first).await, "member");
    ministry.realm.set_groups("dan", &["admins"]).await;
    let second = ministry.session(&p, &Browser::default(), "dan").await;
    assert_eq!((role(&first).await, role(&second).await), (json!("tenant_admin"), json!("tenant_admin")));
    ministry.realm.set_groups("dan", &[]).await;
    let browser = Browser::default();
    let back = ministry.at_provider(&p, &browser, "dan").await;
    assert_eq!(p.callback(&browser, back.as_str()).await.status(), StatusCode::FORBIDDEN);
    for session in [&first, &second] {
        assert_eq!(p.me(session).await.0, StatusCode::UNAUTHORIZED);
    }
    p.system.stop().await;
}

#[tokio::test]
async fn rotated_keys_are_taken_and_withdrawn_ones_forgotten() {
    let (p, keycloak) = (Platform::start().await, Keycloak::shared().await);
    let ministry = Ministry::new(&p, keycloak, "interior", None).await;
    let old = ministry.realm.tokens("ada").await.unwrap().access_token;
    assert_eq!(p.me(&old).await.0, StatusCode::OK);
    ministry.realm.rotate_keys().await;
    let new = ministry.realm.tokens("ada").await.unwrap().access_token;
    assert_eq!(p.me(&new).await.0, StatusCode::UNAUTHORIZED, "the provider was asked a moment ago");
    p.pass(Duration::from_secs(31));
    assert_eq!(p.me(&new).await.0, StatusCode::OK);
    assert_eq!(p.me(&old).await.0, StatusCode::OK, "still published");
    ministry.session(&p, &Browser::default(), "ada").await;
    ministry.realm.forget_old_keys().await;
    // An unknown key makes the set be fetched anew, without the old one.
    p.pass(Duration::from_secs(31));
    ministry.realm.rotate_keys().await;
    let newest = ministry.realm.tokens("ada").await.unwrap().access_token;
    assert_eq!(p.me(&newest).await.0, StatusCode::OK);
    assert_eq!(p.me(&old).await.0, StatusCode::UNAUTHORIZED);
    p.system.stop().await;
}

/// A door that is known before the provider has its identifier: it passes
/// logout tokens on.
async fn door(to: Arc<Mutex<String>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/logout", listener.local_addr().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let pass_on = post(move |body: String| async move {
        let url = to.lock().unwrap().clone();
        let request = http.post(url).header("content-type", "application/x-www-form-urlencoded");
        request.body(body).send().await.unwrap().status()
    });
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/logout", pass_on)).await });
    url
}

#[tokio::test]
async fn who_signs_out_there_is_signed_out_here_and_the_other_way_round() {
    let (p, keycloak) = (Platform::start().await, Keycloak::shared().await);
    let to = Arc::<Mutex<String>>::default();
    let ministry = Ministry::new(&p, keycloak, "interior", Some(door(to.clone()).await)).await;
    let path = ministry.provider["backchannel_logout_path"].as_str().unwrap();
    *to.lock().unwrap() = format!("{}{path}", p.url);

    let (one, other) = (Browser::default(), Browser::default());
    let first = ministry.session(&p, &one, "dan").await;
    let dora = ministry.session(&p, &other, "dora").await;
    ministry.realm.end_sessions("dan").await;
    until("the end of dan's session", PATIENCE, async || {
        (p.me(&first).await.0 == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert_eq!(p.me(&dora).await.0, StatusCode::OK, "nobody else is signed out");

    // Signing out here leads to the provider, which then asks for a password again.
    let out = p.ok(Method::DELETE, "/api/v1/sessions/current", &dora, None).await;
    assert_eq!(p.me(&dora).await.0, StatusCode::UNAUTHORIZED);
    let end = other.get(out["provider_logout_url"].as_str().unwrap()).await;
    let back = location(&end).expect("the provider sends the browser back");
    assert_eq!(back.as_str(), format!("{}/", p.url));
    let again = p.authorize_url(&other, &ministry.provider, "/").await;
    let page = other.sign_in(&again, "dora", "wrong").await.refused();
    assert!(page.contains("Invalid username or password"), "{page}");
    p.system.stop().await;
}

#[tokio::test]
async fn a_person_disabled_at_the_provider_does_not_come_back() {
    let (p, keycloak) = (Platform::start().await, Keycloak::shared().await);
    let ministry = Ministry::new(&p, keycloak, "interior", None).await;
    ministry.session(&p, &Browser::default(), "ada").await;
    ministry.realm.disable("ada").await;
    let browser = Browser::default();
    let url = p.authorize_url(&browser, &ministry.provider, "/").await;
    let page = browser.sign_in(&url, "ada", PASSWORD).await.refused();
    assert!(page.contains("Account is disabled"), "{page}");
    assert!(ministry.realm.tokens("ada").await.is_err());
    assert_eq!(Platform::session(&browser), None);
    p.system.stop().await;
}

#[tokio::test]
async fn while_the_provider_is_stopped_who_is_in_stays_in() {
    let p = Platform::start().await;
    let mut keycloak = Keycloak::fresh().await;
    let ministry = Ministry::new(&p, &keycloak, "interior", None).await;
    let chief = p.account("interior", "auditor").await;
    let session = ministry.session(&p, &Browser::default(), "ada").await;
    let (used, unused) = {
        let token = async || ministry.realm.tokens("ada").await.unwrap().access_token;
        (token().await, token().await)
    };
    assert_eq!(p.me(&used).await.0, StatusCode::OK);
    keycloak.stop().await;

    for credential in [&session, &used, &unused] {
        assert_eq!(p.me(credential).await.0, StatusCode::OK);
    }
    let login = format!("{}{}", p.url, ministry.provider["login_path"].as_str().unwrap());
    let browser = Browser::default();
    let answer = browser.get(&login).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("cannot be reached"));
    let one = format!("/api/v1/identity-providers/{}", ministry.provider["id"].as_str().unwrap());
    assert_eq!(p.call(Method::GET, &one, &chief, None).await.0, StatusCode::OK);
    let admin = p.ok(Method::POST, &format!("{one}/check?tenant=interior"), &p.admin, None).await;
    assert_eq!(admin["ok"], false);
    assert!(admin["problems"].to_string().contains("cannot be reached"), "{admin}");
    // Signing out here works, without a page there.
    p.ok(Method::DELETE, "/api/v1/sessions/current", &session, None).await;
    assert_eq!(p.me(&session).await.0, StatusCode::UNAUTHORIZED);

    keycloak.start().await;
    let session = ministry.session(&p, &Browser::default(), "ada").await;
    assert_eq!(p.me(&session).await.0, StatusCode::OK);
    let found = p.ok(Method::POST, &format!("{one}/check?tenant=interior"), &p.admin, None).await;
    assert_eq!(found["ok"], true, "{found}");
    p.system.stop().await;
}
