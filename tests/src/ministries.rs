//! Ministries with identity providers, made through the API as an operator
//! makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Clock;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::browser::{Browser, location};
use crate::http::call;
use crate::system::System;

/// The password of every local account.
pub const PASSWORD: &str = "a long enough password";
/// The cookie of a session.
const SESSION_COOKIE: &str = "__Host-chancery-session";

/// An API whose platform has an administrator.
pub struct Platform {
    /// The processes.
    pub system: System,
    /// Session of the platform's administrator.
    pub admin: String,
    /// Base URL of the public listener.
    pub url: String,
    /// How far its clock is ahead, in seconds.
    ahead: Arc<AtomicU64>,
}

impl Platform {
    /// Starts it.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// With settings that the test changes.
    pub async fn start_with(change: impl FnOnce(&mut api::Settings)) -> Self {
        let ahead = Arc::<AtomicU64>::default();
        let (machine, by) = (Clock::system(), ahead.clone());
        let clock = Clock::from_fn(move || machine.now() + Duration::from_secs(by.load(Ordering::SeqCst)));
        let allow = |settings: &mut api::Settings| {
            settings.identity_plain_http_on_loopback = true;
            change(settings);
        };
        let system = System::start_with(clock, allow).await;
        api::bootstrap_admin(
            &system.db.store,
            &Clock::system(),
            "admin@localhost",
            PASSWORD,
            api::FirstPassword::Stays,
        )
        .await
        .expect("an administrator");
        let url = format!("http://{}", system.public);
        let admin = sign_in(&system.http, &url, "admin@localhost").await;
        Self { system, admin, url, ahead }
    }

    /// Time passes for the API.
    pub fn pass(&self, time: Duration) {
        self.ahead.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    /// Any request; the answer's status and JSON.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        call(&self.system.http, method, &format!("{}{path}", self.url), Some(token), body).await
    }

    /// A request that must succeed.
    pub async fn ok(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, token, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        answer
    }

    /// Who a credential stands for.
    pub async fn me(&self, token: &str) -> (StatusCode, Value) {
        self.call(Method::GET, "/api/v1/me", token, None).await
    }

    /// A tenant; the session of its local administrator.
    pub async fn tenant(&self, slug: &str) -> String {
        let body = json!({"slug": slug, "name": slug});
        self.ok(Method::POST, "/api/v1/tenants", &self.admin, Some(body)).await;
        self.account(slug, "tenant_admin").await
    }

    /// A local account in a tenant; its session.
    pub async fn account(&self, tenant: &str, role: &str) -> String {
        let login = format!("{role}@{tenant}");
        let body = json!({"login": login, "display_name": role, "password": PASSWORD, "role": role});
        let path = format!("/api/v1/accounts?tenant={tenant}");
        self.ok(Method::POST, &path, &self.admin, Some(body)).await;
        sign_in(&self.system.http, &self.url, &login).await
    }

    /// An identity provider of a tenant, with what its groups give.
    pub async fn provider(&self, tenant: &str, new: Value) -> Value {
        let path = format!("/api/v1/identity-providers?tenant={tenant}");
        self.ok(Method::POST, &path, &self.admin, Some(new)).await
    }

    /// The browser goes to sign in; the answer that ends it.
    pub async fn callback(&self, browser: &Browser, back: &str) -> Response {
        browser.get(back).await
    }

    /// Where signing in with a provider sends the browser.
    pub async fn authorize_url(&self, browser: &Browser, provider: &Value, return_to: &str) -> String {
        let login = provider["login_path"].as_str().expect("a path");
        let answer = browser.get(&format!("{}{login}?return_to={return_to}", self.url)).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{:?}", answer.text().await);
        location(&answer).expect("a redirect").to_string()
    }

    /// The session that a browser has.
    pub fn session(browser: &Browser) -> Option<String> {
        let mut cookies = browser.cookies(SESSION_COOKIE);
        let cookie = cookies.pop()?;
        assert!(cookies.is_empty(), "two sessions");
        for attribute in ["Secure", "HttpOnly", "Path=/", "SameSite=Lax"] {
            assert!(cookie.attributes.iter().any(|a| a == attribute), "{attribute}: {:?}", cookie.attributes);
        }
        Some(cookie.value)
    }
}

async fn sign_in(http: &Client, url: &str, login: &str) -> String {
    let body = json!({"login": login, "password": PASSWORD});
    let (status, answer) =
        call(http, Method::POST, &format!("{url}/api/v1/sessions"), None, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["token"].as_str().expect("a token").to_owned()
}
