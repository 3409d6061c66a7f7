//! Budgets of tokens: what is reserved, spent, refused and renewed, for prompts
//! and for jobs.

#![expect(clippy::unwrap_used, reason = "what cannot be done fails the test")]

use std::time::Duration;

use domain::budgets::{BudgetLine, Counted, Period, most_tokens};
use domain::inference::{Event, Input, Message, TokenCounts};
use domain::models::Sha256Digest;
use domain::usage::UsageRow;
use domain::{Clock, ProjectId, RequestId, TenantId, Timestamp, UsageId};
use reqwest::header::RETRY_AFTER;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use store::Store;
use store::budgets::tokens;
use tests::stage::{Ministry, PATIENCE, Stage, Step, says};
use tests::wait::until;

use crate::placement::Scene;

const CHAT: &str = "/v1/chat/completions";

fn line(period: Period, limit: i64) -> BudgetLine {
    BudgetLine { counts: Counted::Tokens, class: None, period, limit }
}

async fn give(store: &Store, tenant: TenantId, project: Option<ProjectId>, limit: i64, now: Timestamp) {
    let mut tx = store.system().await.unwrap();
    store::budgets::put(&mut tx, tenant, project, &[line(Period::Day, limit)], now).await.unwrap();
    store::outbox::publish(&mut tx, domain::outbox::Topic::Desired, "budgets", now).await.unwrap();
    tx.commit().await.unwrap();
}

/// Spent, reserved and free.
async fn figures(store: &Store, tenant: TenantId, now: Timestamp) -> (i64, i64, i64) {
    let mut tx = store.system().await.unwrap();
    let node = store::budgets::of_node(&mut tx, tenant, None, now).await.unwrap();
    (node.budgets[0].spent, node.budgets[0].reserved, node.budgets[0].free)
}

/// Whether a request could reserve as much.
async fn reserve(store: &Store, tenant: TenantId, of: RequestId, tokens: i64, now: Timestamp) -> bool {
    let mut tx = store.tenant(tenant).await.unwrap();
    let short = tokens::reserve(&mut tx, of, ProjectId(tenant.0), tokens, now).await.unwrap();
    tx.commit().await.unwrap();
    short.is_none()
}

async fn bill(scene: &Scene, of: RequestId, tokens: u32, at: Timestamp) {
    let row = UsageRow {
        id: UsageId::generate(),
        tenant_id: scene.tenant,
        project_id: ProjectId(scene.tenant.0),
        key_id: None,
        endpoint_id: None,
        job_id: None,
        request_id: of,
        model: "small".to_owned(),
        version_digest: Sha256Digest::of(b"weights"),
        worker_id: None,
        counts: TokenCounts { prompt_tokens: 1, completion_tokens: tokens - 1 },
        accelerator_ms: 1,
        at,
    };
    let mut tx = scene.db.store.tenant(scene.tenant).await.unwrap();
    tokens::release(&mut tx, of).await.unwrap();
    store::usage::record(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn tokens_are_reserved_spent_and_renewed() {
    let scene = Scene::new().await;
    let (store, tenant) = (&scene.db.store, scene.tenant);
    let now = Period::Day.ends(scene.now) + Duration::from_secs(12 * 3600);
    let before = RequestId::generate();
    bill(&scene, before, 7, now).await;
    give(store, tenant, None, 50, now).await;
    assert_eq!(figures(store, tenant, now).await, (7, 0, 43), "what was spent in this period counts");

    // However many ask at once, no more get than there is.
    let ids: Vec<RequestId> = (0..8).map(|_| RequestId::generate()).collect();
    let (a, b, c, d, e, f, g, h) = tokio::join!(
        reserve(store, tenant, ids[0], 10, now),
        reserve(store, tenant, ids[1], 10, now),
        reserve(store, tenant, ids[2], 10, now),
        reserve(store, tenant, ids[3], 10, now),
        reserve(store, tenant, ids[4], 10, now),
        reserve(store, tenant, ids[5], 10, now),
        reserve(store, tenant, ids[6], 10, now),
        reserve(store, tenant, ids[7], 10, now),
    );
    let got = [a, b, c, d, e, f, g, h];
    assert_eq!(got.iter().filter(|got| **got).count(), 4);
    assert_eq!(figures(store, tenant, now).await, (7, 40, 3));
    let first = got.iter().position(|got| *got).unwrap();
    bill(&scene, ids[first], 3, now).await;
    assert_eq!(figures(store, tenant, now).await, (10, 30, 10));

    // What a process left when it died is worth nothing after a while.
    let later = now + Duration::from_secs(2 * 3600);
    assert_eq!(figures(store, tenant, later).await, (10, 0, 40));
    let mut tx = store.system().await.unwrap();
    assert_eq!(tokens::prune(&mut tx, later).await.unwrap(), 3);
    tx.commit().await.unwrap();

    // A budget of the project binds as well; both must have room.
    give(store, tenant, Some(ProjectId(tenant.0)), 5, now).await;
    assert!(!reserve(store, tenant, RequestId::generate(), 6, now).await);
    let mut tx = store.tenant(tenant).await.unwrap();
    let asked = tokens::reserve(&mut tx, RequestId::generate(), ProjectId(tenant.0), 6, now).await.unwrap();
    let (why, ends) = (asked.unwrap().to_string(), Period::Day.ends(now));
    // Its 10 tokens of today are more than it may have.
    assert_eq!(
        why,
        format!(
            "the project's budget of 5 tokens a day is spent or reserved but for 0, and this may take 6; its \
             period ends at {ends}"
        )
    );
    drop(tx);

    // The next day all is there again; what is billed late changes nothing of it.
    assert_eq!(figures(store, tenant, ends).await, (0, 0, 50));
    let next = RequestId::generate();
    assert!(reserve(store, tenant, next, 5, ends).await);
    bill(&scene, next, 5, ends).await;
    bill(&scene, RequestId::generate(), 9, now).await;
    assert_eq!(figures(store, tenant, ends).await, (5, 0, 45));
    // Another tenant is not bound, and reserves for nothing.
    let other = scene.another_tenant("other").await;
    assert!(reserve(store, other, RequestId::generate(), 1_000_000, now).await);
    scene.db.finish().await;
}

fn prompt(extra: &Value) -> Value {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "Secret words"}]});
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        body[key] = value;
    }
    body
}

#[tokio::test]
async fn a_prompt_that_no_budget_allows_is_refused_and_says_until_when() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    let version = stage.model("small").await;
    let worker = stage
        .worker("first", |request| match request.max_tokens {
            Some(77) => vec![Step::Say(Event::Started { prompt_tokens: 5 }), Step::Hang],
            _ => says(&["All", " is", " well"]),
        })
        .await;
    stage.endpoint(&interior, "chat", version, 1).await;
    stage.until_ready(1).await;
    let store = &stage.db.store;
    let now = || Clock::system().now();

    give(store, interior.tenant, None, 1000, now()).await;
    // It would come to 4096 tokens and more.
    let (answer, retry_after) = until("a refusal", PATIENCE, async || {
        let answer =
            stage.request(&interior, Method::POST, CHAT).json(&prompt(&json!({}))).send().await.unwrap();
        let retry_after = answer.headers().get(RETRY_AFTER).cloned();
        (answer.status() == StatusCode::TOO_MANY_REQUESTS).then_some((answer, retry_after))
    })
    .await;
    let refusal: Value = answer.json().await.unwrap();
    let error = &refusal["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("insufficient_quota"), &json!("insufficient_quota"))
    );
    let message = error["message"].as_str().unwrap();
    let ends = Period::Day.ends(now());
    assert!(
        message.starts_with("the tenant's budget of 1000 tokens a day is spent or reserved"),
        "{message}"
    );
    assert!(message.ends_with(&format!("its period ends at {ends}")), "{message}");
    assert!(retry_after.unwrap().to_str().unwrap().parse::<u64>().unwrap() <= 86_400);

    // Room for two that go on.
    let asked = worker.asked();
    let input = Input::Chat(vec![Message { role: "user".to_owned(), content: "Secret words".to_owned() }]);
    let each = most_tokens(serde_json::to_vec(&input).unwrap().len(), Some(77));
    until("that all is settled", PATIENCE, async || {
        (figures(store, interior.tenant, now()).await.1 == 0).then_some(())
    })
    .await;
    let spent = figures(store, interior.tenant, now()).await.0;
    give(store, interior.tenant, None, spent + 2 * each + 1, now()).await;
    let stream = prompt(&json!({"max_tokens": 77, "stream": true}));
    let send = || stage.request(&interior, Method::POST, CHAT).json(&stream).send();
    let (a, b, c, d) = tokio::join!(send(), send(), send(), send());
    let all: Vec<_> = [a, b, c, d].into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().filter(|answer| answer.status() == StatusCode::OK).count(), 2);
    assert_eq!(figures(store, interior.tenant, now()).await, (spent, 2 * each, 1));
    assert_eq!(worker.asked(), asked + 2, "nobody works on what is refused");
    drop(all);
    until("what was reserved", PATIENCE, async || {
        (figures(store, interior.tenant, now()).await == (spent, 0, 2 * each + 1)).then_some(())
    })
    .await;
    let (status, answer) =
        stage.call(&interior, Method::POST, CHAT, Some(prompt(&json!({"max_tokens": 9})))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    until("the bill", PATIENCE, async || {
        (figures(store, interior.tenant, now()).await == (spent + 8, 0, 2 * each + 1 - 8)).then_some(())
    })
    .await;
    stage.stop().await;
}

async fn job(stage: &Stage, of: &Ministry, lines: u32) -> String {
    let text: String = (0..lines)
        .map(|id| {
            let body = json!({"model": "small", "max_tokens": 10,
                "messages": [{"role": "user", "content": "Say"}]});
            json!({"custom_id": format!("r{id}"), "method": "POST", "url": CHAT, "body": body}).to_string()
                + "\n"
        })
        .collect();
    let part = Part::bytes(text.into_bytes()).file_name("in.jsonl");
    let form = Form::new().text("purpose", "batch").part("file", part);
    let file: Value = stage
        .request(of, Method::POST, "/v1/files")
        .multipart(form)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let body = json!({"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"});
    let (status, batch) = stage.call(of, Method::POST, "/v1/batches", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{batch}");
    let hex = batch["id"].as_str().unwrap().rsplit('_').next().unwrap();
    hex.parse::<uuid::Uuid>().unwrap().to_string()
}

#[tokio::test]
async fn a_job_waits_for_tokens_and_goes_on_when_there_are_some() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let now = || Clock::system().now();
    give(&stage.db.store, interior.tenant, None, 1000, now()).await;
    let job = job(&stage, &interior, 10).await;
    let path = format!("/api/v1/jobs/{job}");
    let worker = stage.worker("first", |_| Vec::new()).await;

    // Its first lines may come to more than all there is: they run alone.
    let chunk = worker.lease(&stage, &job).await.unwrap();
    let (spent, reserved, _) = figures(&stage.db.store, interior.tenant, now()).await;
    assert!(spent == 0 && reserved > 1000, "{reserved}");
    let lines: Vec<Value> = chunk
        .lines
        .iter()
        .map(|line| {
            json!({"line": line.line, "outcome": {"answered": {"text": "done", "reason": "stop",
                "counts": {"prompt_tokens": 2, "completion_tokens": 3}, "accelerator_ms": 4}}})
        })
        .collect();
    let complete = format!("jobs/{job}/chunks/{}/complete", chunk.index);
    let (status, refused) =
        worker.post(&stage, &complete, json!({"token": chunk.token, "lines": lines})).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{refused}");
    assert_eq!(figures(&stage.db.store, interior.tenant, now()).await, (20, 0, 980));

    // For the next there is too little: it says so, and leaves its devices.
    assert!(worker.lease(&stage, &job).await.is_none());
    let (_, waiting) = stage.call(&interior, Method::GET, &path, None).await;
    let reason = waiting["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the tenant's budget of 1000 tokens a day is spent or reserved but for 980"),
        "{reason}"
    );
    until("its share to leave", PATIENCE, async || worker.placements().is_empty().then_some(())).await;
    assert_eq!(stage.db.count("SELECT count(*) FROM workloads WHERE state <> 'ended'").await, 0);

    give(&stage.db.store, interior.tenant, None, 1_000_000, now()).await;
    let chunk = worker.lease(&stage, &job).await.unwrap();
    assert_eq!(chunk.index, 1, "it goes on where it stopped");
    stage.set(&format!("UPDATE jobs SET state = 'cancelling' WHERE id = '{job}'")).await;
    until("its end", PATIENCE, async || {
        let (_, job) = stage.call(&interior, Method::GET, &path, None).await;
        (job["state"] == "cancelled").then_some(())
    })
    .await;
    stage.stop().await;
}
