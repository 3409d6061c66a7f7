//! A realm, and what its administrator does to it.

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::Admin;
use super::{CLIENT, CLIENT_SECRET, DIRECT_CLIENT, PASSWORD};

/// Where the key providers of a realm are among its components.
const KEY_PROVIDER: &str = "org.keycloak.keys.KeyProvider";
/// The provider of the keys that sign tokens.
const SIGNING: &str = "rsa-generated";

/// What a token endpoint gives.
#[derive(Clone, Debug, Deserialize)]
pub struct Tokens {
    /// For the API.
    pub access_token: String,
    /// For the application.
    pub id_token: String,
    /// For further tokens.
    pub refresh_token: String,
}

/// A ministry's realm.
#[derive(Clone, Debug)]
pub struct Realm {
    /// Its name in this server.
    pub name: String,
    /// Its issuer, as in tokens.
    pub issuer: String,
    http: Client,
    admin: Admin,
}

impl Realm {
    pub(super) fn new(http: Client, admin: Admin, issuer: String, name: String) -> Self {
        Self { name, issuer, http, admin }
    }

    /// What its discovery document says.
    pub async fn discovery(&self) -> Value {
        self.get(&format!("{}/.well-known/openid-configuration", self.issuer)).await
    }

    /// Its public keys, as anybody can read them.
    pub async fn jwks(&self) -> Value {
        self.get(&format!("{}/protocol/openid-connect/certs", self.issuer)).await
    }

    async fn get(&self, url: &str) -> Value {
        let answer = self.http.get(url).send().await.expect("Keycloak answers");
        assert_eq!(answer.status(), StatusCode::OK, "{url}");
        answer.json().await.expect("the answer is JSON")
    }

    /// Where a browser is sent to sign in.
    pub fn authorize_url(&self, redirect_uri: &str, state: &str, nonce: &str, challenge: &str) -> String {
        let url = format!("{}/protocol/openid-connect/auth", self.issuer);
        let query = [
            ("client_id", CLIENT),
            ("response_type", "code"),
            ("scope", "openid"),
            ("redirect_uri", redirect_uri),
            ("state", state),
            ("nonce", nonce),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256"),
        ];
        reqwest::Url::parse_with_params(&url, query).expect("a URL").into()
    }

    /// Tokens for a code, or why not.
    pub async fn exchange(&self, code: &str, redirect_uri: &str, verifier: &str) -> Result<Tokens, Value> {
        self.ask_for_tokens(
            CLIENT,
            &[
                ("grant_type", "authorization_code"),
                ("client_secret", CLIENT_SECRET),
                ("code", code),
                ("redirect_uri", redirect_uri),
                ("code_verifier", verifier),
            ],
        )
        .await
    }

    /// Tokens for a name and the password, without a browser, or why not.
    pub async fn tokens(&self, user: &str) -> Result<Tokens, Value> {
        let form =
            [("grant_type", "password"), ("scope", "openid"), ("username", user), ("password", PASSWORD)];
        self.ask_for_tokens(DIRECT_CLIENT, &form).await
    }

    async fn ask_for_tokens(&self, client: &str, form: &[(&str, &str)]) -> Result<Tokens, Value> {
        let url = format!("{}/protocol/openid-connect/token", self.issuer);
        let (status, answer) = ask(&self.http, &url, client, form).await;
        if status != StatusCode::OK {
            return Err(answer);
        }
        Ok(serde_json::from_value(answer).expect("a token endpoint's answer"))
    }

    /// New signing keys, with their `kid`. Tokens signed with the old ones stay
    /// valid until [`Realm::forget_old_keys`].
    pub async fn rotate_keys(&self) -> String {
        let providers = self.signing_keys().await;
        let highest = providers.iter().map(priority).max().expect("a realm has keys");
        let body = json!({
            "name": format!("rsa-{}", highest + 1), "providerId": SIGNING, "providerType": KEY_PROVIDER,
            "config": {"priority": [(highest + 1).to_string()], "enabled": ["true"], "active": ["true"]},
        });
        self.admin(Method::POST, "/components", Some(&body)).await;
        self.active_kid().await
    }

    /// Removes all signing keys but the active ones.
    pub async fn forget_old_keys(&self) {
        let mut providers = self.signing_keys().await;
        providers.sort_by_key(priority);
        providers.pop();
        for provider in providers {
            let id = provider["id"].as_str().expect("an identifier");
            self.admin(Method::DELETE, &format!("/components/{id}"), None).await;
        }
    }

    /// The key that signs now.
    pub async fn active_kid(&self) -> String {
        let keys = self.admin(Method::GET, "/keys", None).await;
        keys["active"]["RS256"].as_str().expect("a key that signs").to_owned()
    }

    async fn signing_keys(&self) -> Vec<Value> {
        let all = self.admin(Method::GET, &format!("/components?type={KEY_PROVIDER}"), None).await;
        let all = all.as_array().expect("a list").clone();
        all.into_iter().filter(|provider| provider["providerId"] == SIGNING).collect()
    }

    /// Lets somebody no longer sign in.
    pub async fn disable(&self, user: &str) {
        self.set_enabled(user, false).await;
    }

    /// Lets somebody sign in again.
    pub async fn enable(&self, user: &str) {
        self.set_enabled(user, true).await;
    }

    async fn set_enabled(&self, user: &str, enabled: bool) {
        let mut found = self.user(user).await;
        found["enabled"] = enabled.into();
        self.admin(Method::PUT, &format!("/users/{}", id(&found)), Some(&found)).await;
    }

    /// Ends all of somebody's sessions; applications are told.
    pub async fn end_sessions(&self, user: &str) {
        let user = self.user(user).await;
        self.admin(Method::POST, &format!("/users/{}/logout", id(&user)), None).await;
    }

    /// Puts somebody into these groups and takes them out of all others.
    pub async fn set_groups(&self, user: &str, groups: &[&str]) {
        let user = id(&self.user(user).await).to_owned();
        let all = self.admin(Method::GET, "/groups", None).await;
        for group in all.as_array().expect("a list") {
            let wanted = groups.iter().any(|name| group["name"] == *name);
            let method = if wanted { Method::PUT } else { Method::DELETE };
            self.admin(method, &format!("/users/{user}/groups/{}", id(group)), None).await;
        }
    }

    /// Somebody's `sub`.
    pub async fn subject(&self, user: &str) -> String {
        id(&self.user(user).await).to_owned()
    }

    async fn user(&self, user: &str) -> Value {
        let mut found = self.admin(Method::GET, &format!("/users?exact=true&username={user}"), None).await;
        found[0].take()
    }

    async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        self.admin.call(method, &format!("/{}{path}", self.name), body).await
    }
}

/// Asks a token endpoint.
pub(super) async fn ask(
    http: &Client,
    url: &str,
    client: &str,
    form: &[(&str, &str)],
) -> (StatusCode, Value) {
    let form = [&[("client_id", client)], form].concat();
    let body = reqwest::Url::parse_with_params("http://localhost", form).expect("a URL");
    let answer = http
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body.query().expect("a query").to_owned())
        .send()
        .await
        .expect("Keycloak answers");
    let status = answer.status();
    (status, answer.json().await.expect("the answer is JSON"))
}

fn priority(provider: &Value) -> i64 {
    provider["config"]["priority"][0].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an identifier")
}
