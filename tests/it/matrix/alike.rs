//! What a caller may not know of answers like what never was, byte for byte:
//! every route that names something, every method, however it is asked, and
//! the names inside of queries and bodies.

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::scene::{Caller, NO_ID, NO_NAME, Scene, Stand};
use super::{Operation, body, operations};

/// Every method that a client may send.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// How a mutation is sent.
#[derive(Clone, Copy, Debug)]
enum How {
    /// As it should be.
    Well,
    /// Expecting what nothing has.
    Stale,
    /// With fields that there are not.
    Wrong,
    /// Without anything.
    Bare,
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

async fn answer(
    scene: &Scene,
    method: &Method,
    path: &str,
    caller: &Caller,
    how: How,
    say: &Value,
) -> Answer {
    let mut request = scene.request(method, path, caller).header("x-request-id", "same-for-all");
    let makes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if makes {
        let key = uuid::Uuid::now_v7().to_string();
        request = match how {
            How::Well => request.header("if-match", "*").header("idempotency-key", key).json(say),
            How::Stale => request.header("if-match", "\"99\"").header("idempotency-key", key).json(say),
            How::Wrong => {
                request.header("if-match", "*").header("idempotency-key", key).json(&json!({"nothing": 1}))
            }
            How::Bare => request,
        };
    }
    let answer = request.send().await.unwrap();
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("date");
    let body = String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned();
    Answer { status, headers, body }
}

/// Whether what the route names is for all who may see the catalogue.
fn is_of_the_platform(operation: &Operation) -> bool {
    ["{worker}", "{plan}", "{deletion}", "{cohort}", "{pool}", "{class}"]
        .iter()
        .any(|parameter| operation.route.contains(parameter))
}

/// The route with what is there, and with what is not. Of models, one that is
/// the ministry's own: those of the catalogue are no secret.
fn two(scene: &Scene, route: &str) -> [String; 2] {
    let name = |parameter: &str, real: bool| match (route.starts_with("/v1/"), parameter) {
        (true, "model") => scene.object("endpoint", real),
        (false, "model") if real => "secret".to_owned(),
        _ => scene.object(parameter, real),
    };
    [true, false].map(|real| scene.path_of(route, |parameter| name(parameter, real)))
}

#[tokio::test]
async fn what_is_anothers_answers_like_what_never_was() {
    let scene = Scene::with_secrets().await;
    let operations = operations();
    let mut compared = 0;
    let guarded = || operations.iter().filter(|o| o.names_something() && !o.public);
    for operation in guarded() {
        let [real, never] = two(&scene, &operation.route);
        let ways: &[How] =
            if operation.reads() { &[How::Well] } else { &[How::Well, How::Stale, How::Wrong, How::Bare] };
        for caller in &scene.callers {
            for &how in ways {
                let ask = async |path| {
                    answer(&scene, &operation.method, path, caller, how, &body(&operation.name)).await
                };
                let absent = ask(&never).await;
                let may_not_know = match caller.stand {
                    Stand::Nobody | Stand::Foreign => true,
                    // Of another project: what belongs to one.
                    Stand::Beside => ["{endpoint}", "{file}", "{job}", "{batch}", "{key}", "{workload}"]
                        .iter()
                        .any(|parameter| operation.route.contains(parameter)),
                    Stand::Own => is_of_the_platform(operation),
                    Stand::Platform => absent.status == StatusCode::FORBIDDEN,
                };
                if may_not_know {
                    let found = ask(&real).await;
                    assert_eq!(found, absent, "{} {real} by {}, {how:?}", operation.name, caller.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 1500, "{compared} compared");

    // Methods that a route does not know, and HEAD.
    let foreign = scene.callers.iter().find(|c| c.stand == Stand::Foreign).unwrap();
    let routes: std::collections::BTreeSet<_> = guarded().map(|o| &o.route).collect();
    for route in routes {
        let known = |method: &Method| guarded().any(|o| o.route == *route && o.method == *method);
        let [real, never] = two(&scene, route);
        for method in METHODS.iter().filter(|method| !known(method)) {
            let ask = async |path| answer(&scene, method, path, foreign, How::Well, &json!({})).await;
            assert_eq!(ask(&real).await, ask(&never).await, "{method} {route}");
        }
    }
    scene.platform.system.stop().await;
}

/// The tenant of `?tenant=`, for all that read it.
#[tokio::test]
async fn another_ministry_is_named_like_none() {
    let scene = Scene::with_secrets().await;
    let (mut compared, mut platform) = (0, 0);
    for operation in operations().iter().filter(|o| !o.public && !o.route.starts_with("/v1/")) {
        let path = scene.path(&operation.route, false);
        let glue = if path.contains('?') { '&' } else { '?' };
        for caller in &scene.callers {
            let ask = async |tenant: &str| {
                let path = format!("{path}{glue}tenant={tenant}");
                answer(&scene, &operation.method, &path, caller, How::Bare, &json!({})).await
            };
            match caller.stand {
                Stand::Foreign => {}
                // Those who may do nothing in a tenant; others may list them.
                Stand::Platform if caller.name == "platform model_approver" => platform += 1,
                _ => continue,
            }
            let (real, never) = (ask("interior").await, ask(NO_NAME).await);
            assert_eq!(real, never, "{} {path} by {}", operation.name, caller.name);
            compared += 1;
        }
    }
    // Where the tenant is in the path, too.
    for operation in operations().iter().filter(|o| o.route.contains("{tenant}")) {
        for caller in scene.callers.iter().filter(|c| c.name == "platform model_approver") {
            let ask = async |tenant: &str| {
                let path = scene.path_of(&operation.route, |_| tenant.to_owned());
                answer(&scene, &operation.method, &path, caller, How::Bare, &json!({})).await
            };
            assert_eq!(ask("interior").await, ask(NO_NAME).await, "{}", operation.name);
            platform += 1;
        }
    }
    assert!(compared > 500 && platform > 50, "{compared} compared, {platform} of them on the platform");
    scene.platform.system.stop().await;
}

/// Names of another's inside of bodies and queries, by those who may do this
/// at home.
#[tokio::test]
async fn a_body_that_names_what_is_anothers_names_nothing() {
    let scene = Scene::with_secrets().await;
    let head = scene.callers.iter().find(|c| c.name == "other tenant_admin").unwrap();
    let key = scene.callers.iter().find(|c| c.name == "other key").unwrap();
    let id = |parameter: &str| scene.object(parameter, true);
    let (file, job, account) = (id("file"), id("job"), id("account"));
    let endpoint = |model: &str, project: &str| json!({"name": "new", "model": model, "project": project});
    let say = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    let batch = |file: &str| json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let bound = |endpoint: &str| json!({"project": "sandbox", "name": "new", "endpoints": [endpoint]});
    let member = |account: &str| format!("/api/v1/projects/sandbox/members/{account}");
    let compressed = |id: &str, prefix: &str| format!("{prefix}{}", id.replace('-', ""));
    let nothing = || json!({});
    let get = |path: String| (Method::GET, path, nothing());
    let post = |path: &str, body| (Method::POST, path.to_owned(), body);
    let pairs = [
        (
            post("/api/v1/endpoints", endpoint("secret", "sandbox")),
            post("/api/v1/endpoints", endpoint(NO_NAME, "sandbox")),
        ),
        (
            post("/api/v1/endpoints", endpoint("small", "alpha")),
            post("/api/v1/endpoints", endpoint("small", NO_NAME)),
        ),
        (
            post("/api/v1/api-keys", json!({"project": "alpha", "name": "new"})),
            post("/api/v1/api-keys", json!({"project": NO_NAME, "name": "new"})),
        ),
        (
            post(
                "/api/v1/api-keys",
                json!({"project": "sandbox", "name": "new", "service_account": "robot"}),
            ),
            post(
                "/api/v1/api-keys",
                json!({"project": "sandbox", "name": "new", "service_account": NO_NAME}),
            ),
        ),
        (
            post("/api/v1/jobs", json!({"input_file_id": file})),
            post("/api/v1/jobs", json!({"input_file_id": NO_ID})),
        ),
        (
            post("/v1/batches", batch(&compressed(&file, "file-"))),
            post("/v1/batches", batch(&compressed(NO_ID, "file-"))),
        ),
        (post("/v1/chat/completions", say("chat")), post("/v1/chat/completions", say(NO_NAME))),
        (
            post("/v1/completions", json!({"model": "chat", "prompt": "hello"})),
            post("/v1/completions", json!({"model": NO_NAME, "prompt": "hello"})),
        ),
        (
            (Method::PUT, member(&account), json!({"role": "viewer"})),
            (Method::PUT, member(NO_ID), json!({"role": "viewer"})),
        ),
        ((Method::DELETE, member(&account), nothing()), (Method::DELETE, member(NO_ID), nothing())),
        (get(member(&account)), get(member(NO_ID))),
        (
            get(format!("/v1/batches/{}", compressed(&job, "batch_"))),
            get(format!("/v1/batches/{}", compressed(NO_ID, "batch_"))),
        ),
        (
            get(format!("/v1/files/{}", compressed(&file, "file-"))),
            get(format!("/v1/files/{}", compressed(NO_ID, "file-"))),
        ),
        (
            get(format!("/v1/batches?after={}", compressed(&job, "batch_"))),
            get(format!("/v1/batches?after={}", compressed(NO_ID, "batch_"))),
        ),
        (get("/api/v1/files?project=alpha".to_owned()), get(format!("/api/v1/files?project={NO_NAME}"))),
        (get("/api/v1/usage?project=alpha".to_owned()), get(format!("/api/v1/usage?project={NO_NAME}"))),
    ];
    for (real, never) in &pairs {
        for caller in [head, key] {
            let ask = async |(method, path, say): &(Method, String, Value)| {
                let mut answer = answer(&scene, method, path, caller, How::Well, say).await;
                // What was said may be said again, and no more.
                for name in ["secret", "alpha", "robot", "chat", &file, &job, &account, NO_NAME, NO_ID] {
                    for said in [format!("\"{name}\""), format!("\\\"{name}\\\""), name.replace('-', "")] {
                        if said.len() > 12 || said.contains('"') {
                            answer.body = answer.body.replace(&said, "NAME");
                        }
                    }
                }
                answer.headers.remove("content-length");
                answer
            };
            let (found, absent) = (ask(real).await, ask(never).await);
            assert_eq!(found, absent, "{real:?} by {}", caller.name);
            assert!(!found.status.is_server_error(), "{real:?}: {found:?}");
        }
    }
    // A name that another has is free, except to sign in with.
    for (path, body) in [
        ("/api/v1/models", json!({"name": "secret"})),
        ("/api/v1/projects", json!({"slug": "alpha", "name": "Alpha"})),
        ("/api/v1/endpoints", json!({"name": "chat", "model": "small", "project": "sandbox", "replicas": 0})),
        ("/api/v1/service-accounts", json!({"name": "robot", "display_name": "Robot", "role": "member"})),
        ("/api/v1/api-keys", bound("chat")),
    ] {
        let made = answer(&scene, &Method::POST, path, head, How::Well, &body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{path}: {}", made.body);
    }
    scene.platform.system.stop().await;
}
