//! Who may do what, and that nobody learns of what is not theirs.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN, Api, PASSWORD, text, until};

#[tokio::test]
async fn every_operation_needs_a_credential_unless_the_document_says_otherwise() {
    let api = Api::start().await;
    let document = api.get("/openapi.json", "").await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let expected: Value = serde_json::to_value(api::openapi()).unwrap();
    assert_eq!(document, expected);
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["operationId"].is_string(), "{method} {path}");
            if operation["security"].as_array().is_some_and(|s| s.contains(&json!({}))) {
                continue;
            }
            let path = path.replace("{", "").replace("}", "");
            let method: Method = method.to_uppercase().parse().unwrap();
            for token in ["", "nonsense", &format!("chy_{}", "0".repeat(33))] {
                let answer = api.call(method.clone(), &path, token, Some(json!({}))).await;
                assert_eq!(answer.status.as_u16(), 401, "{method} {path}: {}", answer.body);
                assert_eq!(answer.headers["www-authenticate"], r#"Bearer realm="chancery""#);
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} operations");
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_elsewhere_within_a_second() {
    let api = Api::start().await;
    let twin = api.twin().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    for server in [&api, &twin] {
        // Twice: the second answer comes from the cache.
        server.get("/api/v1/me", &tenant.key).await.expect(200);
        server.get("/api/v1/me", &tenant.key).await.expect(200);
    }
    let path = format!("/api/v1/api-keys/{}", tenant.key_id);
    let revoked = api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(200);
    api.get("/api/v1/me", &tenant.key).await.expect(401);
    let start = Instant::now();
    until("the refusal elsewhere", Duration::from_secs(1), async || {
        twin.get("/api/v1/me", &tenant.key).await.status.as_u16() == 401
    })
    .await;
    println!("refused elsewhere after {:?}", start.elapsed());
    // Again changes nothing.
    assert_eq!(api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(200), revoked);
}

#[tokio::test]
async fn a_session_ends_when_its_owner_signs_out() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.call(Method::DELETE, "/api/v1/sessions/current", &admin, None).await.expect(204);
    api.get("/api/v1/me", &admin).await.expect(401);
}

#[tokio::test]
async fn use_of_a_key_is_noted() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    api.get("/api/v1/me", &tenant.key).await.expect(200);
    until("the note of the use", Duration::from_secs(5), async || {
        let keys = api.get("/api/v1/api-keys", &tenant.developer).await.expect(200);
        keys["items"][0]["last_used_at"].is_string()
    })
    .await;
}

#[tokio::test]
async fn a_foreign_object_answers_exactly_like_one_that_never_existed() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let (interior, finance) = (api.tenant(&admin, "interior").await, api.tenant(&admin, "finance").await);
    api.model(&admin, "smollm2").await;
    let body = json!({ "name": "chat", "model": "smollm2" });
    let endpoint = api.post("/api/v1/endpoints", &interior.key, body).await.expect(201);
    api.post("/api/v1/models", &interior.admin, json!({ "name": "private" })).await.expect(201);

    let foreign = [
        (Method::GET, format!("/api/v1/endpoints/{}", text(&endpoint["id"])), Value::Null),
        (Method::PATCH, format!("/api/v1/endpoints/{}", text(&endpoint["id"])), json!({ "replicas": 0 })),
        (Method::DELETE, format!("/api/v1/endpoints/{}", text(&endpoint["id"])), Value::Null),
        (Method::GET, "/api/v1/endpoints/chat".to_owned(), Value::Null),
        (Method::GET, "/api/v1/models/private".to_owned(), Value::Null),
        (Method::DELETE, format!("/api/v1/api-keys/{}", interior.key_id), Value::Null),
        (Method::GET, "/api/v1/tenants/interior".to_owned(), Value::Null),
        (Method::GET, "/api/v1/endpoints?tenant=interior".to_owned(), Value::Null),
        (Method::POST, "/api/v1/projects?tenant=interior".to_owned(), json!({ "slug": "x", "name": "x" })),
    ];
    for (method, path, body) in foreign {
        let body = (!body.is_null()).then_some(body);
        let mut seen = api.call(method.clone(), &path, &finance.admin, body.clone()).await;
        let nothing = path
            .replace(&text(&endpoint["id"]), "0190a000-0000-7000-8000-000000000000")
            .replace(&interior.key_id, "0190a000-0000-7000-8000-000000000000")
            .replace("chat", "none")
            .replace("private", "none")
            .replace("interior", "none");
        let mut unknown = api.call(method.clone(), &nothing, &finance.admin, body).await;
        for answer in [&mut seen, &mut unknown] {
            assert_eq!(answer.status.as_u16(), 404, "{method} {path}: {}", answer.body);
            answer.body["instance"].take();
        }
        assert_eq!(seen.body, unknown.body);
    }
    // It is all still there.
    assert_eq!(api.get("/api/v1/endpoints/chat", &interior.key).await.expect(200), endpoint);
    api.get("/api/v1/me", &interior.key).await.expect(200);
    assert!(
        api.get("/api/v1/endpoints", &finance.admin).await.expect(200)["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );

    // Each refused mutation is recorded with who tried; reads are not.
    let denied = denied(&api, &finance.admin).await;
    let count = |action: &str| denied.iter().filter(|(a, _)| a == action).count();
    assert_eq!(count("update_endpoint"), 2);
    assert_eq!(count("delete_endpoint"), 2);
    assert_eq!(count("revoke_api_key"), 2);
    assert_eq!(count("create_project"), 2);
    assert_eq!(denied.len(), 8);
    assert!(self::denied(&api, &interior.admin).await.is_empty());
}

async fn denied(api: &Api, token: &str) -> Vec<(String, String)> {
    let page = api.get("/api/v1/audit?limit=200", token).await.expect(200);
    let events = page["items"].as_array().expect("items").iter().filter(|event| event["verdict"] == "denied");
    events.map(|event| (text(&event["action"]), text(&event["actor"]))).collect()
}

#[tokio::test]
async fn roles_hold() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let interior = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    let account = json!({ "login": "x@y", "display_name": "x", "password": PASSWORD, "role": "developer" });
    let attempts = [
        ("/api/v1/tenants", json!({ "slug": "x", "name": "x" })),
        ("/api/v1/projects", json!({ "slug": "x", "name": "x" })),
        ("/api/v1/api-keys", json!({ "project": "sandbox", "name": "x" })),
        ("/api/v1/accounts", account.clone()),
        ("/api/v1/models", json!({ "name": "x" })),
        ("/api/v1/models/smollm2/versions", json!({ "path": "/etc/passwd" })),
    ];
    for (path, body) in attempts {
        for token in [&interior.developer, &interior.key] {
            api.post(path, token, body.clone()).await.expect(403);
        }
    }
    let denied = denied(&api, &interior.admin).await;
    assert_eq!(denied.len(), 12);
    assert_eq!(denied.iter().filter(|(_, actor)| *actor == format!("key:{}", interior.key_id)).count(), 6);

    // A ministry's administrator keeps to the ministry.
    api.post("/api/v1/tenants", &interior.admin, json!({ "slug": "x", "name": "x" })).await.expect(403);
    api.post("/api/v1/models/smollm2/versions", &interior.admin, json!({ "path": "/x" })).await.expect(403);
    api.upload("/api/v1/models/smollm2/versions/upload?filename=a.gguf", &interior.admin, "GGUF")
        .await
        .expect(403);
    let mut above = account.clone();
    above["role"] = json!("platform_admin");
    api.post("/api/v1/accounts", &interior.admin, above.clone()).await.expect(422);
    api.post("/api/v1/accounts?tenant=interior", &admin, above.clone()).await.expect(422);
    api.post("/api/v1/accounts", &admin, account).await.expect(422);
    api.post("/api/v1/accounts", &admin, above).await.expect(201);
    // The platform's people name the tenant.
    api.get("/api/v1/endpoints", &admin).await.expect(400);
    api.get("/api/v1/endpoints?tenant=interior", &admin).await.expect(200);
    api.get("/api/v1/endpoints?tenant=interior", &interior.key).await.expect(200);
}

#[tokio::test]
async fn a_key_works_for_its_own_project_only() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let interior = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    api.post("/api/v1/projects", &interior.admin, json!({ "slug": "other", "name": "Other" }))
        .await
        .expect(201);
    let body = json!({ "name": "chat", "model": "smollm2", "project": "other" });
    // Another project's objects are for a key as if they were not there.
    api.post("/api/v1/endpoints", &interior.key, body.clone()).await.expect(422);
    api.post("/api/v1/endpoints", &interior.developer, body).await.expect(201);
    api.call(Method::DELETE, "/api/v1/endpoints/chat", &interior.key, None).await.expect(404);
    api.get("/api/v1/endpoints/chat", &interior.key).await.expect(404);
    api.get("/api/v1/endpoints/chat", &interior.developer).await.expect(200);
}

#[tokio::test]
async fn wrong_passwords_make_a_login_wait_and_tell_nothing() {
    let api = Api::start().await;
    let sign_in = async |login: &str| {
        api.post("/api/v1/sessions", "", json!({ "login": login, "password": "wrong" })).await
    };
    let (mut known, mut unknown) = (sign_in(ADMIN).await, sign_in("nobody@nowhere").await);
    for answer in [&mut known, &mut unknown] {
        assert_eq!(answer.status.as_u16(), 401);
        answer.body["instance"].take();
    }
    assert_eq!(known.body, unknown.body);
    // A lock tells nothing either.
    for _ in 1..10 {
        sign_in(ADMIN).await.expect(401);
    }
    let mut locked = sign_in(ADMIN).await.expect(401);
    locked["instance"].take();
    assert_eq!(locked, unknown.body);
}
