//! Replicas that follow load: up, down, to none and back; prompts that wait for
//! them; replicas that leave cordoned workers.

use std::time::Duration;

use domain::workers::ReplicaLoad;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::database::rows;
use tests::stage::{Ministry, PATIENCE, Stage, says};
use tests::wait::until;

const CHAT: &str = "/v1/chat/completions";
const ENDPOINT: &str = "/api/v1/endpoints/chat";
/// Nobody has asked for long.
const IDLE: ReplicaLoad =
    ReplicaLoad { queued_milli: 0, tokens: 0, first_token_ms: None, idle_ms: 3_600_000 };

fn prompt() -> Value {
    json!({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]})
}

/// A stage whose scheduler lets replicas go after a second.
async fn stage() -> (Stage, Ministry) {
    let stage = Stage::start_with(|_, scheduler| {
        scheduler.autoscaling_interval_secs = 1;
        scheduler.autoscaling_window_secs = 1;
    })
    .await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    (stage, interior)
}

/// An endpoint with this many replicas, of which a worker of the stage takes one.
async fn endpoint(stage: &Stage, of: &Ministry, extra: Value) {
    let mut body = json!({"name": "chat", "model": "small",
        "resources": {"class": "cpu", "memory_bytes": 1_000_000_000, "milli": 500}});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    let (status, answer) = stage.call(of, Method::POST, "/api/v1/endpoints", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// Waits for a number of replicas; the endpoint as it is then.
async fn until_replicas(stage: &Stage, of: &Ministry, wanted: u32, ready: u32) -> Value {
    until("another number of replicas", PATIENCE, async || {
        let (_, endpoint) = stage.call(of, Method::GET, ENDPOINT, None).await;
        let so = endpoint["replicas"] == wanted && endpoint["ready_replicas"] == ready;
        so.then_some(endpoint)
    })
    .await
}

#[tokio::test]
async fn replicas_follow_what_waits_and_say_why() {
    let (stage, interior) = stage().await;
    let mut workers = Vec::new();
    for name in ["first", "second", "third", "fourth"] {
        let worker = stage.worker(name, |_| says(&["x"])).await;
        worker.is_busy(ReplicaLoad { idle_ms: 0, ..IDLE });
        workers.push(worker);
    }
    endpoint(&stage, &interior, json!({"min_replicas": 1, "max_replicas": 3})).await;
    let before = until_replicas(&stage, &interior, 1, 1).await;
    assert_eq!((&before["min_replicas"], &before["max_replicas"]), (&json!(1), &json!(3)));
    assert_eq!(before["scaling"]["queued_per_replica"], 2);
    assert_eq!(before["scaling_reason"], Value::Null);

    let queued = |milli| ReplicaLoad { queued_milli: milli, idle_ms: 0, ..IDLE };
    workers.iter().for_each(|worker| worker.is_busy(queued(9000)));
    let busy = until_replicas(&stage, &interior, 3, 3).await;
    let why = busy["scaling_reason"].as_str().unwrap();
    assert!(why.contains("9.0 requests wait for their first token; the target is 2 per replica"), "{why}");
    assert!(why.ends_with("that asks for 5, but max_replicas is 3"), "{why}");
    assert_eq!(busy["revision"], before["revision"], "nobody asked for something else");

    // What is not measured keeps what there is; then fewer will do.
    workers.iter().for_each(|worker| worker.is_busy(queued(100)));
    let calm = until_replicas(&stage, &interior, 1, 1).await;
    assert_eq!(calm["scaling_reason"], "for 1 s no more than 1 were needed");
    let placed = "SELECT count(*) FROM placements WHERE state <> 'ended'";
    until("the others drained", PATIENCE, async || (stage.db.count(placed).await == 1).then_some(())).await;

    // A number alone is fixed, whatever is measured.
    let (status, fixed) = stage.call(&interior, Method::PATCH, ENDPOINT, Some(json!({"replicas": 2}))).await;
    assert_eq!(
        (status, &fixed["min_replicas"], &fixed["max_replicas"]),
        (StatusCode::OK, &json!(2), &json!(2))
    );
    until_replicas(&stage, &interior, 2, 2).await;
    let (status, problem) = stage
        .call(&interior, Method::PATCH, ENDPOINT, Some(json!({"min_replicas": 4, "max_replicas": 3})))
        .await;
    assert_eq!((status, &problem["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("min_replicas")));
    stage
        .stop_and(async |db| {
            let sql = "SELECT detail FROM audit_events WHERE action = 'scale_endpoint' AND actor LIKE 'scheduler:%' ORDER BY id";
            let found = rows(&mut db.superuser().await, sql).await.unwrap();
            let numbers: Vec<(Value, Value)> = (found.iter())
                .map(|row| sqlx::Row::get::<Value, _>(row, 0))
                .map(|detail| (detail["from"].clone(), detail["replicas"].clone()))
                .collect();
            assert_eq!(numbers, [(json!(1), json!(3)), (json!(3), json!(1))]);
        })
        .await;
}

#[tokio::test]
async fn the_last_replica_goes_when_nobody_asks_and_prompts_wait_for_its_return() {
    let (stage, interior) = stage().await;
    let worker = stage.worker("first", |_| says(&["here", " again"])).await;
    worker.is_busy(IDLE);
    endpoint(&stage, &interior, json!({"min_replicas": 0, "max_replicas": 1, "scaling": {"idle_secs": 1}}))
        .await;
    let gone = until_replicas(&stage, &interior, 0, 0).await;
    assert_eq!((&gone["scaling_reason"], &gone["reason"]), (&json!("nobody asked for 1 s"), &Value::Null));
    let placed = "SELECT count(*) FROM placements WHERE state <> 'ended'";
    until("it drained", PATIENCE, async || (stage.db.count(placed).await == 0).then_some(())).await;

    worker.is_busy(ReplicaLoad { idle_ms: 0, ..IDLE });
    let body = prompt();
    let ask = || stage.call(&interior, Method::POST, CHAT, Some(body.clone()));
    let answers = tokio::join!(ask(), ask(), ask());
    for (status, answer) in [answers.0, answers.1, answers.2] {
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["choices"][0]["message"]["content"], "here again");
    }
    let back = until_replicas(&stage, &interior, 1, 1).await;
    assert!(back["scaling_reason"].as_str().unwrap().contains("wait"), "{back}");
    until("nothing is held any more", PATIENCE, async || {
        (stage.db.count("SELECT count(*) FROM held_requests").await == 0).then_some(())
    })
    .await;
    stage.stop_and(async |db| assert_eq!(db.count("SELECT count(*) FROM usage").await, 3)).await;
}

#[tokio::test]
async fn a_prompt_waits_no_longer_than_it_may_and_is_told_why() {
    let stage = Stage::start_with(|api, _| api.hold_secs = 1).await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    endpoint(&stage, &interior, json!({"min_replicas": 0, "max_replicas": 1, "replicas": 0})).await;
    let answer = stage.request(&interior, Method::POST, CHAT).json(&prompt()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key(RETRY_AFTER));
    let error: Value = answer.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("the request waited 1 s for it"), "{message}");
    stage.stop().await;
}

#[tokio::test]
async fn where_nothing_can_be_placed_nobody_waits_for_long() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    endpoint(&stage, &interior, json!({"min_replicas": 0, "max_replicas": 1, "replicas": 0})).await;
    let asked = stage.call(&interior, Method::POST, CHAT, Some(prompt()));
    let (status, error) = tokio::time::timeout(PATIENCE * 2, asked).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(error["error"]["message"], "the model \"chat\" is not ready: no worker has joined yet");
    stage.stop().await;
}

#[tokio::test]
async fn few_wait_at_once_and_who_leaves_makes_room() {
    let stage = Stage::start_with(|api, _| api.held_per_endpoint = 1).await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    endpoint(&stage, &interior, json!({"min_replicas": 0, "max_replicas": 1, "replicas": 0})).await;
    let send = || {
        let request = stage.request(&interior, Method::POST, CHAT).json(&prompt());
        tokio::spawn(request.timeout(Duration::from_millis(1000)).send())
    };
    let held = "SELECT count(*) FROM held_requests WHERE held = 1";
    let first = send();
    until("the first is held", PATIENCE, async || (stage.db.count(held).await == 1).then_some(())).await;
    let second = send().await.unwrap().unwrap();
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(second.headers().contains_key(RETRY_AFTER));
    assert!(first.await.unwrap().unwrap_err().is_timeout(), "it was held until its client left");
    until("the next is held", PATIENCE, async || {
        let held = send().await.unwrap().is_err_and(|e| e.is_timeout());
        held.then_some(())
    })
    .await;
    stage.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_answers_those_who_wait() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    endpoint(&stage, &interior, json!({"min_replicas": 0, "max_replicas": 1, "replicas": 0})).await;
    let asked = tokio::spawn(stage.request(&interior, Method::POST, CHAT).json(&prompt()).send());
    let held = "SELECT count(*) FROM held_requests";
    until("it is held", PATIENCE, async || (stage.db.count(held).await == 1).then_some(())).await;
    stage.stop().await;
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_replica_on_a_cordoned_worker_is_replaced_before_it_goes() {
    let (stage, interior) = stage().await;
    let first = stage.worker("first", |_| says(&["first"])).await;
    endpoint(&stage, &interior, json!({"replicas": 1})).await;
    stage.until_ready(1).await;
    stage.set("UPDATE workers SET cordoned = true").await;
    stage.set("INSERT INTO outbox (topic, subject, created_at) VALUES ('desired', 'x', now())").await;
    let stays = until("it says why it stays", PATIENCE, async || {
        let (_, endpoint) = stage.call(&interior, Method::GET, ENDPOINT, None).await;
        endpoint["reason"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(
        stays,
        "to be moved off a cordoned worker: no worker of class cpu takes work: 1 worker is cordoned"
    );
    assert_eq!(first.placements().len(), 1);

    // Prompts are answered all the while.
    let second = stage.worker("second", |_| says(&["second"])).await;
    let mut answered = Vec::new();
    until("it moved", PATIENCE, async || {
        let (status, answer) = stage.call(&interior, Method::POST, CHAT, Some(prompt())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answered.push(answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned());
        (first.placements().is_empty() && second.placements().len() == 1).then_some(())
    })
    .await;
    assert_eq!(answered[0], "first", "{answered:?}");
    let endpoint = until_replicas(&stage, &interior, 1, 1).await;
    assert_eq!(endpoint["reason"], Value::Null);
    stage.stop().await;
}
