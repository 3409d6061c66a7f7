//! Sessions: cookies, forgery, expiry, and their lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Clock, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{ADMIN, Api, PASSWORD, conventional, read, text};

#[tokio::test]
async fn a_browsers_session_cannot_be_used_by_another_sites_page() {
    let api = Api::start().await;
    let body = json!({ "login": ADMIN, "password": PASSWORD, "cookie": true });
    let answer = api.post("/api/v1/sessions", "", body).await;
    let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    for part in ["__Host-chancery-session=chs_", "; HttpOnly", "; Secure", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let made = answer.expect(201);
    assert!(made.get("token").is_none(), "{made}");
    let csrf = text(&made["csrf_token"]);
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let url = format!("http://{}/api/v1/tenants", api.public);
    let me = api.http.get(format!("http://{}/api/v1/me", api.public)).header("cookie", &cookie);
    assert_eq!(text(&read(me).await.expect(200)["csrf_token"]), csrf);

    let own = format!("http://{}", api.public);
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let attempts: [(&str, Headers<'_>, u16); 9] = [
        ("no-token", &[("sec-fetch-site", "same-origin")], 403),
        ("wrong-token", &[("sec-fetch-site", "same-origin"), ("x-csrf-token", "0")], 403),
        ("cross-site", &[("sec-fetch-site", "cross-site"), ("x-csrf-token", &csrf)], 403),
        ("same-site", &[("sec-fetch-site", "same-site"), ("x-csrf-token", &csrf)], 403),
        ("other-origin", &[("origin", "https://evil.example"), ("x-csrf-token", &csrf)], 403),
        ("null-origin", &[("origin", "null"), ("x-csrf-token", &csrf)], 403),
        ("silent", &[("x-csrf-token", &csrf)], 403),
        ("ours", &[("sec-fetch-site", "same-origin"), ("x-csrf-token", &csrf)], 201),
        ("old-browser", &[("origin", &own), ("x-csrf-token", &csrf)], 201),
    ];
    for (slug, headers, expected) in attempts {
        let mut request = conventional(api.http.post(&url), &Method::POST).header("cookie", &cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = read(request.json(&json!({ "slug": slug, "name": slug }))).await;
        assert_eq!(answer.status.as_u16(), expected, "{slug}: {}", answer.body);
    }
    // A bearer needs none of it, and wins over a cookie.
    let admin = api.sign_in(ADMIN).await;
    let request = conventional(api.http.post(&url), &Method::POST)
        .header("cookie", &cookie)
        .header("sec-fetch-site", "cross-site")
        .bearer_auth(&admin)
        .json(&json!({ "slug": "bearer", "name": "x" }));
    assert_eq!(read(request).await.status, StatusCode::CREATED);
    let wrong = api.http.get(&url).header("cookie", &cookie).bearer_auth("nonsense");
    assert_eq!(read(wrong).await.status, StatusCode::UNAUTHORIZED);
    let twice = api.http.get(&url).header("cookie", format!("{cookie}; {cookie}"));
    assert_eq!(read(twice).await.status, StatusCode::UNAUTHORIZED);
    let key_as_cookie = api.http.get(&url).header("cookie", "__Host-chancery-session=chy_0");
    assert_eq!(read(key_as_cookie).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn sessions_end_when_idle_and_at_the_latest_after_their_time() {
    let seconds = Arc::new(AtomicU64::new(0));
    let moved = Arc::clone(&seconds);
    let start: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let api =
        Api::start_at(Clock::from_fn(move || start + Duration::from_secs(moved.load(Ordering::SeqCst))))
            .await;
    let (idle, used) = (api.sign_in(ADMIN).await, api.sign_in(ADMIN).await);
    for _ in 0..2 {
        seconds.fetch_add(1900, Ordering::SeqCst);
        api.get("/api/v1/me", &used).await.expect(200);
        // The use is noted beside the request.
        crate::support::until("the note", Duration::from_secs(5), async || {
            let rows =
                crate::keys::rows(&mut api.superuser().await, "SELECT max(last_seen_at)::text FROM sessions")
                    .await;
            let secs = seconds.load(Ordering::SeqCst);
            sqlx::Row::get::<String, _>(&rows[0], 0).contains(&format!(
                ":{:02}:{:02}",
                secs / 60 % 60,
                secs % 60
            ))
        })
        .await;
    }
    api.get("/api/v1/me", &idle).await.expect(401);
    seconds.store(12 * 3600, Ordering::SeqCst);
    api.get("/api/v1/me", &used).await.expect(401);
}

#[tokio::test]
async fn people_see_and_end_their_own_sessions_only() {
    let api = Api::start().await;
    let (first, second, third) =
        (api.sign_in(ADMIN).await, api.sign_in(ADMIN).await, api.sign_in(ADMIN).await);
    let tenant = api.tenant(&first, "interior").await;
    let items = api.get("/api/v1/sessions", &third).await.expect(200)["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 3);
    assert_eq!((items[0]["current"].as_bool(), items[1]["current"].as_bool()), (Some(true), Some(false)));
    assert_eq!(items[0]["address"], "127.0.0.1");
    let path = format!("/api/v1/sessions/{}", text(&items[1]["id"]));
    api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(404);
    api.get("/api/v1/me", &second).await.expect(200);
    api.call(Method::DELETE, &path, &third, None).await.expect(204);
    api.get("/api/v1/me", &second).await.expect(401);
    api.call(Method::DELETE, "/api/v1/sessions", &third, None).await.expect(204);
    api.get("/api/v1/me", &first).await.expect(401);
    api.get("/api/v1/me", &third).await.expect(200);
    // An administrator ends those of others; a key has none.
    let me = api.get("/api/v1/me", &tenant.developer).await.expect(200);
    let path = format!("/api/v1/accounts/{}/sessions", text(&me["principal"]["id"]));
    api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(204);
    api.get("/api/v1/me", &tenant.developer).await.expect(401);
    api.get("/api/v1/sessions", &tenant.key).await.expect(403);
}
