//! The gateway over real sockets: answers, failures of workers in the middle of
//! them, callers that go away, and what is billed for each.

#![expect(clippy::unwrap_used, reason = "what cannot be done fails the test")]

use std::time::Duration;

use domain::inference::{Event, FailureKind, Input};
use futures_util::StreamExt;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::database::{Database, rows};
use tests::stage::{Ministry, PATIENCE, Stage, Step, says, text};
use tests::wait::until;

const CHAT: &str = "/v1/chat/completions";

fn prompt(extra: &Value) -> Value {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "Secret words"}]});
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        body[key] = value;
    }
    body
}

/// The data of each server-sent event.
async fn events(stage: &Stage, of: &Ministry, path: &str, body: Value) -> Vec<String> {
    let answer = stage.request(of, Method::POST, path).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = answer.text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// The text of a stream of chat chunks.
fn said(events: &[String]) -> String {
    let chunks = events.iter().filter_map(|e| serde_json::from_str::<Value>(e).ok());
    chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// Prompt and completion tokens of every usage row, in order of time.
async fn billed(db: &Database) -> Vec<(i64, i64)> {
    let sql = "SELECT prompt_tokens, completion_tokens FROM usage ORDER BY at";
    let found = rows(&mut db.superuser().await, sql).await.unwrap();
    found.iter().map(|row| (sqlx::Row::get(row, 0), sqlx::Row::get(row, 1))).collect()
}

async fn ready(script: impl tests::stage::Script) -> (Stage, Ministry, tests::stage::Worker) {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    let version = stage.model("small").await;
    let worker = stage.worker("first", script).await;
    stage.endpoint(&interior, "chat", version, 1).await;
    stage.until_ready(1).await;
    (stage, interior, worker)
}

#[tokio::test]
async fn an_answer_comes_whole_and_is_settled_with_its_proof() {
    let (stage, interior, worker) = ready(|request| {
        assert!(matches!(&request.input, Input::Chat(m) if m[0].content == "Secret words"));
        assert_eq!((request.max_tokens, request.sampling.temperature), (Some(9), 0.5));
        says(&["All", " is", " well"])
    })
    .await;
    let body = prompt(&json!({"max_tokens": 9, "temperature": 0.5}));
    let (status, answer) = stage.call(&interior, Method::POST, CHAT, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "chat");
    assert_eq!(
        answer["choices"][0],
        json!({"index": 0, "message": {"role": "assistant", "content": "All is well", "refusal": null},
            "logprobs": null, "finish_reason": "stop"})
    );
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}));

    let id = worker.id.clone();
    stage
        .stop_and(async |db| {
            assert_eq!(billed(db).await, [(5, 3)]);
            let sql = "SELECT a.detail, a.actor, u.key_id::text, u.accelerator_ms FROM audit_events a, usage u WHERE a.action = 'generate'";
            let found = rows(&mut db.superuser().await, sql).await.unwrap();
            let detail: Value = sqlx::Row::get(&found[0], 0);
            assert_eq!((&detail["worker"], &detail["outcome"]), (&json!(id), &json!("finished")));
            assert_eq!(detail["content_hmac"].as_str().unwrap().len(), 64);
            assert!(!detail.to_string().contains("Secret"), "{detail}");
            let (actor, key): (String, String) = (sqlx::Row::get(&found[0], 1), sqlx::Row::get(&found[0], 2));
            assert_eq!(actor, format!("key:{key}"));
            assert_eq!(sqlx::Row::get::<i64, _>(&found[0], 3), 7);
        })
        .await;
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_usage_and_done() {
    let (stage, interior, _worker) = ready(|_| {
        let mut steps = says(&["one", " two"]);
        // A character that is not whole yet: tokens without text.
        steps.insert(2, Step::Say(Event::Text { text: String::new(), tokens: 1 }));
        steps
    })
    .await;
    let with_usage = prompt(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let sent = events(&stage, &interior, CHAT, with_usage).await;
    let chunk = |i: usize| serde_json::from_str::<Value>(&sent[i]).unwrap();
    assert_eq!(sent.len(), 6, "{sent:?}");
    assert_eq!(chunk(0)["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(said(&sent), "one two");
    assert_eq!(chunk(3)["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunk(4)["choices"], json!([]));
    assert_eq!(chunk(4)["usage"]["completion_tokens"], 2);
    assert_eq!(sent[5], "[DONE]");

    let body = json!({"model": "chat", "prompt": "Once", "stream": true});
    let sent = events(&stage, &interior, "/v1/completions", body).await;
    let first: Value = serde_json::from_str(&sent[0]).unwrap();
    assert_eq!((&first["object"], &first["choices"][0]["text"]), (&json!("text_completion"), &json!("one")));
    assert!(first.get("usage").is_none());
    assert_eq!(sent.last().unwrap(), "[DONE]");
    stage.stop().await;
}

#[tokio::test]
async fn a_worker_that_fails_before_the_first_text_is_replaced_unseen() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    let version = stage.model("small").await;
    let failing = |_: &domain::inference::GenerateRequest| {
        let started = Step::Say(Event::Started { prompt_tokens: 5 });
        vec![started, Step::Say(Event::Text { text: String::new(), tokens: 1 }), Step::Break]
    };
    let first = stage.worker("first", failing).await;
    let second = stage.worker("second", |_| says(&["well", " done"])).await;
    let dead = stage.worker("third", |_| says(&["never"])).await;
    stage.endpoint(&interior, "chat", version, 3).await;
    stage.until_ready(3).await;
    assert_eq!([first.placements().len(), second.placements().len(), dead.placements().len()], [1, 1, 1]);
    dead.stop_serving();
    for _ in 0..6 {
        let sent = events(&stage, &interior, CHAT, prompt(&json!({"stream": true}))).await;
        assert_eq!((said(&sent).as_str(), sent.last().unwrap().as_str()), ("well done", "[DONE]"));
        let (status, answer) = stage.call(&interior, Method::POST, CHAT, Some(prompt(&json!({})))).await;
        assert_eq!(
            (status, &answer["choices"][0]["message"]["content"]),
            (StatusCode::OK, &json!("well done"))
        );
    }
    assert_eq!(second.asked(), 12);
    assert!(
        (1..12).contains(&first.asked()),
        "a replica that failed is avoided, not asked {} times",
        first.asked()
    );
    stage
        .stop_and(async |db| {
            assert_eq!(billed(db).await, vec![(5, 2); 12], "what failed unseen is not billed");
        })
        .await;
}

#[tokio::test]
async fn a_whole_answer_survives_a_worker_that_dies_in_its_middle() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    let version = stage.model("small").await;
    let _first = stage
        .worker("first", |_| vec![Step::Say(Event::Started { prompt_tokens: 5 }), text("wrong"), Step::Break])
        .await;
    let _second = stage.worker("second", |_| says(&["right"])).await;
    stage.endpoint(&interior, "chat", version, 2).await;
    stage.until_ready(2).await;
    for _ in 0..2 {
        let (status, answer) = stage.call(&interior, Method::POST, CHAT, Some(prompt(&json!({})))).await;
        assert_eq!((status, &answer["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("right")));
    }
    stage.stop_and(async |db| assert_eq!(billed(db).await, [(5, 1), (5, 1)])).await;
}

#[tokio::test]
async fn after_the_first_text_a_failure_ends_the_stream_and_only_what_came_is_billed() {
    let (stage, interior, _worker) = ready(|_| {
        vec![Step::Say(Event::Started { prompt_tokens: 5 }), text("one"), text(" two"), Step::Break]
    })
    .await;
    let sent = events(&stage, &interior, CHAT, prompt(&json!({"stream": true}))).await;
    assert_eq!(said(&sent), "one two");
    let last: Value = serde_json::from_str(sent.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "answer_broken");
    assert!(last["error"]["message"].as_str().unwrap().contains("only what was delivered is billed"));
    stage.stop_and(async |db| assert_eq!(billed(db).await, [(5, 2)])).await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_the_work_and_pays_for_what_it_got() {
    let (stage, interior, worker) =
        ready(|_| vec![Step::Say(Event::Started { prompt_tokens: 5 }), text("one"), Step::Hang]).await;
    let body = prompt(&json!({"stream": true}));
    let answer = stage.request(&interior, Method::POST, CHAT).json(&body).send().await.unwrap();
    let mut parts = answer.bytes_stream();
    let mut seen = String::new();
    while !seen.contains("one") {
        seen.push_str(std::str::from_utf8(&parts.next().await.unwrap().unwrap()).unwrap());
    }
    drop(parts);
    until("the end of the work", PATIENCE, async || (worker.hung_up() == 1).then_some(())).await;

    // Of a whole answer nothing was delivered yet.
    let request = stage
        .request(&interior, Method::POST, CHAT)
        .json(&prompt(&json!({})))
        .timeout(Duration::from_millis(700));
    assert!(request.send().await.unwrap_err().is_timeout());
    until("the end of the work", PATIENCE, async || (worker.hung_up() == 2).then_some(())).await;
    stage.stop_and(async |db| assert_eq!(billed(db).await, [(5, 1), (0, 0)])).await;
}

#[tokio::test]
async fn what_a_worker_refuses_is_told_to_the_caller() {
    let (stage, interior, _worker) = ready(|request| {
        let kind = match request.max_tokens {
            Some(1) => FailureKind::Overloaded,
            Some(2) => FailureKind::Invalid,
            _ => FailureKind::NotReady,
        };
        vec![Step::Say(Event::Failed { kind, message: "the prompt has 9 tokens, the context 8".to_owned() })]
    })
    .await;
    let send = async |n: u32| {
        let body = prompt(&json!({"max_tokens": n}));
        stage.request(&interior, Method::POST, CHAT).json(&body).send().await.unwrap()
    };
    let overloaded = send(1).await;
    assert_eq!(overloaded.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(overloaded.headers().contains_key(RETRY_AFTER));
    assert_eq!(overloaded.json::<Value>().await.unwrap()["error"]["type"], "rate_limit_error");
    let invalid = send(2).await;
    assert_eq!(invalid.status(), StatusCode::BAD_REQUEST);
    let error: Value = invalid.json().await.unwrap();
    assert_eq!(error["error"]["message"], "the prompt has 9 tokens, the context 8");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let not_ready = send(3).await;
    assert_eq!(not_ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(not_ready.headers().contains_key(RETRY_AFTER));
    stage.stop_and(async |db| assert_eq!(billed(db).await, [], "no answer, no bill")).await;
}

#[tokio::test]
async fn names_are_known_only_in_their_tenant_and_errors_have_openai_shape() {
    let (stage, interior, _worker) = ready(|_| says(&["x"])).await;
    let justice = stage.ministry("justice").await;
    let version = stage.model("other").await;
    stage.endpoint(&justice, "waiting", version, 0).await;

    let (_, list) = stage.call(&interior, Method::GET, "/v1/models", None).await;
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&json!("list"), 1));
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["owned_by"]), (&json!("chat"), &json!("interior")));
    let (status, _) = stage.call(&interior, Method::GET, "/v1/models/chat", None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, foreign) = stage.call(&justice, Method::GET, "/v1/models/chat", None).await;
    let (_, absent) = stage.call(&justice, Method::GET, "/v1/models/nothing", None).await;
    assert_eq!((status, &foreign), (StatusCode::NOT_FOUND, &absent));

    let (status, error) = stage.call(&justice, Method::POST, CHAT, Some(prompt(&json!({})))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(error["error"]["message"], "the model \"chat\" does not exist; deployed are: waiting");
    let scaled_down = prompt(&json!({"model": "waiting"}));
    let (status, error) = stage.call(&justice, Method::POST, CHAT, Some(scaled_down)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(error["error"]["message"].as_str().unwrap().contains("scaled to 0 replicas"), "{error}");

    let (status, error) = stage.call(&interior, Method::POST, CHAT, Some(prompt(&json!({"tempo": 1})))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        error["error"],
        json!({"message": "tempo is not a known field; leave it out", "type": "invalid_request_error",
            "param": "tempo", "code": "invalid"})
    );
    let url = format!("{}{CHAT}", stage.public);
    let (status, error) =
        tests::http::call(&stage.http, Method::POST, &url, Some("chy_wrong"), Some(prompt(&json!({})))).await;
    assert_eq!((status, &error["error"]["type"]), (StatusCode::UNAUTHORIZED, &json!("authentication_error")));
    stage.stop().await;
}
