//! Batches over real sockets: from the upload to the output file, with leases
//! that are lost, lines that fail, and jobs that are cancelled.

#![expect(clippy::unwrap_used, reason = "what cannot be done fails the test")]

use std::collections::BTreeMap;

use domain::workers::LeasedChunk;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::stage::{Ministry, PATIENCE, Stage, Worker};
use tests::wait::until;

fn line(id: usize, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": format!("Say {id}")}]});
    json!({"custom_id": format!("r{id}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
        .to_string()
        + "\n"
}

async fn upload(stage: &Stage, of: &Ministry, content: String) -> Value {
    let part = Part::bytes(content.into_bytes()).file_name("dir/input.jsonl");
    // As the official client sends it, with the purpose first; and the other way round.
    let form = Form::new().text("purpose", "batch").part("file", part);
    let answer = stage.request(of, Method::POST, "/v1/files").multipart(form).send().await.unwrap();
    let status = answer.status();
    let file: Value = answer.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{file}");
    file
}

async fn create(stage: &Stage, of: &Ministry, file: &Value) -> (StatusCode, Value) {
    let body = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"for": "test"}});
    stage.call(of, Method::POST, "/v1/batches", Some(body)).await
}

/// The plain identifier in `batch_…` or `file-…`.
fn plain(id: &Value) -> String {
    let text = id.as_str().unwrap();
    let hex = text.rsplit(['_', '-']).next().unwrap();
    hex.parse::<uuid::Uuid>().unwrap().to_string()
}

fn answers(chunk: &LeasedChunk) -> Value {
    let outcome = |line: u64| match line {
        3 => json!({"failed": {"kind": "invalid", "message": "too long"}}),
        _ => json!({"answered": {"text": format!("answer {line}"), "reason": "stop",
            "counts": {"prompt_tokens": 2, "completion_tokens": 3}, "accelerator_ms": 4}}),
    };
    let lines: Vec<Value> =
        chunk.lines.iter().map(|l| json!({"line": l.line, "outcome": outcome(l.line)})).collect();
    json!({"token": chunk.token, "lines": lines})
}

async fn complete(stage: &Stage, worker: &Worker, chunk: &LeasedChunk) -> StatusCode {
    let path = format!("jobs/{}/chunks/{}/complete", chunk.job_id, chunk.index);
    worker.post(stage, &path, answers(chunk)).await.0
}

async fn until_status(stage: &Stage, of: &Ministry, id: &Value, status: &str) -> Value {
    let path = format!("/v1/batches/{}", id.as_str().unwrap());
    until(status, PATIENCE, async || {
        let (_, batch) = stage.call(of, Method::GET, &path, None).await;
        (batch["status"] == status).then_some(batch)
    })
    .await
}

async fn download(stage: &Stage, of: &Ministry, id: &Value) -> Vec<Value> {
    let path = format!("/v1/files/{}/content", id.as_str().unwrap());
    let answer = stage.request(of, Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_runs_to_its_files_and_every_line_has_one_result() {
    let stage = Stage::start().await;
    let (interior, justice) = (stage.ministry("interior").await, stage.ministry("justice").await);
    stage.model("small").await;
    let file = upload(&stage, &interior, (0..10).map(|i| line(i, "small")).collect()).await;
    assert_eq!((&file["filename"], &file["purpose"]), (&json!("input.jsonl"), &json!("batch")));
    let (status, batch) = create(&stage, &interior, &file).await;
    assert_eq!(status, StatusCode::OK, "{batch}");
    assert_eq!((&batch["status"], &batch["request_counts"]["total"]), (&json!("in_progress"), &json!(10)));
    let job = plain(&batch["id"]);

    // Nobody runs it yet, and it says why and where it stands.
    let path = format!("/api/v1/jobs/{job}");
    let waiting = until("a reason", PATIENCE, async || {
        let (_, waiting) = stage.call(&interior, Method::GET, &path, None).await;
        waiting["reason"].as_str().is_some_and(|r| r.contains("worker")).then_some(waiting)
    })
    .await;
    assert_eq!(waiting["position"], 1, "{waiting}");
    let (status, refused) = stage
        .call(&interior, Method::DELETE, &format!("/v1/files/{}", file["id"].as_str().unwrap()), None)
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");

    let worker = stage.worker("first", |_| Vec::new()).await;
    let first = worker.lease(&stage, &job).await.unwrap();
    assert_eq!((first.index, first.lines.len()), (0, 4));
    assert_eq!(first.lines[2].request.priority, domain::inference::Priority::Batch);
    let (_, running) = stage.call(&interior, Method::GET, &path, None).await;
    assert_eq!((&running["reason"], &running["position"]), (&Value::Null, &Value::Null), "{running}");
    assert_eq!(complete(&stage, &worker, &first).await, StatusCode::NO_CONTENT);
    assert_eq!(complete(&stage, &worker, &first).await, StatusCode::CONFLICT, "a second result is refused");
    // Chunks of four, four and two lines: after the last the share may be gone at once.
    for _ in 0..2 {
        let chunk = worker.lease(&stage, &job).await.unwrap();
        assert_eq!(complete(&stage, &worker, &chunk).await, StatusCode::NO_CONTENT);
    }

    let done = until_status(&stage, &interior, &batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 10, "completed": 9, "failed": 1}));
    assert_eq!(done["metadata"], json!({"for": "test"}));
    let output = download(&stage, &interior, &done["output_file_id"]).await;
    let ids: Vec<&str> = output.iter().map(|l| l["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["r0", "r1", "r2", "r4", "r5", "r6", "r7", "r8", "r9"]);
    let response = &output[0]["response"];
    assert_eq!((&response["status_code"], &output[0]["error"]), (&json!(200), &Value::Null));
    assert_eq!(response["body"]["choices"][0]["message"]["content"], "answer 0");
    assert_eq!(response["body"]["usage"]["total_tokens"], 5);
    let errors = download(&stage, &interior, &done["error_file_id"]).await;
    assert_eq!(errors.len(), 1);
    assert_eq!((&errors[0]["custom_id"], &errors[0]["response"]["status_code"]), (&json!("r3"), &json!(400)));
    assert_eq!(errors[0]["response"]["body"]["error"]["message"], "too long");

    // A second tenant sees nothing of it; the first sees all of it.
    for (path, count) in [("/v1/files", 3), ("/v1/batches", 1)] {
        let (_, own) = stage.call(&interior, Method::GET, path, None).await;
        let (_, foreign) = stage.call(&justice, Method::GET, path, None).await;
        assert_eq!(own["data"].as_array().unwrap().len(), count);
        assert_eq!(foreign["data"], json!([]));
    }
    for id in [&done["output_file_id"], &file["id"]] {
        let path = format!("/v1/files/{}/content", id.as_str().unwrap());
        assert_eq!(stage.call(&justice, Method::GET, &path, None).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(create(&stage, &justice, &file).await.0, StatusCode::NOT_FOUND);

    let (_, usage) = stage.call(&interior, Method::GET, "/api/v1/usage", None).await;
    let row = &usage["items"][0];
    assert_eq!(
        [&row["requests"], &row["prompt_tokens"], &row["completion_tokens"], &row["accelerator_ms"]],
        [&json!(9), &json!(18), &json!(27), &json!(36)]
    );
    let deleted = format!("/v1/files/{}", file["id"].as_str().unwrap());
    let (status, gone) = stage.call(&interior, Method::DELETE, &deleted, None).await;
    assert_eq!((status, &gone["deleted"]), (StatusCode::OK, &json!(true)));
    assert_eq!(stage.call(&interior, Method::GET, &deleted, None).await.0, StatusCode::NOT_FOUND);
    stage
        .stop_and(async |db| {
            let chunks = "SELECT count(*) FROM audit_events WHERE action = 'complete_chunk'";
            assert_eq!(db.count(chunks).await, 3);
            assert_eq!(db.count("SELECT count(*) FROM audit_events WHERE action = 'finish_job'").await, 1);
        })
        .await;
}

#[tokio::test]
async fn a_lease_that_ran_out_commits_nothing() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let file = upload(&stage, &interior, (0..4).map(|i| line(i, "small")).collect()).await;
    let (_, batch) = create(&stage, &interior, &file).await;
    let job = plain(&batch["id"]);
    let worker = stage.worker("first", |_| Vec::new()).await;
    let late = worker.lease(&stage, &job).await.unwrap();
    let renew = format!("jobs/{job}/chunks/{}/renew", late.index);
    assert_eq!(worker.post(&stage, &renew, json!({"token": late.token})).await.0, StatusCode::OK);
    assert!(worker.lease(&stage, &job).await.is_none(), "the only chunk is leased");

    stage
        .set("UPDATE job_chunks SET lease_expires_at = now() - interval '1 second' WHERE state = 'leased'")
        .await;
    // Refused although nobody else has it yet.
    assert_eq!(complete(&stage, &worker, &late).await, StatusCode::CONFLICT);
    assert_eq!(worker.post(&stage, &renew, json!({"token": late.token})).await.0, StatusCode::CONFLICT);
    let again = worker.lease(&stage, &job).await.unwrap();
    assert_eq!(again.index, late.index);
    assert_ne!(again.token, late.token);
    assert_eq!(complete(&stage, &worker, &late).await, StatusCode::CONFLICT);
    assert_eq!(complete(&stage, &worker, &again).await, StatusCode::NO_CONTENT);
    until_status(&stage, &interior, &batch["id"], "completed").await;
    stage
        .stop_and(async |db| {
            assert_eq!(db.count("SELECT count(*) FROM results").await, 4);
            assert_eq!(db.count("SELECT count(*) FROM usage").await, 3);
        })
        .await;
}

#[tokio::test]
async fn a_chunk_that_loses_every_worker_fails_instead_of_going_on_for_ever() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let file = upload(&stage, &interior, (0..4).map(|i| line(i, "small")).collect()).await;
    let (_, batch) = create(&stage, &interior, &file).await;
    let job = plain(&batch["id"]);
    let worker = stage.worker("first", |_| Vec::new()).await;
    for _ in 0..domain::jobs::MAX_CHUNK_ATTEMPTS {
        until("a lease", PATIENCE, async || worker.lease(&stage, &job).await).await;
        stage.set("UPDATE job_chunks SET lease_expires_at = now() - interval '1 second'").await;
    }
    let done = until_status(&stage, &interior, &batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 4, "completed": 0, "failed": 4}));
    assert_eq!(done["output_file_id"], Value::Null);
    let errors = download(&stage, &interior, &done["error_file_id"]).await;
    assert_eq!(errors.len(), 4);
    assert_eq!(errors[0]["response"]["body"]["error"]["code"], "workers_lost");
    stage.stop().await;
}

#[tokio::test]
async fn a_cancelled_batch_keeps_the_lines_that_were_done() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let file = upload(&stage, &interior, (0..12).map(|i| line(i, "small")).collect()).await;
    let (_, batch) = create(&stage, &interior, &file).await;
    let job = plain(&batch["id"]);
    let worker = stage.worker("first", |_| Vec::new()).await;
    let done = worker.lease(&stage, &job).await.unwrap();
    let running = worker.lease(&stage, &job).await.unwrap();
    assert_eq!(complete(&stage, &worker, &done).await, StatusCode::NO_CONTENT);

    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    let (status, cancelling) = stage.call(&interior, Method::POST, &path, None).await;
    assert_eq!((status, &cancelling["status"]), (StatusCode::OK, &json!("cancelling")));
    let (status, _) = stage.call(&interior, Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "asking twice is no error");
    let lease = async || {
        for (placement, generation) in worker.placements() {
            let body = json!({"placement_id": placement, "generation": generation});
            let (status, _) = worker.post(&stage, &format!("jobs/{job}/lease"), body).await;
            assert_ne!(status, StatusCode::OK, "nothing more is leased");
        }
    };
    lease().await;
    let renew = format!("jobs/{job}/chunks/{}/renew", running.index);
    let (status, _) = worker.post(&stage, &renew, json!({"token": running.token})).await;
    assert_eq!(status, StatusCode::CONFLICT, "who runs it is told to stop");
    assert_eq!(complete(&stage, &worker, &running).await, StatusCode::CONFLICT);

    let ended = until_status(&stage, &interior, &batch["id"], "cancelled").await;
    assert_eq!(ended["request_counts"], json!({"total": 12, "completed": 3, "failed": 1}));
    assert_eq!(download(&stage, &interior, &ended["output_file_id"]).await.len(), 3);
    lease().await;
    let (status, _) = stage.call(&interior, Method::POST, &format!("/api/v1/jobs/{job}/cancel"), None).await;
    assert_eq!(status, StatusCode::OK);
    stage.stop().await;
}

#[tokio::test]
async fn a_wrong_input_creates_nothing_and_says_which_line() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    let cases = BTreeMap::from([
        ("line 2: custom_id \"r1\" was used", line(1, "small") + &line(1, "small")),
        ("line 3: body.model is \"large\"", line(1, "small") + "\n" + &line(2, "large")),
        ("line 1: url must be", line(1, "small").replace("/v1/chat/completions", "/v1/embeddings")),
        ("which does not exist; there is: small", line(1, "large")),
        ("the input has no lines", "\n\n".to_owned()),
    ]);
    for (says, content) in cases {
        let file = upload(&stage, &interior, content).await;
        let (status, error) = create(&stage, &interior, &file).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(says), "{error}");
        assert_eq!(error["error"]["param"], "input_file_id");
    }
    for (field, value) in [("completion_window", json!("1h")), ("endpoint", json!("/v1/embeddings"))] {
        let mut body = json!({"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"});
        body[field] = value;
        let (status, error) = stage.call(&interior, Method::POST, "/v1/batches", Some(body)).await;
        assert_eq!((status, &error["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(field)), "{error}");
    }
    for form in [
        Form::new().part("file", Part::bytes(b"{}".to_vec())),
        Form::new().text("purpose", "fine-tune").part("file", Part::bytes(b"{}".to_vec())),
        Form::new().text("purpose", "batch").part("file", Part::bytes(Vec::new())),
        Form::new().text("purpose", "batch"),
        Form::new()
            .text("purpose", "batch")
            .text("expires_after[anchor]", "x")
            .part("file", Part::bytes(b"{}".to_vec())),
    ] {
        let answer =
            stage.request(&interior, Method::POST, "/v1/files").multipart(form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
    assert_eq!(stage.db.count("SELECT count(*) FROM jobs").await, 0);
    assert_eq!(stage.db.count("SELECT count(*) FROM files").await, 5);
    stage.stop().await;
}
