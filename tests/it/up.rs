//! `chancery up`, from outside: the official client, killed processes, a
//! restart that loses nothing.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::installation::{Installation, alone, calm};
use tests::python;
use tests::wait::until;
use tokio::io::{AsyncBufReadExt, BufReader};

const BATCH_DEADLINE: Duration = Duration::from_secs(240);

#[tokio::test]
async fn the_official_client_chats() {
    let up = calm().await;
    let output = python::script("chat.py", &up).output().await.unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), up.log());
}

/// The worker is killed in the middle of a batch of the official client: every
/// line has exactly one result.
#[tokio::test]
async fn a_killed_worker_costs_no_line_of_a_batch() {
    let up = alone().await;
    let mut client =
        python::script("batch.py", &up).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let batch = lines.next_line().await.unwrap().expect("the batch was created");

    until("progress", BATCH_DEADLINE, async || {
        let (_, batch) = up.call(Method::GET, &format!("/v1/batches/{batch}"), Some(&up.key()), None).await;
        let completed = batch["request_counts"]["completed"].as_u64().unwrap_or(0);
        assert!(completed < 50, "the batch ended before the worker was killed");
        (completed > 0).then_some(())
    })
    .await;
    let killed = up.kill("worker");
    until("a new worker", BATCH_DEADLINE, async || {
        (!up.pids("worker").is_empty() && !up.pids("worker").contains(&killed)).then_some(())
    })
    .await;

    let output = tokio::time::timeout(BATCH_DEADLINE, client.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), up.log());
}

/// An engine that dies takes nothing else down, and comes back.
#[tokio::test]
async fn a_killed_engine_comes_back() {
    let up = alone().await;
    let worker = up.pids("worker");
    let killed = up.kill("engine");
    until("a new engine", Duration::from_secs(60), async || {
        (up.pids("engine").len() == 1 && !up.pids("engine").contains(&killed)).then_some(())
    })
    .await;
    until("an answer", Duration::from_secs(60), async || (ask(&up).await.0 == StatusCode::OK).then_some(()))
        .await;
    assert_eq!(up.pids("worker"), worker, "the worker lives on");
}

#[tokio::test]
async fn stop_and_start_keep_everything() {
    let mut up = alone().await;
    let key = up.key();
    let admin = up.admin().await;
    let usage = async |up: &Installation| {
        up.call(Method::GET, "/api/v1/usage", Some(&up.key()), None).await.1["items"].clone()
    };
    // Of all endpoints: other tests have theirs.
    let requests = |usage: &Value| -> u64 {
        usage.as_array().into_iter().flatten().filter_map(|item| item["requests"].as_u64()).sum()
    };
    let earlier = requests(&usage(&up).await);
    assert_eq!(ask(&up).await.0, StatusCode::OK);
    let before = until("the answer's usage", Duration::from_secs(10), async || {
        Some(usage(&up).await).filter(|usage| requests(usage) > earlier)
    })
    .await;
    up.stop().await;
    up.start().await;
    assert_eq!(up.key(), key, "the key is the same");
    assert_eq!(usage(&up).await, before);
    let (status, _) = up.call(Method::GET, "/api/v1/me", Some(&admin), None).await;
    assert_eq!(status, StatusCode::OK, "the session lives on");
    assert_eq!(ask(&up).await.0, StatusCode::OK);
    let (_, tenants) = up.call(Method::GET, "/api/v1/tenants", Some(&admin), None).await;
    let slugs: Vec<&str> =
        tenants["items"].as_array().unwrap().iter().filter_map(|t| t["slug"].as_str()).collect();
    assert_eq!(slugs.iter().filter(|s| **s == "interior").count(), 1, "{slugs:?}");
}

/// Everything that the sample ministry has answers a second ministry's key
/// exactly as an identifier that never existed.
#[tokio::test]
async fn a_second_ministry_sees_nothing_of_the_first() {
    let up = calm().await;
    let admin = up.admin().await;
    let stranger = ministry(&up, &admin, "health").await;
    let key = up.key();

    let (status, _) = ask(&up).await;
    assert_eq!(status, StatusCode::OK);
    let mut paths = BTreeSet::new();
    for list in ["projects", "api-keys", "endpoints", "jobs", "files"] {
        // A session reads what a developer's key may not.
        let path = format!("/api/v1/{list}?tenant=interior");
        let (status, items) = up.call(Method::GET, &path, Some(&admin), None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {items}");
        for item in items["items"].as_array().unwrap() {
            paths.insert(format!("/api/v1/{list}/{}", item["id"].as_str().unwrap()));
        }
    }
    assert!(paths.iter().any(|p| p.contains("endpoints")), "control: the first ministry has rows: {paths:?}");

    let never = "/01900000-0000-7000-8000-000000000000";
    for path in &paths {
        let (kind, _) = path.rsplit_once('/').unwrap();
        for method in [Method::GET, Method::DELETE, Method::PATCH] {
            let body = (method == Method::PATCH).then(|| json!({"replicas": 0}));
            let foreign = up.call(method.clone(), path, Some(&stranger), body.clone()).await;
            let absent = up.call(method.clone(), &format!("{kind}{never}"), Some(&stranger), body).await;
            assert_eq!(without_ids(foreign), without_ids(absent), "{method} {path}");
        }
    }
    for list in ["endpoints", "jobs", "files", "usage"] {
        let (_, items) = up.call(Method::GET, &format!("/api/v1/{list}"), Some(&stranger), None).await;
        assert_eq!(items["items"], json!([]), "{list}");
        let (_, items) =
            up.call(Method::GET, &format!("/api/v1/{list}?tenant=interior"), Some(&stranger), None).await;
        assert!(items["items"].as_array().is_none_or(Vec::is_empty), "{list}: {items}");
    }
    let models = up.call(Method::GET, "/v1/models", Some(&stranger), None).await;
    assert_eq!(models.1["data"], json!([]));
    assert_eq!(ask_with(&up, &stranger).await.0, StatusCode::NOT_FOUND);
    let (status, endpoints) = up.call(Method::GET, "/api/v1/endpoints", Some(&key), None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(endpoints["items"][0]["replicas"], 1, "nothing changed");
}

/// A new ministry with a project; its API key.
async fn ministry(up: &Installation, admin: &str, slug: &str) -> String {
    let (status, answer) = up
        .call(Method::POST, "/api/v1/tenants", Some(admin), Some(json!({"slug": slug, "name": "A ministry"})))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let (status, answer) = up
        .call(
            Method::POST,
            &format!("/api/v1/projects?tenant={slug}"),
            Some(admin),
            Some(json!({"slug": "p", "name": "P"})),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let (status, answer) = up
        .call(
            Method::POST,
            &format!("/api/v1/api-keys?tenant={slug}"),
            Some(admin),
            Some(json!({"project": "p", "name": "test"})),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["secret"].as_str().expect("the secret is shown once").to_owned()
}

async fn ask(up: &Installation) -> (StatusCode, Value) {
    ask_with(up, &up.key()).await
}

async fn ask_with(up: &Installation, key: &str) -> (StatusCode, Value) {
    let body =
        json!({"model": "smollm2", "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4});
    up.call(Method::POST, "/v1/chat/completions", Some(key), Some(body)).await
}

/// Request ids differ from answer to answer; nothing else may.
fn without_ids((status, mut body): (StatusCode, Value)) -> (StatusCode, Value) {
    if let Some(object) = body.as_object_mut() {
        object.remove("instance");
    }
    (status, body)
}
