//! The end of a ministry whose work runs, with real processes: suspended it
//! goes on and begins nothing; deleted it is gone from database, disk and
//! worker, while another ministry notices nothing.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::jobs::SHARE_MILLI;
use domain::models::Sha256Digest;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::installation::{Installation, calm, program};
use tests::wait::until;
use tokio::process::Command;

/// How often the neighbour asks: often enough to notice, without taking turns
/// from jobs, which come after those who wait for an answer.
const PACE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);
/// More than can be answered before the job is cancelled.
const LINES: usize = 400;
/// Thousandths of a core of an endpoint that runs.
const MILLI: u64 = 100;

/// A ministry of the shared installation, with an API key.
struct Ministry<'a> {
    up: &'a Installation,
    admin: String,
    slug: &'static str,
    key: String,
}

impl Ministry<'_> {
    /// As a platform administrator, in the ministry.
    async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let path = format!("/api/v1/{path}?tenant={}", self.slug);
        self.up.call(method, &path, Some(&self.admin), body).await
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.admin(Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{path}: {answer}");
        answer
    }

    /// With its key.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.up.call(method, path, Some(&self.key), body).await
    }

    async fn upload(&self) -> (StatusCode, Value) {
        let line = |n: usize| {
            json!({"custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions",
                "body": {"model": "chat", "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 16}})
        };
        let text: String = (0..LINES).map(|n| format!("{}\n", line(n))).collect();
        let form = Form::new().text("purpose", "batch").part("file", Part::text(text).file_name("in.jsonl"));
        let request = self.up.http.post(self.up.url("/v1/files")).bearer_auth(&self.key);
        let answer = request.multipart(form).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn endpoint(&self, name: &str) -> Value {
        self.admin(Method::GET, &format!("endpoints/{name}"), None).await.1
    }

    async fn answered(&self, job: &str) -> u64 {
        let (_, job) = self.call(Method::GET, &format!("/v1/batches/{job}"), None).await;
        assert_eq!(job["status"], "in_progress", "{job}");
        job["request_counts"]["completed"].as_u64().unwrap()
    }
}

/// One short answer.
async fn chat(up: &Installation, key: &str, model: &str) -> (StatusCode, Value) {
    let body =
        json!({"model": model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 2});
    up.call(Method::POST, "/v1/chat/completions", Some(key), Some(body)).await
}

/// Capacity of all workers, and how much of it is used, in thousandths.
async fn capacity(up: &Installation, admin: &str) -> (u64, u64) {
    let (_, workers) = up.call(Method::GET, "/api/v1/workers", Some(admin), None).await;
    let workers = workers["items"].as_array().unwrap();
    let devices = workers.iter().flat_map(|worker| worker["devices"].as_array().unwrap());
    let sum = |field: &str| devices.clone().map(|device| device[field].as_u64().unwrap()).sum();
    (sum("milli"), sum("used_milli"))
}

async fn command(up: &Installation, args: &[&str]) -> Output {
    let password = up.data_dir().join("admin-password");
    let mut command = Command::new(program());
    command.args(args).args(["--server", &up.url(""), "--login", "admin@localhost", "--password-file"]);
    let done = command.arg(password).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{args:?}: {}{}\n{}", text(&done.stdout), text(&done.stderr), up.log());
    done
}

#[tokio::test]
async fn a_suspended_ministry_goes_on_and_a_deleted_one_is_gone() {
    let up = calm().await;
    let up: &Installation = &up;
    let admin = up.admin().await;
    let undisturbed = Neighbour::watch(up).await;
    let engines = up.pids("engine").len();
    let (_, used_before) = capacity(up, &admin).await;
    let slug = "works";
    let create = json!({"slug": slug, "name": "Ministry of Works"});
    let (status, answer) = up.call(Method::POST, "/api/v1/tenants", Some(&admin), Some(create)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let mut works = Ministry { up, admin: admin.clone(), slug, key: String::new() };
    let key = works.made("api-keys", json!({"project": "sandbox", "name": "key"})).await;
    works.key = key["secret"].as_str().unwrap().to_owned();

    // An endpoint that answers and a job that runs.
    let sample = "/api/v1/endpoints/smollm2?tenant=interior";
    let (_, sample) = up.call(Method::GET, sample, Some(&admin), None).await;
    let memory = sample["resources"]["memory_bytes"].as_u64().unwrap_or_else(|| panic!("{sample}"));
    let endpoint = |name: &str, milli: u64| {
        json!({"name": name, "model": "smollm2", "project": "sandbox",
            "resources": {"class": "cpu", "memory_bytes": memory, "milli": milli}})
    };
    works.made("endpoints", endpoint("chat", MILLI)).await;
    until("an answer", PATIENCE, async || {
        (chat(up, &works.key, "chat").await.0 == StatusCode::OK).then_some(())
    })
    .await;
    let (status, file) = works.upload().await;
    assert_eq!(status, StatusCode::OK, "{file}");
    let batch =
        json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let (status, job) = works.call(Method::POST, "/v1/batches", Some(batch.clone())).await;
    assert_eq!(status, StatusCode::OK, "{job}");
    let job = job["id"].as_str().unwrap();
    until("a line of the job", PATIENCE, async || (works.answered(job).await > 0).then_some(())).await;
    // One that finds no room until the first has gone.
    let (all, used) = capacity(up, &admin).await;
    assert_eq!(
        used - used_before,
        MILLI + u64::from(SHARE_MILLI),
        "control: endpoint and job hold this much"
    );
    works.made("endpoints", endpoint("large", all - used + MILLI)).await;
    until("a reason to wait", PATIENCE, async || {
        works.endpoint("large").await["reason"].as_str().map(str::to_owned)
    })
    .await;

    command(up, &["tenants", "suspend", slug]).await;
    // What runs goes on.
    let lines = works.answered(job).await;
    until("more lines", PATIENCE, async || (works.answered(job).await > lines).then_some(())).await;
    let (status, answer) = chat(up, &works.key, "chat").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // Nothing begins, and it says why.
    let refused = [
        works.admin(Method::POST, "endpoints", Some(endpoint("more", MILLI))).await,
        works.admin(Method::PATCH, "endpoints/chat", Some(json!({"replicas": 2}))).await,
        works.call(Method::POST, "/v1/batches", Some(batch)).await,
        works.upload().await,
    ];
    for (status, answer) in refused {
        assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
        assert!(answer.to_string().contains("the tenant is suspended"), "{answer}");
    }
    // Room for what waited, which is not used while it is suspended.
    let (status, answer) = works.admin(Method::DELETE, "endpoints/chat", None).await;
    assert!(status.is_success(), "{answer}");
    let waits = until("the end of the first", PATIENCE, async || {
        let (_, now) = capacity(up, &admin).await;
        let large = works.endpoint("large").await;
        let reason = large["reason"].as_str().unwrap_or_default().to_owned();
        (now <= used - MILLI && reason.contains("suspended")).then_some(large)
    })
    .await;
    assert_eq!(waits["ready_replicas"], 0);
    let (_, now) = capacity(up, &admin).await;
    assert_eq!(now, used - MILLI, "nothing was placed in its stead");
    // It works again, then ends.
    command(up, &["tenants", "resume", slug]).await;
    until("an answer of what waited", PATIENCE, async || {
        (chat(up, &works.key, "large").await.0 == StatusCode::OK).then_some(())
    })
    .await;
    let lines = works.answered(job).await;
    assert!(lines < LINES as u64, "control: the job still runs");

    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (archive, certificate) = (at("works.tar"), at("works.json"));
    command(up, &["tenants", "delete", slug, "--yes", "--export", &archive, "--certificate", &certificate])
        .await;
    // The worker has let go of everything.
    until("room as before", PATIENCE, async || {
        let (_, used) = capacity(up, &admin).await;
        (used == used_before && up.pids("engine").len() <= engines).then_some(())
    })
    .await;
    let (_, installation) = up.call(Method::GET, "/api/v1/installation", Some(&admin), None).await;
    let public_key = installation["certificate_public_key"].as_str().unwrap();
    let verify = ["certificates", "verify", &certificate, "--public-key", public_key, "--output", "json"];
    let verified = Command::new(program()).args(verify).output().await.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let exported = std::fs::read(&archive).unwrap();
    assert_eq!(verified["export_sha256"], json!(Sha256Digest::of(&exported)), "{verified}");
    assert!(
        verified["rows"]["jobs"].as_u64() == Some(1) && verified["objects"].as_u64() > Some(0),
        "{verified}"
    );
    let contains = |text: &str| exported.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(contains("line-399") && !contains(&works.key), "the export has its files and no secret");
    // Nothing of it answers any more.
    assert_eq!(chat(up, &works.key, "large").await.0, StatusCode::UNAUTHORIZED);
    let (status, answer) = up.call(Method::GET, "/api/v1/tenants/works", Some(&admin), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    undisturbed.assert().await;
}

/// The sample ministry, asking all the time.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    asking: tokio::task::JoinHandle<()>,
}

impl Neighbour {
    async fn watch(up: &Installation) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (until, count) = (stop.clone(), answers.clone());
        let (http, url, key) = (up.http.clone(), up.url("/v1/chat/completions"), up.key());
        let asking = tokio::spawn(async move {
            let body = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 2});
            let mut pace = tokio::time::interval(PACE);
            while !until.load(Ordering::SeqCst) {
                pace.tick().await;
                let answer = http.post(&url).bearer_auth(&key).json(&body).send().await.unwrap();
                let status = answer.status();
                assert_eq!(status, StatusCode::OK, "{:?}", answer.text().await);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, answers, asking }
    }

    async fn assert(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.await.expect("another ministry is answered throughout");
        assert!(self.answers.load(Ordering::SeqCst) > 10);
    }
}
