//! From nothing to an endpoint, with a record of each step.

use reqwest::Method;
use serde_json::json;

use crate::support::{ADMIN, Api, PASSWORD, text};

#[tokio::test]
async fn a_ministry_gets_an_endpoint_and_every_step_is_audited() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let me = api.get("/api/v1/me", &admin).await.expect(200);
    assert_eq!(
        (me["role"].as_str(), me["principal"]["login"].as_str()),
        (Some("platform_admin"), Some(ADMIN))
    );
    let interior = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;

    // The key names its project; the version and the resources follow from the model.
    let endpoint = api
        .post("/api/v1/endpoints", &interior.key, json!({ "name": "chat", "model": "smollm2" }))
        .await
        .expect(201);
    assert_eq!(endpoint["replicas"], 1);
    assert_eq!(endpoint["ready_replicas"], 0);
    assert_eq!(endpoint["reason"], "waiting for the scheduler");
    assert_eq!(endpoint["resources"]["class"], "cpu");
    let id = text(&endpoint["id"]);
    for by in ["chat", &id] {
        assert_eq!(
            api.get(&format!("/api/v1/endpoints/{by}"), &interior.developer).await.expect(200),
            endpoint
        );
    }
    let again = json!({ "name": "chat", "model": "smollm2", "project": "sandbox" });
    api.post("/api/v1/endpoints", &interior.developer, again).await.expect(409);
    let scaled = api
        .call(Method::PATCH, "/api/v1/endpoints/chat", &interior.developer, Some(json!({ "replicas": 3 })))
        .await
        .expect(200);
    assert_eq!(scaled["replicas"], 3);
    api.call(Method::DELETE, "/api/v1/endpoints/chat", &interior.key, None).await.expect(204);
    api.get("/api/v1/endpoints/chat", &interior.key).await.expect(404);
    // The name is free again.
    api.post("/api/v1/endpoints", &interior.key, json!({ "name": "chat", "model": "smollm2" }))
        .await
        .expect(201);

    // The refused duplicate changed nothing and is no mutation; all others are there, once.
    let mut actions = Vec::new();
    let mut path = "/api/v1/audit?limit=3".to_owned();
    loop {
        let page = api.get(&path, &interior.admin).await.expect(200);
        actions.extend(page["items"].as_array().unwrap().iter().map(|event| text(&event["action"])));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/audit?limit=3&cursor={next}");
    }
    actions.reverse();
    assert_eq!(
        actions,
        [
            "create_tenant",
            "create_project",
            "create_account",
            "create_account",
            "create_session",
            "create_session",
            "create_api_key",
            "create_endpoint",
            "update_endpoint",
            "delete_endpoint",
            "create_endpoint",
        ]
    );
    api.stopped().await;
}

#[tokio::test]
async fn the_first_administrator_is_created_once() {
    let api = Api::start().await;
    let clock = domain::Clock::system();
    let again =
        api::bootstrap_admin(&api.store, &clock, "other@localhost", PASSWORD, api::FirstPassword::Stays)
            .await
            .unwrap();
    assert_eq!(again, api::AdminOutcome::Exists);
    let body = json!({ "login": "other@localhost", "password": PASSWORD });
    api.post("/api/v1/sessions", "", body).await.expect(401);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    for slug in ["a", "b", "c"] {
        api.post("/api/v1/tenants", &admin, json!({ "slug": slug, "name": slug })).await.expect(201);
    }
    let slugs = |page: &serde_json::Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|t| text(&t["slug"])).collect()
    };
    let first = api.get("/api/v1/tenants?limit=2", &admin).await.expect(200);
    assert_eq!(slugs(&first), ["a", "b"]);
    let cursor = text(&first["next"]);
    let second = api.get(&format!("/api/v1/tenants?limit=2&cursor={cursor}"), &admin).await.expect(200);
    assert_eq!(slugs(&second), ["c"]);
    assert!(second["next"].is_null());
    // A cursor of another list is refused.
    api.get(&format!("/api/v1/models?cursor={cursor}"), &admin).await.expect(422);
    api.get("/api/v1/tenants?limit=201", &admin).await.expect(422);
}

#[tokio::test]
async fn an_endpoint_needs_what_it_names() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let interior = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    for (body, field) in [
        (json!({ "name": "e", "model": "none" }), "model"),
        (json!({ "name": "e", "model": "smollm2", "version": "0".repeat(64) }), "version"),
        (json!({ "name": "e", "model": "smollm2", "project": "none" }), "project"),
        (json!({ "name": "e", "model": "smollm2", "replicas": 1001 }), "replicas"),
        (json!({ "name": "E", "model": "smollm2" }), "name"),
        (
            json!({ "name": "e", "model": "smollm2", "resources": { "class": "abacus", "memory_bytes": 1, "milli": 1 } }),
            "resources.class",
        ),
        (json!({ "name": "e", "model": "smollm2", "replica": 1 }), "replica"),
    ] {
        let problem = api.post("/api/v1/endpoints", &interior.key, body).await.expect(422);
        assert_eq!(problem["field"].as_str(), Some(field), "{problem}");
    }
}
