//! Workers and schedulers over the internal listener: joining, desired state,
//! reports, files, cordons, fail-over.

use std::time::{Duration, Instant};

use domain::keys::{CredentialKind, mint};
use domain::workers::DESIRED_WAIT_SECS;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::http::call;
use tests::system::{System, WEIGHTS, schedule};
use tests::wait::until;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than the timer by which a held poll looks again.
const HELD: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_worker_joins_learns_what_to_hold_and_lets_go() {
    let it = System::start().await;
    let (_, worker) = it.join("node").await;
    let (_, stranger) = it.join("stranger").await;
    let (status, nothing) = it.get("desired", &worker).await;
    assert_eq!((status, &nothing["placements"]), (StatusCode::OK, &json!([])));
    // Only the first has room.
    it.set("UPDATE workers SET cordoned = true WHERE name = 'stranger'").await;

    // The poll is held until something is placed. The scheduler may raise the
    // epoch meanwhile, which is news too.
    let endpoint = it.endpoint().await;
    let mut state = nothing;
    while state["placements"] == json!([]) {
        let after = state["revision"].as_str().unwrap();
        (_, state) = it.get(&format!("desired?after={after}"), &worker).await;
    }
    let placement = &state["placements"][0];
    assert_eq!(placement["owner"], json!({"endpoint": endpoint}));
    assert_eq!((&placement["generation"], &placement["drain"]), (&json!(1), &json!(false)));
    assert!(state["epoch"].as_i64().unwrap() >= 1);

    let file = placement["version"]["manifest"]["files"][0]["sha256"].as_str().unwrap().to_owned();
    let blob = it.http.get(format!("{}/blobs/{file}", it.base)).bearer_auth(&worker).send().await.unwrap();
    assert_eq!((blob.status(), blob.content_length()), (StatusCode::OK, Some(WEIGHTS.len() as u64)));
    assert_eq!(blob.bytes().await.unwrap(), WEIGHTS);
    assert_eq!(it.get(&format!("blobs/{file}"), &stranger).await.0, StatusCode::NOT_FOUND);
    assert_eq!(it.get(&format!("blobs/{}", "0".repeat(64)), &worker).await.0, StatusCode::NOT_FOUND);
    assert_eq!(it.get("blobs/..%2Fsecret", &worker).await.0, StatusCode::NOT_FOUND);

    let report = |state: &str| json!({"placements": [{"placement_id": placement["placement_id"], "generation": 1, "state": state, "detail": null}]});
    let ready = "SELECT count(*) FROM placements WHERE state = 'ready'";
    assert_eq!(it.post("report", &stranger, report("ready")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(it.db.count(ready).await, 0, "nobody speaks for another worker's placement");
    assert_eq!(it.post("report", &worker, report("ready")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(it.db.count(ready).await, 1);

    it.set(&format!("UPDATE endpoints SET replicas = 0 WHERE id = '{endpoint}'")).await;
    it.set("INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', 'x', now())").await;
    let mut state = state.clone();
    while state["placements"][0]["drain"] != json!(true) {
        let after = state["revision"].as_str().unwrap().to_owned();
        (_, state) = it.get(&format!("desired?after={after}"), &worker).await;
    }
    assert_eq!(it.post("report", &worker, report("ended")).await.0, StatusCode::NO_CONTENT);
    let (_, state) = it.get("desired", &worker).await;
    assert_eq!(state["placements"], json!([]));
    it.stop().await;
}

#[tokio::test]
async fn only_who_has_the_token_joins_and_only_the_latest_process_speaks() {
    let it = System::start().await;
    let (id, first) = it.join("node").await;
    assert_eq!(it.get("desired", &first).await.0, StatusCode::OK);
    let (again, second) = it.join("node").await;
    assert_eq!(id, again);
    let report = json!({"placements": []});
    assert_eq!(it.post("report", &first, report.clone()).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(it.post("report", &second, report.clone()).await.0, StatusCode::NO_CONTENT);

    for wrong in [mint(CredentialKind::Join, [8; 20]), second.clone(), String::new()] {
        let body =
            json!({"name": "x", "pool": "x", "zone": "x", "address": "http://127.0.0.1:9", "devices": []});
        assert_eq!(it.post("join", &wrong, body).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(
            it.post("report", &wrong, report.clone()).await.0 == StatusCode::NO_CONTENT,
            wrong == second
        );
    }
    let device = |ordinal: u32, class: &str| json!({"ordinal": ordinal, "class": class, "memory_bytes": 1, "milli": 1});
    for (address, devices) in [
        ("file:///etc/passwd", json!([device(0, "cpu")])),
        ("http://127.0.0.1:9", json!([])),
        ("http://127.0.0.1:9", json!([device(0, "cpu"), device(0, "cpu")])),
        ("http://127.0.0.1:9", json!([device(0, "abacus")])),
    ] {
        let body = json!({"name": "x", "pool": "x", "zone": "x", "address": address, "devices": devices});
        let (status, problem) = it.post("join", &it.join_token, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    }
    assert_eq!(it.db.count("SELECT count(*) FROM workers").await, 1);
    it.stop().await;
}

#[tokio::test]
async fn an_administrator_sees_and_cordons_workers() {
    let it = System::start().await;
    let admin = it.session("platform_admin").await;
    it.join("first").await;
    it.join("second").await;
    let workers = |query: &str| format!("http://{}/api/v1/workers{query}", it.public);
    let call =
        async |method, url: String, token: &str, body| call(&it.http, method, &url, Some(token), body).await;

    let (status, page) = call(Method::GET, workers("?limit=1"), &admin, None).await;
    assert_eq!(
        (status, &page["items"][0]["name"], &page["items"][0]["live"]),
        (StatusCode::OK, &json!("first"), &json!(true))
    );
    assert_eq!(page["items"][0]["devices"][0]["milli"], json!(2000));
    let next = format!("?limit=1&cursor={}", page["next"].as_str().unwrap());
    let (_, page) = call(Method::GET, workers(&next), &admin, None).await;
    assert_eq!((&page["items"][0]["name"], &page["next"]), (&json!("second"), &Value::Null));

    let cordon = || Some(json!({"cordoned": true}));
    let (status, worker) = call(Method::PATCH, workers("/first"), &admin, cordon()).await;
    assert_eq!((status, &worker["cordoned"]), (StatusCode::OK, &json!(true)));
    let (_, worker) = call(Method::GET, workers("/first"), &admin, None).await;
    assert_eq!(worker["cordoned"], json!(true));
    assert_eq!(it.db.count("SELECT count(*) FROM audit_events WHERE action = 'update_worker'").await, 1);
    assert_eq!(call(Method::PATCH, workers("/third"), &admin, cordon()).await.0, StatusCode::NOT_FOUND);

    // Nothing is placed on it.
    it.endpoint().await;
    let placed =
        "SELECT count(*) FROM placements p JOIN workers w ON w.id = p.worker_id WHERE w.name = 'second'";
    until("the other worker gets the work", PATIENCE, async || {
        (it.db.count(placed).await == 1).then_some(())
    })
    .await;

    let developer = it.session("developer").await;
    assert_eq!(call(Method::GET, workers(""), &developer, None).await.0, StatusCode::FORBIDDEN);
    assert_eq!(call(Method::PATCH, workers("/first"), &developer, cordon()).await.0, StatusCode::FORBIDDEN);
    it.stop().await;
}

#[tokio::test]
async fn a_second_scheduler_takes_over() {
    let it = System::start().await;
    it.join("node").await;
    let epoch = async || it.db.count("SELECT epoch FROM leadership").await;
    until("the first scheduler leads", PATIENCE, async || (epoch().await == 1).then_some(())).await;
    let own = CancellationToken::new();
    let second = schedule(&it.db, &it.objects, &own);
    it.set("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await;
    until("another term begins", PATIENCE, async || (epoch().await >= 2).then_some(())).await;
    it.endpoint().await;
    let placed = "SELECT count(*) FROM placements WHERE state = 'assigned'";
    until("the new leader places", PATIENCE, async || (it.db.count(placed).await == 1).then_some(())).await;
    own.cancel();
    second.await.unwrap();
    it.stop().await;
}

#[tokio::test]
async fn a_stop_answers_those_that_wait() {
    let it = System::start().await;
    let (_, worker) = it.join("node").await;
    let epoch = async || it.db.count("SELECT epoch FROM leadership").await;
    until("the scheduler leads", PATIENCE, async || (epoch().await == 1).then_some(())).await;
    let (_, state) = it.get("desired", &worker).await;
    let url = format!("{}/desired?after={}", it.base, state["revision"].as_str().unwrap());
    let mut poll = tokio::spawn(it.http.get(url).bearer_auth(&worker).send());
    assert!(tokio::time::timeout(HELD, &mut poll).await.is_err(), "the poll is held while nothing changes");
    let stopping = Instant::now();
    it.stop().await;
    assert_eq!(poll.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(
        stopping.elapsed() < Duration::from_secs(DESIRED_WAIT_SECS) / 2,
        "a stop does not wait for polls"
    );
}
