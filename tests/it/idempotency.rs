//! Requests that are sent twice, or twenty times at once, while connections to
//! the database are cut: each thing is made once, and everyone gets its answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::database::rows;
use tests::ministries::Platform;

/// How many things are made. `cargo xtask soak` sets it higher.
const THINGS: &str = "CHANCERY_TEST_IDEMPOTENT_THINGS";
const DEFAULT_THINGS: usize = 60;
/// How often each is asked for at once.
const DUPLICATES: usize = 20;
/// Things that are under way at once.
const AT_ONCE: usize = 4;

async fn send(platform: &Platform, admin: &str, key: &str, name: &str) -> (StatusCode, bool, Value) {
    let url = format!("{}/api/v1/api-keys", platform.url);
    let request = platform.system.http.post(url).bearer_auth(admin).header("idempotency-key", key);
    let answer = request.json(&json!({"project": "sandbox", "name": name})).send().await.unwrap();
    let again = answer.headers().contains_key("idempotent-replayed");
    (answer.status(), again, answer.json().await.unwrap())
}

/// Sends until it is made; whatever is refused meanwhile may be sent again.
async fn insist(platform: Arc<Platform>, admin: String, key: String) -> String {
    loop {
        let (status, _, body) = send(&platform, &admin, &key, &key).await;
        match status {
            StatusCode::CREATED => return body.to_string(),
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => tokio::task::yield_now().await,
            other => panic!("{other}: {body}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twenty_times_is_made_once_whatever_breaks() {
    let things = std::env::var(THINGS).map_or(DEFAULT_THINGS, |text| text.parse().unwrap());
    let platform = Arc::new(Platform::start_with(|settings| settings.requests_per_minute = u32::MAX).await);
    let admin = platform.tenant("interior").await;

    let mut su = platform.system.db.superuser().await;
    let cutting = tokio::spawn(async move {
        let mut pause = tokio::time::interval(Duration::from_millis(15));
        loop {
            pause.tick().await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'chancery' ORDER BY random() LIMIT 1) AS one";
            rows(&mut su, sql).await.unwrap();
        }
    });
    let names: Vec<String> = (0..things).map(|n| format!("key-{n}")).collect();
    for some in names.chunks(AT_ONCE) {
        let asked = some.iter().flat_map(|name| {
            (0..DUPLICATES).map(|_| tokio::spawn(insist(platform.clone(), admin.clone(), name.clone())))
        });
        let asked: Vec<_> = asked.collect();
        let mut answers = Vec::new();
        for one in asked {
            answers.push(one.await.unwrap());
        }
        for same in answers.chunks(DUPLICATES) {
            assert_eq!(same.iter().collect::<BTreeSet<_>>().len(), 1, "one answer for all");
        }
        assert_eq!(answers.iter().collect::<BTreeSet<_>>().len(), some.len(), "a secret of its own for each");
    }
    cutting.abort();
    let _ = cutting.await;
    let things = i64::try_from(things).unwrap();
    for sql in [
        "SELECT count(*) FROM api_keys",
        "SELECT count(*) FROM audit_events WHERE action = 'create_api_key'",
        "SELECT count(DISTINCT name) FROM api_keys",
    ] {
        assert_eq!(platform.system.db.count(sql).await, things, "{sql}");
    }
    let plain =
        "SELECT count(*) FROM idempotent_answers WHERE position('chy_' in encode(answer, 'escape')) > 0";
    assert_eq!(platform.system.db.count(plain).await, 0, "a kept answer shows no secret");
    Arc::into_inner(platform).expect("nobody else asks any more").system.stop().await;
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_caller() {
    let platform = Platform::start().await;
    let (interior, health) = (platform.tenant("interior").await, platform.tenant("health").await);
    let (first, again, made) = send(&platform, &interior, "one", "name").await;
    assert_eq!((first, again), (StatusCode::CREATED, false));
    let (second, again, same) = send(&platform, &interior, "one", "name").await;
    assert_eq!((second, again, &same), (StatusCode::CREATED, true, &made));
    assert_eq!(send(&platform, &interior, "one", "another").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (theirs, again, other) = send(&platform, &health, "one", "name").await;
    assert_eq!((theirs, again), (StatusCode::CREATED, false), "another caller's key is another key");
    assert_ne!(other["secret"], made["secret"]);
    for wrong in ["", "with space", &"x".repeat(256)] {
        assert_eq!(send(&platform, &interior, wrong, "name").await.0, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let (status, _) = platform
        .call(
            Method::GET,
            &format!("/api/v1/api-keys/{}", made["key"]["id"].as_str().unwrap()),
            &interior,
            None,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    platform.system.stop().await;
}
