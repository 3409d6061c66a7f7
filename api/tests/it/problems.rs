//! Every error is a problem that names its request.

use reqwest::Method;
use serde_json::json;

use crate::support::{ADMIN, Answer, Api, conventional, read};

#[track_caller]
fn check(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["type"], format!("urn:chancery:problem:{kind}"));
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.body["instance"].as_str(), answer.headers["x-request-id"].to_str().ok());
    assert!(answer.body["title"].is_string() && answer.body["detail"].is_string());
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let url = |path: &str| format!("http://{}{path}", api.public);
    check(&api.get("/nowhere", "").await, 404, "not-found");
    check(&api.get("/api/v1/nowhere", &admin).await, 404, "not-found");
    check(&api.get("/assets/none.js", "").await, 404, "not-found");
    let wrong_method = api.call(Method::PUT, "/api/v1/tenants", &admin, None).await;
    check(&wrong_method, 405, "method-not-allowed");
    assert!(wrong_method.headers["allow"].to_str().unwrap().contains("GET"));
    check(&api.get("/api/v1/tenants", "").await, 401, "unauthorized");
    check(&api.get("/api/v1/tenants?limit=x", &admin).await, 400, "malformed");
    check(&api.get("/api/v1/tenants?unknown=1", &admin).await, 422, "invalid");
    check(&api.get("/api/v1/tenants/No_Slug", &admin).await, 404, "not-found");
    let post = || conventional(api.http.post(url("/api/v1/tenants")), &Method::POST).bearer_auth(&admin);
    check(&read(post().body("slug=x")).await, 415, "unsupported-media-type");
    check(&read(post().header("content-type", "application/json").body("{")).await, 400, "malformed");
    check(&api.post("/api/v1/tenants", &admin, json!({ "slug": "x" })).await, 422, "invalid");
    check(&api.post("/api/v1/tenants", &admin, json!({ "slug": "X", "name": "x" })).await, 422, "invalid");
    let big = json!({ "slug": "x", "name": "x".repeat(2 << 20) });
    check(&api.post("/api/v1/tenants", &admin, big).await, 413, "too-large");
    // Not ready is told in the same form.
    let unready = api.get("/readyz", "").await;
    assert_eq!(unready.status.as_u16(), 503);
    assert_eq!(unready.headers["content-type"], "application/problem+json");
    api.get("/healthz", "").await.expect(200);
}

#[tokio::test]
async fn under_v1_errors_have_the_shape_that_openai_clients_read() {
    let api = Api::start().await;
    let answer = api.get("/v1/models", "").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let error = &answer.body["error"];
    assert_eq!(answer.status.as_u16(), 401);
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("authentication_error"), Some("unauthorized"))
    );
    let answer = api.get("/v1/nowhere", "").await;
    assert_eq!((answer.status.as_u16(), answer.body["error"]["code"].as_str()), (404, Some("not-found")));
}

#[tokio::test]
async fn a_sane_request_id_is_kept() {
    let api = Api::start().await;
    let ask = async |id: &str| {
        read(api.http.get(format!("http://{}/nowhere", api.public)).header("x-request-id", id)).await
    };
    assert_eq!(ask("trace-12345678").await.body["instance"], "trace-12345678");
    assert_ne!(ask("not sane at all").await.body["instance"], "not sane at all");
}

#[tokio::test]
async fn the_internal_listener_answers_in_problems_too() {
    let api = Api::start().await;
    let answer = read(api.http.get(format!("http://{}/api/v1/tenants", api.internal))).await;
    check(&answer, 404, "not-found");
}
