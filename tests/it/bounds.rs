//! What bounds projects, keys and time: open jobs of a project, endpoints of a
//! key, days of a ministry's results.

use domain::Clock;
use futures_util::future::join_all;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use store::leadership::Term;
use tests::ministries::Platform;
use tests::stage::{PATIENCE, Stage};
use tests::wait::until;
use uuid::Uuid;

/// A file of one request to that model.
fn input(model: &str) -> Form {
    let line = json!({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": "hello"}]}});
    let part = Part::text(format!("{line}\n")).file_name("in.jsonl");
    Form::new().text("purpose", "batch").part("file", part)
}

/// A ministry with two endpoints of the model `small`, which nobody runs.
struct Bounded {
    platform: Platform,
    head: String,
}

impl Bounded {
    async fn start() -> Self {
        let platform = Platform::start().await;
        let small = json!({"name": "small"});
        platform.ok(Method::POST, "/api/v1/models", &platform.admin, Some(small)).await;
        let url = format!("{}/api/v1/models/small/versions/upload?filename=small.gguf", platform.url);
        let request = platform.system.http.post(url).bearer_auth(&platform.admin);
        let answer = request.header("idempotency-key", "model").body("GGUF weights").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let head = platform.tenant("interior").await;
        let this = Self { platform, head };
        for name in ["chat", "other"] {
            this.made("endpoints", json!({"name": name, "model": "small"})).await;
        }
        this
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        self.platform.ok(Method::POST, &format!("/api/v1/{path}"), &self.head, Some(body)).await
    }

    async fn key(&self, bounds: Value) -> String {
        let mut key = json!({"project": "sandbox", "name": Uuid::now_v7()});
        key.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        self.made("api-keys", key).await["secret"].as_str().unwrap().to_owned()
    }

    async fn upload(&self, key: &str, model: &str) -> String {
        let url = format!("{}/v1/files", self.platform.url);
        let request = self.platform.system.http.post(url).bearer_auth(key).multipart(input(model));
        let file: Value = request.send().await.unwrap().json().await.unwrap();
        file["id"].as_str().unwrap_or_else(|| panic!("{file}")).to_owned()
    }

    async fn batch(&self, key: &str, file: &str) -> (StatusCode, Value) {
        let batch =
            json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        self.platform.call(Method::POST, "/v1/batches", key, Some(batch)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_has_no_more_open_jobs_than_it_may() {
    const LIMIT: usize = 3;
    let it = Bounded::start().await;
    let p = &it.platform;
    let key = it.key(json!({})).await;
    let file = it.upload(&key, "chat").await;
    let limits = json!({"limits": {"open_jobs": LIMIT}});
    p.ok(Method::PATCH, "/api/v1/projects/sandbox", &it.head, Some(limits)).await;
    // At once, by both interfaces.
    let native =
        format!("{}-{}-{}-{}-{}", &file[5..13], &file[13..17], &file[17..21], &file[21..25], &file[25..]);
    let asked = (0..12).map(async |n| {
        if n % 2 == 0 {
            return it.batch(&key, &file).await;
        }
        p.call(Method::POST, "/api/v1/jobs", &key, Some(json!({"input_file_id": native}))).await
    });
    let answers = join_all(asked).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| status.is_success());
    assert_eq!(made.len(), LIMIT, "{answers:?}");
    for (status, answer) in refused {
        assert_eq!(*status, StatusCode::CONFLICT, "{answer}");
        assert!(answer.to_string().contains("open jobs"), "{answer}");
    }
    let open = "SELECT count(*) FROM jobs WHERE ended_at IS NULL";
    assert_eq!(p.system.db.count(open).await, i64::try_from(LIMIT).unwrap());
    // Another project has its own.
    it.made("projects", json!({"slug": "beside", "name": "Beside"})).await;
    let beside = it.made("api-keys", json!({"project": "beside", "name": "beside"})).await;
    let beside = beside["secret"].as_str().unwrap();
    let theirs = it.upload(beside, "small").await;
    let (status, answer) = it.batch(beside, &theirs).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // One that ended makes room for one.
    let ended = made[0].1["id"].as_str().unwrap();
    let ended = ended.trim_start_matches("batch_").parse::<Uuid>().unwrap();
    p.ok(Method::POST, &format!("/api/v1/jobs/{ended}/cancel"), &key, None).await;
    until("room for a job", PATIENCE, async || it.batch(&key, &file).await.0.is_success().then_some(()))
        .await;
    assert_eq!(it.batch(&key, &file).await.0, StatusCode::CONFLICT);
    it.platform.system.stop().await;
}

#[tokio::test]
async fn a_key_of_an_endpoint_batches_on_no_other() {
    let it = Bounded::start().await;
    let p = &it.platform;
    let key = it.key(json!({"endpoints": ["chat"]})).await;
    let of_the_model = it.key(json!({"endpoints": ["small"]})).await;
    let whole = it.key(json!({})).await;
    let refused = async |key: &str, model: &str| {
        let (status, answer) = it.batch(key, &it.upload(key, model).await).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{model}: {answer}");
        answer.to_string().replace(model, "NAME")
    };
    let never = refused(&key, "nothing").await;
    assert!(never.contains("there is: chat"), "{never}");
    for model in ["other", "small"] {
        assert_eq!(refused(&key, model).await, never, "{model}");
        let (status, answer) = it.batch(&whole, &it.upload(&whole, model).await).await;
        assert_eq!(status, StatusCode::OK, "control: {model}: {answer}");
    }
    // It is bound to endpoints; a model of the catalogue of that name is none.
    refused(&of_the_model, "small").await;
    let (status, batch) = it.batch(&key, &it.upload(&key, "chat").await).await;
    assert_eq!(status, StatusCode::OK, "{batch}");
    let made = "SELECT count(*) FROM jobs j JOIN endpoints e ON e.version_id = j.version_id WHERE j.model = 'chat' AND e.name = 'chat'";
    assert_eq!(p.system.db.count(made).await, 1);
    // Nor does it run them in any other way.
    let (_, served) = p.call(Method::GET, "/v1/models", &key, None).await;
    assert_eq!(served["data"].as_array().unwrap().len(), 1, "{served}");
    assert_eq!(served["data"][0]["id"], "chat");
    let say = json!({"model": "other", "messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(p.call(Method::POST, "/v1/chat/completions", &key, Some(say)).await.0, StatusCode::NOT_FOUND);
    it.platform.system.stop().await;
}

/// What was answered is gone after that many days: the rows that jobs work
/// with, and the files that people download.
#[tokio::test]
async fn results_go_when_their_days_are_over() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let worker = stage.worker("worker", |_: &_| Vec::new()).await;
    let run = async || {
        let request = stage.request(&interior, Method::POST, "/v1/files").multipart(input("small"));
        let file: Value = request.send().await.unwrap().json().await.unwrap();
        let batch = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions",
            "completion_window": "24h"});
        let (status, batch) = stage.call(&interior, Method::POST, "/v1/batches", Some(batch)).await;
        assert_eq!(status, StatusCode::OK, "{batch}");
        let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
        let job = batch["id"].as_str().unwrap().trim_start_matches("batch_").parse::<Uuid>().unwrap();
        let chunk = worker.lease(&stage, &job.to_string()).await.expect("a share of the job");
        let answer = json!({"answered": {"text": "a secret of state", "reason": "stop",
            "counts": {"prompt_tokens": 2, "completion_tokens": 2}, "accelerator_ms": 4}});
        let lines: Vec<_> =
            chunk.lines.iter().map(|line| json!({"line": line.line, "outcome": answer})).collect();
        let complete = format!("jobs/{job}/chunks/{}/complete", chunk.index);
        let (status, text) =
            worker.post(&stage, &complete, json!({"token": chunk.token, "lines": lines})).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{text}");
        let ended = until("the end of the job", PATIENCE, async || {
            let (_, batch) = stage.call(&interior, Method::GET, &path, None).await;
            (batch["status"] == "completed").then_some(batch)
        })
        .await;
        (job, ended["output_file_id"].as_str().unwrap().to_owned(), file["id"].as_str().unwrap().to_owned())
    };
    let (old, output, input) = run().await;
    let (young, later_output, _) = run().await;
    stage.set(&format!("UPDATE jobs SET ended_at = ended_at - interval '2 days' WHERE id = '{old}'")).await;
    let status = async |path: String| stage.call(&interior, Method::GET, &path, None).await.0;
    let content = |file: &str| format!("/v1/files/{file}/content");
    let results = async |job: Uuid| {
        stage.db.count(&format!("SELECT count(*) FROM results WHERE job_id = '{job}'")).await
    };
    assert_eq!((results(old).await, status(content(&output)).await), (1, StatusCode::OK), "control");

    let epoch = stage.db.count("SELECT epoch FROM leadership").await;
    let clock = Clock::system();
    let term = Term { epoch, since: clock.now() };
    let tick =
        async || scheduler::retention::tick(&stage.db.store, &stage.objects, &clock, term).await.unwrap();
    assert!(!tick().await, "without a rule everything is kept");
    stage.set("UPDATE tenants SET retention = '{\"results_days\": 3}'").await;
    assert!(!tick().await, "its days are not over");
    stage.set("UPDATE tenants SET retention = '{\"results_days\": 1}'").await;
    assert!(tick().await);
    assert!(!tick().await, "nothing is left to do");

    assert_eq!((results(old).await, results(young).await), (0, 1));
    assert_eq!(status(content(&output)).await, StatusCode::NOT_FOUND);
    assert_eq!(status(format!("/api/v1/jobs/{old}/results")).await, StatusCode::NOT_FOUND);
    assert_eq!(status(format!("/api/v1/jobs/{young}/results")).await, StatusCode::OK);
    for kept in [content(&later_output), content(&input), format!("/api/v1/jobs/{old}")] {
        assert_eq!(status(kept.clone()).await, StatusCode::OK, "{kept}");
    }
    let applied = stage.db.count("SELECT count(*) FROM audit_events WHERE action = 'apply_retention' AND detail = '{\"files\": 1, \"results\": 1}'").await;
    assert_eq!(applied, 1);
    stage.stop().await;
}
