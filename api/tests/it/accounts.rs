//! Local accounts: what administrators do to them, and what people do themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use domain::{Clock, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::support::{ADMIN, Api, PASSWORD, text, until};

const OTHER: &str = "another long password";

/// A clock that the test moves, in seconds from now.
fn moving() -> (Clock, Arc<AtomicI64>) {
    let ahead = Arc::new(AtomicI64::new(0));
    let moved = Arc::clone(&ahead);
    let start: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let clock = Clock::from_fn(move || {
        start + Duration::from_secs(u64::try_from(moved.load(Ordering::SeqCst)).unwrap())
    });
    (clock, ahead)
}

fn credentials(login: &str, password: &str) -> Value {
    json!({ "login": login, "password": password })
}

#[tokio::test]
async fn what_an_administrator_changes_counts_at_once_and_everywhere() {
    let api = Api::start().await;
    let twin = api.twin().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let me = api.get("/api/v1/me", &tenant.developer).await.expect(200);
    let path = format!("/api/v1/accounts/{}", text(&me["principal"]["id"]));
    twin.get("/api/v1/endpoints", &tenant.developer).await.expect(200);

    let update = json!({ "role": "user", "display_name": "Anna" });
    let changed = api.call(Method::PATCH, &path, &tenant.admin, Some(update)).await.expect(200);
    assert_eq!((changed["role"].as_str(), changed["display_name"].as_str()), (Some("user"), Some("Anna")));
    api.get("/api/v1/endpoints", &tenant.developer).await.expect(403);
    until("the new role elsewhere", Duration::from_secs(1), async || {
        twin.get("/api/v1/endpoints", &tenant.developer).await.status.as_u16() == 403
    })
    .await;

    api.call(Method::PATCH, &path, &tenant.admin, Some(json!({ "disabled": true }))).await.expect(200);
    api.get("/api/v1/me", &tenant.developer).await.expect(401);
    let refused = api.post("/api/v1/sessions", "", credentials("developer@interior", PASSWORD)).await;
    let wrong = api.post("/api/v1/sessions", "", credentials("developer@interior", OTHER)).await;
    let unknown = api.post("/api/v1/sessions", "", credentials("nobody@interior", OTHER)).await;
    let said: Vec<Value> = [refused, wrong, unknown].map(|a| a.expect(401)["detail"].take()).into();
    assert!(said.iter().all(|detail| *detail == said[0]), "{said:?}");

    api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(204);
    api.get(&path, &tenant.admin).await.expect(404);
}

#[tokio::test]
async fn nobody_deletes_itself_or_the_last_administrator() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let id = text(&api.get("/api/v1/me", &admin).await.expect(200)["principal"]["id"]);
    let path = format!("/api/v1/accounts/{id}");
    api.call(Method::DELETE, &path, &admin, None).await.expect(409);
    api.call(Method::PATCH, &path, &admin, Some(json!({ "disabled": true }))).await.expect(409);
    let second = json!({ "login": "second@localhost", "display_name": "x", "password": PASSWORD, "role": "platform_admin" });
    let made = api.post("/api/v1/accounts", &admin, second).await.expect(201);
    let second = api.sign_in("second@localhost").await;
    api.call(Method::DELETE, &path, &second, None).await.expect(204);
    api.get("/api/v1/me", &admin).await.expect(401);
    let own = format!("/api/v1/accounts/{}", text(&made["id"]));
    api.call(Method::PATCH, &own, &second, Some(json!({ "role": "auditor" }))).await.expect(409);
}

#[tokio::test]
async fn logins_of_a_tenant_bear_its_name() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let account = |login: &str, password: &str| json!({ "login": login, "display_name": "x", "password": password, "role": "user" });
    for (login, password, field) in [
        ("anna@finance", PASSWORD, "login"),
        ("anna@interior", "administrator123", "password"),
        ("anna.of.house@interior", "Anna.of.House", "password"),
        ("anna@interior", "too short", "password"),
    ] {
        let problem = api.post("/api/v1/accounts", &tenant.admin, account(login, password)).await.expect(422);
        assert_eq!(problem["field"], field, "{problem}");
    }
    api.post("/api/v1/accounts", &tenant.admin, account("anna@interior", PASSWORD)).await.expect(201);
}

#[tokio::test]
async fn a_reset_password_must_be_changed_before_anything_else() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let me = api.get("/api/v1/me", &tenant.developer).await.expect(200);
    let path = format!("/api/v1/accounts/{}/password", text(&me["principal"]["id"]));
    let reset = api.post(&path, &tenant.admin, json!({})).await.expect(200);
    api.get("/api/v1/me", &tenant.developer).await.expect(401);
    let made = text(&reset["password"]);
    let session =
        api.post("/api/v1/sessions", "", credentials("developer@interior", &made)).await.expect(201);
    let token = text(&session["token"]);
    assert_eq!(session["principal"]["must_change_password"], true);
    api.get("/api/v1/endpoints", &token).await.expect(403);
    let other = api.post("/api/v1/sessions", "", credentials("developer@interior", &made)).await.expect(201);
    let change = |old: &str, new: &str| json!({ "old": old, "new": new });
    api.post("/api/v1/me/password", &token, change(PASSWORD, OTHER)).await.expect(422);
    api.post("/api/v1/me/password", &token, change(&made, &made)).await.expect(422);
    api.post("/api/v1/me/password", &token, change(&made, OTHER)).await.expect(204);
    api.get("/api/v1/endpoints", &token).await.expect(200);
    api.get("/api/v1/me", &text(&other["token"])).await.expect(401);
    api.post("/api/v1/sessions", "", credentials("developer@interior", &made)).await.expect(401);
    api.post("/api/v1/sessions", "", credentials("developer@interior", OTHER)).await.expect(201);
}

#[tokio::test]
async fn wrong_passwords_lock_an_account_on_every_replica_for_a_while() {
    let (clock, ahead) = moving();
    let api = Api::start_at(clock).await;
    let twin = api.twin().await;
    let open = api.sign_in(ADMIN).await;
    for n in 0..5 {
        let server = if n % 2 == 0 { &api } else { &twin };
        server.post("/api/v1/sessions", "", credentials(ADMIN, OTHER)).await.expect(401);
    }
    for server in [&api, &twin] {
        server.post("/api/v1/sessions", "", credentials(ADMIN, PASSWORD)).await.expect(401);
    }
    // Who is signed in stays so.
    api.get("/api/v1/me", &open).await.expect(200);
    ahead.fetch_add(1, Ordering::SeqCst);
    twin.post("/api/v1/sessions", "", credentials(ADMIN, OTHER)).await.expect(401);
    ahead.fetch_add(1, Ordering::SeqCst);
    api.post("/api/v1/sessions", "", credentials(ADMIN, PASSWORD)).await.expect(401);
    ahead.fetch_add(1, Ordering::SeqCst);
    api.post("/api/v1/sessions", "", credentials(ADMIN, PASSWORD)).await.expect(201);
    api.post("/api/v1/sessions", "", credentials(ADMIN, PASSWORD)).await.expect(201);
}

#[tokio::test]
async fn guesses_at_once_are_no_more_than_guesses_in_a_row() {
    let api = Api::start_at(moving().0).await;
    let guesses = (0..12).map(|_| api.post("/api/v1/sessions", "", credentials(ADMIN, OTHER)));
    futures_util::future::join_all(guesses).await;
    let mut superuser = api.superuser().await;
    let failures = crate::keys::rows(&mut superuser, "SELECT failures FROM principals").await;
    assert_eq!(sqlx::Row::get::<i32, _>(&failures[0], 0), 5);
}

#[tokio::test]
async fn one_time_codes_are_asked_for_and_work_once() {
    let (clock, ahead) = moving();
    let api = Api::start_at(clock.clone()).await;
    let admin = api.sign_in(ADMIN).await;
    let enrolment = api.post("/api/v1/me/one-time-code", &admin, json!({})).await.expect(201);
    assert!(
        text(&enrolment["url"]).starts_with("otpauth://totp/Chancery:admin%40localhost?secret="),
        "{enrolment}"
    );
    let secret = Secret::try_from_base32(text(&enrolment["secret"])).unwrap();
    let device = Builder::new().with_secret(secret).build().unwrap();
    let code = || device.generate(u64::try_from(clock.now().unix_secs()).unwrap()).to_string();
    // Until it is confirmed, nothing is asked for.
    api.sign_in(ADMIN).await;
    let confirm = "/api/v1/me/one-time-code/confirm";
    api.post(confirm, &admin, json!({ "code": "000000000" })).await.expect(422);
    let confirmed = api.post(confirm, &admin, json!({ "code": code() })).await.expect(200);
    let recovery = confirmed["recovery_codes"].as_array().unwrap();
    assert_eq!(recovery.len(), 10);

    let sign_in = |code: Option<String>| {
        api.post(
            "/api/v1/sessions",
            "",
            json!({ "login": ADMIN, "password": PASSWORD, "one_time_code": code }),
        )
    };
    let problem = sign_in(None).await.expect(401);
    assert_eq!(problem["type"], "urn:chancery:problem:one-time-code-required");
    // The code that confirmed was taken by that.
    sign_in(Some(code())).await.expect(401);
    ahead.fetch_add(60, Ordering::SeqCst);
    let session = sign_in(Some(code())).await.expect(201);
    sign_in(Some(code())).await.expect(401);
    let listed = api.get("/api/v1/sessions", &text(&session["token"])).await.expect(200);
    assert_eq!(
        (&listed["items"][0]["current"], &listed["items"][0]["one_time_code"]),
        (&json!(true), &json!(true))
    );
    // A code one step old is taken, of two it is not.
    ahead.fetch_add(60, Ordering::SeqCst);
    let old = code();
    ahead.fetch_add(30, Ordering::SeqCst);
    sign_in(Some(old)).await.expect(201);
    ahead.fetch_add(60, Ordering::SeqCst);
    let old = code();
    ahead.fetch_add(60, Ordering::SeqCst);
    sign_in(Some(old)).await.expect(401);
    // A recovery code works once.
    sign_in(Some(text(&recovery[0]))).await.expect(201);
    sign_in(Some(text(&recovery[0]))).await.expect(401);
    ahead.fetch_add(60, Ordering::SeqCst);
    // The administrator's own session outlives it; without codes nothing is asked for.
    api.post("/api/v1/me/one-time-code/remove", &admin, json!({ "code": "123" })).await.expect(422);
    api.post("/api/v1/me/one-time-code/remove", &admin, json!({ "code": code() })).await.expect(204);
    sign_in(None).await.expect(201);
}
