//! Service accounts and API keys: bounds, rotation, revocation, and that no
//! secret is stored as it is.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};

use crate::support::{ADMIN, Api, PASSWORD, read, text, until};

/// Rows that a statement of a test finds.
#[expect(clippy::disallowed_methods, reason = "tests look behind the store, with statements of their own")]
pub async fn rows(conn: &mut PgConnection, sql: &str) -> Vec<PgRow> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(conn).await.expect("the statement is right")
}

async fn key(api: &Api, admin: &str, bounds: Value) -> (String, String) {
    let mut body = json!({ "project": "sandbox", "name": "test" });
    body.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
    let made = api.post("/api/v1/api-keys", admin, body).await.expect(201);
    (text(&made["secret"]), text(&made["key"]["id"]))
}

#[tokio::test]
async fn a_key_keeps_to_its_bounds() {
    let api =
        Api::start_with(|settings| settings.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    for name in ["chat", "secret"] {
        api.post("/api/v1/endpoints", &tenant.key, json!({ "name": name, "model": "smollm2" }))
            .await
            .expect(201);
    }
    for (wrong, field) in [
        (json!({ "role": "tenant_admin" }), "role"),
        (json!({ "actions": ["dance"] }), "actions"),
        (json!({ "endpoints": [] }), "endpoints"),
        (json!({ "networks": ["here"] }), "networks[0]"),
        (json!({ "service_account": "nobody" }), "service_account"),
    ] {
        let mut body = json!({ "project": "sandbox", "name": "x" });
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let problem = api.post("/api/v1/api-keys", &tenant.admin, body).await.expect(422);
        assert_eq!(problem["field"], field, "{problem}");
    }

    let (bound, id) = key(&api, &tenant.admin, json!({ "endpoints": ["chat"] })).await;
    let models = api.get("/v1/models", &bound).await.expect(200);
    assert_eq!((models["data"].as_array().unwrap().len(), &models["data"][0]["id"]), (1, &json!("chat")));
    let hidden = api.get("/v1/models/secret", &bound).await.expect(404);
    let nothing = api.get("/v1/models/nothing", &bound).await.expect(404);
    assert_eq!(hidden["error"], nothing["error"]);
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let ask = |model: &str| json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }], "prompt": "Hi" });
        let ask = |model: &str| {
            let mut body = ask(model);
            body.as_object_mut().unwrap().remove(if path.contains("chat") { "prompt" } else { "messages" });
            api.post(path, &bound, body)
        };
        let hidden = ask("secret").await.expect(404)["error"]["message"].to_string();
        let nothing = ask("nothing").await.expect(404)["error"]["message"].to_string();
        assert_eq!(hidden.replace("secret", "nothing"), nothing);
        assert!(hidden.contains("deployed are: chat") && !hidden.contains("chat, secret"), "{hidden}");
    }
    api.call(Method::DELETE, "/api/v1/endpoints/chat", &bound, None).await.expect(403);
    let shown = api.get(&format!("/api/v1/api-keys/{id}"), &tenant.admin).await.expect(200);
    assert_eq!(shown["endpoints"], json!(["chat"]));

    let (prompts, _) = key(&api, &tenant.admin, json!({ "actions": ["prompt"], "role": "user" })).await;
    api.get("/v1/models", &prompts).await.expect(200);
    api.get("/api/v1/endpoints", &prompts).await.expect(403);

    let (inside, _) = key(&api, &tenant.admin, json!({ "networks": ["10.1.0.0/16"] })).await;
    let from = |address: &str| {
        let request = api.http.get(format!("http://{}/v1/models", api.public)).bearer_auth(&inside);
        read(request.header("x-forwarded-for", address))
    };
    from("10.1.2.3").await.expect(200);
    from("10.2.2.3").await.expect(403);
    from("10.1.2.3, 192.0.2.7").await.expect(403);
    api.get("/v1/models", &inside).await.expect(403);
}

#[tokio::test]
async fn rotation_lets_two_keys_work_for_a_while() {
    let api = Api::start().await;
    let twin = api.twin().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let (old, id) = key(&api, &tenant.admin, json!({ "actions": ["own"], "role": "viewer" })).await;
    let rotate = |id: &str, body| {
        let path = format!("/api/v1/api-keys/{id}/rotate");
        let (api, admin) = (&api, &tenant.admin);
        async move { api.post(&path, admin, body).await }
    };
    rotate(&id, json!({ "overlap_secs": 2_592_001 })).await.expect(422);
    let made = rotate(&id, json!({})).await.expect(201);
    let next = text(&made["key"]["id"]);
    for field in ["actions", "role", "project_id", "name", "expires_at"] {
        let expected = match field {
            "actions" => json!(["own"]),
            "role" => json!("viewer"),
            "name" => json!("test"),
            "expires_at" => Value::Null,
            _ => made["key"][field].clone(),
        };
        assert_eq!(made["key"][field], expected);
    }
    assert_eq!(text(&made["key"]["rotated_from"]), id);
    for secret in [&old, &text(&made["secret"])] {
        twin.get("/api/v1/me", secret).await.expect(200);
        api.get("/api/v1/me", secret).await.expect(200);
    }
    rotate(&id, json!({})).await.expect(409);
    rotate(&next, json!({})).await.expect(409);
    // The successor goes; the old one makes another, and ends at once.
    api.call(Method::DELETE, &format!("/api/v1/api-keys/{next}"), &tenant.admin, None).await.expect(200);
    rotate(&next, json!({})).await.expect(409);
    rotate(&id, json!({ "overlap_secs": 0 })).await.expect(201);
    api.get("/api/v1/me", &old).await.expect(401);
    until("the end elsewhere", Duration::from_secs(1), async || {
        twin.get("/api/v1/me", &old).await.status.as_u16() == 401
    })
    .await;
    rotate(&id, json!({})).await.expect(409);
}

#[tokio::test]
async fn a_disabled_service_account_has_no_keys() {
    let api = Api::start().await;
    let twin = api.twin().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let accounts = "/api/v1/service-accounts";
    api.post(accounts, &tenant.admin, json!({ "name": "robot", "role": "tenant_admin" })).await.expect(422);
    api.post(accounts, &tenant.developer, json!({ "name": "robot" })).await.expect(403);
    api.post(accounts, &tenant.admin, json!({ "name": "robot", "role": "viewer" })).await.expect(201);
    api.post(accounts, &tenant.admin, json!({ "name": "robot" })).await.expect(409);
    let (secret, _) = key(&api, &tenant.admin, json!({ "service_account": "robot" })).await;
    // A developer's key of a viewer looks.
    for server in [&api, &twin] {
        server.get("/api/v1/endpoints", &secret).await.expect(200);
    }
    api.post("/api/v1/endpoints", &secret, json!({ "name": "x", "model": "y" })).await.expect(403);
    let path = format!("{accounts}/robot");
    api.call(Method::PATCH, &path, &tenant.admin, Some(json!({ "disabled": true }))).await.expect(200);
    api.get("/api/v1/me", &secret).await.expect(401);
    until("the refusal elsewhere", Duration::from_secs(1), async || {
        twin.get("/api/v1/me", &secret).await.status.as_u16() == 401
    })
    .await;
    api.call(Method::PATCH, &path, &tenant.admin, Some(json!({ "disabled": false }))).await.expect(200);
    api.get("/api/v1/me", &secret).await.expect(200);
    api.call(Method::DELETE, &path, &tenant.admin, None).await.expect(204);
    api.get("/api/v1/me", &secret).await.expect(401);
}

#[tokio::test]
async fn a_replica_that_hears_nothing_serves_nothing_stale() {
    let api = Api::start().await;
    let twin = api.twin().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    twin.get("/api/v1/me", &tenant.key).await.expect(200);
    let mut superuser = api.superuser().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    assert!(!rows(&mut superuser, kill).await.is_empty(), "control: somebody listens");
    let path = format!("/api/v1/api-keys/{}", tenant.key_id);
    until("the revocation", Duration::from_secs(5), async || {
        api.call(Method::DELETE, &path, &tenant.admin, None).await.status.as_u16() == 200
    })
    .await;
    api.get("/api/v1/me", &tenant.key).await.expect(401);
    until("the refusal elsewhere", Duration::from_secs(1), async || {
        twin.get("/api/v1/me", &tenant.key).await.status.as_u16() == 401
    })
    .await;
}

#[tokio::test]
async fn no_secret_is_stored_as_it_is() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let enrolment = api.post("/api/v1/me/one-time-code", &admin, json!({})).await.expect(201);
    let seed = text(&enrolment["secret"]);
    let raw = totp_rs::Secret::try_from_base32(&seed).unwrap();
    let secrets = [tenant.key, tenant.admin, admin, PASSWORD.to_owned(), seed];
    let mut superuser = api.superuser().await;
    let columns = "SELECT format('%I', c.table_name) AS tab, format('%I', c.column_name) AS col
         FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'";
    let columns = rows(&mut superuser, columns).await;
    assert!(columns.len() > 100, "control: the columns were read");
    let mut looked_at = 0;
    for column in &columns {
        let (table, name): (&str, &str) = (column.get("tab"), column.get("col"));
        for value in rows(&mut superuser, &format!("SELECT {name}::text AS text FROM {table}")).await {
            let Some(text) = value.get::<Option<String>, _>("text") else { continue };
            looked_at += 1;
            for secret in &secrets {
                let as_bytes = secret.bytes().map(|b| format!("{b:02x}")).collect::<String>();
                assert!(!text.contains(secret.as_str()) && !text.contains(&as_bytes), "{table}.{name}");
            }
            let seed: String = raw.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
            assert!(!text.contains(&seed), "{table}.{name}");
        }
    }
    assert!(looked_at > 100, "control: {looked_at} values");
}
