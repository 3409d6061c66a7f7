//! The API does what its document says, to whatever the document allows and
//! forbids: Schemathesis makes the cases, an administrator of the platform and
//! one of a tenant send them.

use std::collections::{BTreeMap, BTreeSet};

use domain::Clock;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tests::http::call;
use tests::schemathesis::{Campaign, Outcome, operations, run};
use tests::stage::{Stage, Worker, says};
use uuid::Uuid;

const PLATFORM: &str = "admin@localhost";
const MINISTRY: &str = "head@a";
const PASSWORD: &str = "correct horse battery staple";

/// Makes the campaigns longer: how many cases of each operation in each phase.
const CASES: &str = "CHANCERY_TEST_CONFORMANCE_CASES";
const SEED: &str = "CHANCERY_TEST_CONFORMANCE_SEED";
const DEFAULT_CASES: u32 = 8;
const DEFAULT_SEED: u32 = 4;

/// The name of tenant, project, model, endpoint and worker: the shortest that
/// the document allows, which systematic cases take, so that they meet something.
const NAME: &str = "a";

/// Of what cases delete, there are several.
const SPARE: usize = 12;

/// As many of the jobs are ended.
const ENDED: usize = 3;

/// Signing in has a limit on wrong passwords, which cases reach: it comes last.
const SIGN_IN: &str = "create_session";

/// Operations that no case can make succeed, and why.
const OUT_OF_REACH: [(&str, &str); 10] = [
    ("start_sign_in", "begins at an identity provider, which no name of the scene leads to"),
    ("finish_sign_in", "ends what began at an identity provider"),
    ("notify_sign_out", "comes from an identity provider"),
    ("check_identity_provider", "asks an identity provider"),
    ("change_password", "wants the password of who asks"),
    ("confirm_one_time_code", "wants a code that a device shows"),
    ("remove_one_time_code", "wants a code that a device shows"),
    ("reset_one_time_code", "wants an account that has codes"),
    ("import_model_version", "reads files of the server, from folders that nobody has named"),
    ("upload_model_version", "wants a model file, which no generator of cases makes"),
];

/// A tenant with one of everything.
struct Scene {
    stage: Stage,
    existing: BTreeMap<&'static str, Vec<String>>,
    /// Requests that succeed once, by operation.
    examples: Value,
    _workers: [Worker; 2],
}

impl Scene {
    async fn build() -> Self {
        let stage = Stage::start().await;
        api::bootstrap_admin(
            &stage.db.store,
            &Clock::system(),
            PLATFORM,
            PASSWORD,
            api::FirstPassword::Stays,
        )
        .await
        .unwrap();
        let platform = sign_in(&stage, PLATFORM).await;
        create(&stage, &platform, "/api/v1/tenants", json!({"slug": NAME, "name": "Interior"})).await;
        create(
            &stage,
            &platform,
            &format!("/api/v1/accounts?tenant={NAME}"),
            json!({"login": MINISTRY, "display_name": "Head", "password": PASSWORD, "role": "tenant_admin"}),
        )
        .await;
        let head = sign_in(&stage, MINISTRY).await;
        // With one project, requests need not name it.
        create(&stage, &head, "/api/v1/projects", json!({"slug": NAME, "name": "Alpha"})).await;
        let sandbox = format!("{}/api/v1/projects/sandbox", stage.public);
        let (status, answer) = call(&stage.http, Method::DELETE, &sandbox, Some(&head), None).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
        stage.model(NAME).await;
        let worker = stage.worker(NAME, |_: &_| says(&["Good", " morning"])).await;
        let served = json!({"name": NAME, "model": NAME, "project": NAME, "replicas": 1});
        create(&stage, &head, "/api/v1/endpoints", served).await;
        stage.until_ready(1).await;
        // The first is full.
        let second = stage.worker("second", |_: &_| Vec::new()).await;

        let mut existing: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let mut add = |parameter, value: &str| existing.entry(parameter).or_default().push(value.to_owned());
        for (parameter, value) in [
            ("path.tenant", NAME),
            ("query.tenant", NAME),
            ("query.project", NAME),
            ("body.project", NAME),
            ("path.project", NAME),
            ("path.worker", NAME),
            ("path.plan", "1-0"),
            (
                "body.policy",
                "forbid (principal, action, resource) when { context.credential == \"pigeon\" };",
            ),
            ("query.action", "get_me"),
            ("path.model", NAME),
            ("body.model", NAME),
            ("body.login", "somebody@a"),
            ("body.login", "somebody-else@a"),
        ] {
            add(parameter, value);
        }
        for n in 0..SPARE {
            let name = format!("spare-{n}");
            let spare = json!({"name": name, "model": NAME, "project": NAME, "replicas": 0});
            create(&stage, &head, "/api/v1/endpoints", spare).await;
            add("path.endpoint", &name);
            let key = json!({"name": name, "project": NAME});
            let key = create(&stage, &head, "/api/v1/api-keys", key).await;
            add("path.key", key["key"]["id"].as_str().unwrap());
            let (file, read) = (upload(&stage, &head).await, upload(&stage, &head).await);
            add("path.file", &file);
            add("path.file", &format!("file-{}", file.replace('-', "")));
            add("body.input_file_id", &read);
            add("body.input_file_id", &format!("file-{}", read.replace('-', "")));
            let job = json!({"input_file_id": read, "project": NAME});
            let job = create(&stage, &head, "/api/v1/jobs", job).await;
            let job = job["id"].as_str().unwrap();
            if n < ENDED {
                complete(&stage, &second, job).await;
            }
            add("path.job", job);
            add("path.batch", &format!("batch_{}", job.replace('-', "")));
            let person = json!({"login": format!("{name}@{NAME}"), "display_name": name, "password": PASSWORD, "role": "viewer"});
            let person = create(&stage, &platform, &format!("/api/v1/accounts?tenant={NAME}"), person).await;
            let person = person["id"].as_str().unwrap();
            add("path.account", person);
            let member = format!("{}/api/v1/projects/{NAME}/members/{person}", stage.public);
            let (status, answer) =
                call(&stage.http, Method::PUT, &member, Some(&head), Some(json!({"role": "viewer"}))).await;
            assert!(status.is_success(), "{answer}");
            let restriction = json!({"name": name, "description": name,
                "policy": "forbid (principal, action, resource) when { context.credential == \"pigeon\" };"});
            create(&stage, &head, "/api/v1/access/restrictions", restriction).await;
            add("path.restriction", &name);
            let robot = json!({"name": name, "display_name": name, "role": "member"});
            create(&stage, &head, "/api/v1/service-accounts", robot).await;
            add("path.name", &name);
            let provider = json!({"name": name, "issuer": format!("https://{name}.example"), "client_id": "c",
                "audience": "a", "mappings": []});
            let provider =
                create(&stage, &platform, &format!("/api/v1/identity-providers?tenant={NAME}"), provider)
                    .await;
            add("path.provider", provider["id"].as_str().unwrap());
        }
        let examples = examples(&stage, &platform, &head, &existing).await;
        Self { stage, existing, examples, _workers: [worker, second] }
    }

    async fn document(&self) -> Value {
        let url = format!("{}/openapi.json", self.stage.public);
        self.stage.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn campaign(&self, login: &str, cases: u32, arguments: &[&str]) -> Outcome {
        let campaign = Campaign {
            base: self.stage.public.clone(),
            login: login.to_owned(),
            password: PASSWORD.to_owned(),
            existing: self.existing.clone(),
            examples: self.examples.clone(),
            cases,
            seed: number(SEED, DEFAULT_SEED),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        };
        let dir = tempfile::tempdir().unwrap();
        run(&campaign, &self.document().await, dir.path()).await
    }
}

fn number(variable: &str, default: u32) -> u32 {
    let Some(text) = std::env::var_os(variable) else { return default };
    text.to_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{variable} is no number"))
}

async fn sign_in(stage: &Stage, login: &str) -> String {
    let url = format!("{}/api/v1/sessions", stage.public);
    let body = json!({"login": login, "password": PASSWORD});
    let (status, answer) = tests::http::call(&stage.http, Method::POST, &url, None, Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

async fn create(stage: &Stage, token: &str, path: &str, body: Value) -> Value {
    post(stage, token, path, |request| request.json(&body)).await
}

/// One request of each operation of which random cases hardly meet all that it
/// needs, for whoever may send it.
async fn examples(
    stage: &Stage,
    platform: &str,
    head: &str,
    existing: &BTreeMap<&str, Vec<String>>,
) -> Value {
    let (account, provider) = (&existing["path.account"][0], &existing["path.provider"][0]);
    create(stage, head, "/api/v1/projects", json!({"slug": "empty", "name": "Empty"})).await;
    let deleted = create(stage, platform, "/api/v1/tenants", json!({"slug": "gone", "name": "Gone"})).await;
    let url = format!("{}/api/v1/tenants/gone", stage.public);
    let (status, answer) = call(&stage.http, Method::DELETE, &url, Some(platform), None).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // Besides the sessions of the scene, by whose credentials nothing is asked any more.
    let url = format!("{}/api/v1/sessions", stage.public);
    let (_, sessions) = call(&stage.http, Method::GET, &url, Some(platform), None).await;
    // A member, a quota that holds nothing back, and a limit in it.
    let quotas = json!({"quotas": [{"class": "cpu", "nominal": 1_000_000_000}]});
    let budgets = json!({"budgets": [
        {"counts": "accelerator_seconds", "class": "cpu", "period": "month", "limit": 1_000_000_000},
    ]});
    for (path, body) in [
        (format!("projects/{NAME}/members/{account}?tenant={NAME}"), json!({"role": "user"})),
        (format!("tenants/{NAME}/quota"), quotas.clone()),
        (format!("projects/{NAME}/quota?tenant={NAME}"), quotas.clone()),
        (format!("tenants/{NAME}/budgets"), budgets.clone()),
        (format!("projects/{NAME}/budgets?tenant={NAME}"), budgets.clone()),
    ] {
        let url = format!("{}/api/v1/{path}", stage.public);
        let (status, answer) = call(&stage.http, Method::PUT, &url, Some(platform), Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    }
    let url = format!("{}/api/v1/workloads", stage.public);
    let (_, workloads) = call(&stage.http, Method::GET, &url, Some(head), None).await;
    let of_project = json!({"tenant": NAME, "project": NAME});
    let scaled = json!({"name": "scaled", "model": NAME, "project": NAME, "replicas": 0});
    create(stage, head, "/api/v1/endpoints", scaled).await;
    json!({
        "get_project_quota": of_project,
        "put_project_quota": {"tenant": NAME, "project": NAME, "body": quotas},
        "delete_project_quota": of_project,
        "get_project_budgets": of_project,
        "put_project_budgets": {"tenant": NAME, "project": NAME, "body": budgets},
        "delete_project_budgets": of_project,
        "explain_workload": {"tenant": NAME, "workload": workloads["items"][0]["id"]},
        "create_endpoint": {"tenant": NAME, "body": {"name": "made", "model": NAME, "project": NAME, "replicas": 0}},
        "create_job": {"tenant": NAME, "body": {"input_file_id": existing["body.input_file_id"][0], "project": NAME}},
        "update_endpoint": {"tenant": NAME, "endpoint": "scaled",
            "body": {"min_replicas": 0, "max_replicas": 2, "replicas": 0, "scaling": {"idle_secs": 60}}},
        "put_project_member": {"tenant": NAME, "project": NAME, "account": account, "body": {"role": "user"}},
        "get_project_member": {"tenant": NAME, "project": NAME, "account": account},
        "end_account_sessions": {"tenant": NAME, "account": account},
        "delete_project": {"tenant": NAME, "project": "empty"},
        "update_identity_provider": {"tenant": NAME, "provider": existing["path.provider"][1], "body": {"enabled": true}},
        "delete_identity_provider": {"tenant": NAME, "provider": provider},
        "get_tenant_deletion": {"deletion": deleted["id"]},
        "revoke_session": {"session": sessions["items"][0]["id"]},
    })
}

/// A file of one request.
async fn upload(stage: &Stage, token: &str) -> String {
    let line = json!({
        "custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": NAME, "messages": [{"role": "user", "content": "Good morning"}]},
    });
    let file = Part::text(format!("{line}\n")).file_name("input.jsonl");
    let form = Form::new().text("purpose", "batch").part("file", file);
    let answer =
        post(stage, token, &format!("/api/v1/files?project={NAME}"), |request| request.multipart(form)).await;
    answer["id"].as_str().unwrap().to_owned()
}

/// Answers the lines of a job, which ends it.
async fn complete(stage: &Stage, worker: &Worker, job: &str) {
    let chunk = worker.lease(stage, job).await.expect("a share of the job");
    let answer = json!({"answered": {"text": "Good morning", "reason": "stop",
        "counts": {"prompt_tokens": 2, "completion_tokens": 2}, "accelerator_ms": 4}});
    let lines: Vec<Value> =
        chunk.lines.iter().map(|line| json!({"line": line.line, "outcome": answer})).collect();
    let path = format!("jobs/{job}/chunks/{}/complete", chunk.index);
    let (status, text) = worker.post(stage, &path, json!({"token": chunk.token, "lines": lines})).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{text}");
}

async fn post(
    stage: &Stage,
    token: &str,
    path: &str,
    with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
) -> Value {
    let request = stage.http.post(format!("{}{path}", stage.public)).bearer_auth(token);
    let request = request.header("idempotency-key", Uuid::now_v7().to_string());
    let answer = with(request).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, StatusCode::CREATED, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn assert_passed(who: &str, outcome: &Outcome) {
    assert!(outcome.passed, "the API differs from its document, as {who} sees it:\n{}", outcome.failures());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_what_its_document_promises() {
    let (platform, ministry) = tokio::join!(Scene::build(), Scene::build());
    let cases = number(CASES, DEFAULT_CASES);
    let but_signing_in = ["--exclude-operation-id", SIGN_IN];
    let (by_platform, by_ministry) = tokio::join!(
        platform.campaign(PLATFORM, cases, &but_signing_in),
        ministry.campaign(MINISTRY, cases, &but_signing_in),
    );
    assert_passed("an administrator of the platform", &by_platform);
    assert_passed("an administrator of a tenant", &by_ministry);
    let signing_in =
        platform.campaign(PLATFORM, cases, &["--include-operation-id", SIGN_IN, "--no-shrink"]).await;
    assert_passed("who signs in", &signing_in);

    // Cases that are all refused would show little.
    let all: BTreeSet<String> = operations(&platform.document().await).into_values().collect();
    let mut untouched = all;
    for reached in [by_platform.succeeded(), by_ministry.succeeded()] {
        untouched.retain(|name| !reached.contains(name));
    }
    // The scene itself has signed in.
    untouched.remove(SIGN_IN);
    for (name, _) in OUT_OF_REACH {
        untouched.remove(name);
    }
    assert!(
        untouched.is_empty(),
        "no case of {untouched:?} succeeded; of the platform: {:#?}, of the tenant: {:#?}",
        only(&by_platform, &untouched),
        only(&by_ministry, &untouched),
    );
    platform.stage.stop().await;
    ministry.stage.stop().await;
}

/// What some operations have answered.
fn only<'a>(outcome: &'a Outcome, names: &BTreeSet<String>) -> Vec<(&'a String, &'a BTreeMap<u16, u32>)> {
    outcome.answers.iter().filter(|(name, _)| names.contains(*name)).collect()
}
