//! The life of tenants and projects, over real HTTP and PostgreSQL.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use domain::certificates::{SigningKey, verify};
use domain::keys::Pepper;
use domain::{Clock, Timestamp};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use store::leadership::{Attempt, Leader};
use store::objects::Objects;

use crate::support::{ADMIN, Api, PASSWORD, conventional, read, text};

async fn leader(api: &Api) -> Leader {
    let candidate = api.store.candidate("test").await.unwrap();
    match candidate.try_lead(Clock::system().now()).await.unwrap() {
        Attempt::Leads(leader) => leader,
        Attempt::Waits(_) => panic!("nobody else leads"),
    }
}

fn objects(api: &Api) -> Objects {
    Objects::local(&api.dir.path().join("objects")).unwrap()
}

fn key() -> SigningKey {
    SigningKey::derive(&Pepper::new([7; 32]))
}

async fn upload(api: &Api, token: &str, content: &'static [u8]) -> Value {
    let part = reqwest::multipart::Part::bytes(content).file_name("in.jsonl");
    let form = reqwest::multipart::Form::new().text("purpose", "batch").part("file", part);
    let request = api.http.post(format!("http://{}/api/v1/files", api.public)).bearer_auth(token);
    read(conventional(request, &Method::POST).multipart(form)).await.expect(201)
}

/// A tenant with something in most tables.
async fn busy(api: &Api, admin: &str, slug: &str) -> crate::support::Tenant {
    let tenant = api.tenant(admin, slug).await;
    api.post("/api/v1/endpoints", &tenant.key, json!({ "name": "chat", "model": "smollm2", "replicas": 2 }))
        .await
        .expect(201);
    api.post("/api/v1/models", &tenant.admin, json!({ "name": "private" })).await.expect(201);
    let path = "/api/v1/models/private/versions/upload?filename=model.gguf";
    api.upload(path, &tenant.admin, format!("GGUF of {slug} alone").into_bytes()).await.expect(201);
    // The same content as the catalogue's.
    let path = "/api/v1/models/private/versions/upload?filename=shared.gguf";
    api.upload(path, &tenant.admin, b"GGUF small enough".to_vec()).await.expect(201);
    for content in [&b"{\"a\":1}\n"[..], b"{\"b\":22}\n"] {
        upload(api, &tenant.key, content).await;
    }
    api.call(
        Method::PUT,
        &format!("/api/v1/projects/sandbox/members/developer@{slug}"),
        &tenant.admin,
        Some(json!({ "role": "user" })),
    )
    .await
    .expect(200);
    tenant
}

#[tokio::test]
async fn updates_change_what_they_name_and_suspension_begins_nothing() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    let path = "/api/v1/tenants/interior";
    let patch = |body: Value| api.call(Method::PATCH, path, &admin, Some(body));
    let one =
        patch(json!({ "names": { "fr": "Intérieur", "de": "Inneres" }, "retention": { "files_days": 3 } }));
    one.await.expect(200);
    let two =
        patch(json!({ "names": { "de": null }, "retention": { "results_days": 5 }, "zones": ["north"] }));
    let seen = two.await.expect(200);
    assert_eq!(seen["names"], json!({ "fr": "Intérieur" }));
    assert_eq!(seen["retention"], json!({ "files_days": 3, "results_days": 5 }));
    assert_eq!((&seen["zones"], &seen["name"]), (&json!(["north"]), &json!("interior")));
    for wrong in [
        json!({ "slug": "x" }),
        json!({ "status": "deleted" }),
        json!({ "retention": { "files_days": 0 } }),
        json!({ "zones": ["not a zone"] }),
        json!({ "names": { "fr": "" } }),
    ] {
        let answer = patch(wrong.clone()).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{wrong}: {}", answer.body);
    }
    api.call(Method::PATCH, path, &tenant.admin, Some(json!({ "name": "x" }))).await.expect(403);

    // Cached as active by the first request.
    api.get("/api/v1/me", &tenant.key).await.expect(200);
    patch(json!({ "status": "suspended" })).await.expect(200);
    let new = json!({ "name": "chat", "model": "smollm2" });
    api.post("/api/v1/endpoints", &tenant.key, new.clone()).await.expect(403);
    api.get("/api/v1/endpoints", &tenant.key).await.expect(200);
    patch(json!({ "status": "active" })).await.expect(200);
    api.post("/api/v1/endpoints", &tenant.key, new).await.expect(201);
    api.stopped().await;
}

#[tokio::test]
async fn a_hundred_writers_lose_no_update() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let url = format!("http://{}/api/v1/projects/sandbox", api.public);
    let writers = (0..100).map(|_| {
        let (http, url, token) = (Client::new(), url.clone(), tenant.admin.clone());
        tokio::spawn(async move {
            loop {
                let seen = read(http.get(&url).bearer_auth(&token)).await;
                let etag = seen.headers["etag"].clone();
                let n = seen.body["limits"]["endpoints"].as_u64().unwrap_or(0) + 1;
                let body = json!({ "limits": { "endpoints": n } });
                let answer =
                    read(http.patch(&url).bearer_auth(&token).header("if-match", etag).json(&body)).await;
                match answer.status.as_u16() {
                    200 => return,
                    412 | 503 => {}
                    _ => panic!("{:?}", answer.body),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let project = api.get("/api/v1/projects/sandbox", &tenant.admin).await.expect(200);
    assert_eq!(project["limits"]["endpoints"], json!(100));
    api.stopped().await;
}

#[tokio::test]
async fn limits_hold_however_many_create_at_once() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    let limits = json!({ "limits": { "endpoints": 3, "api_keys": 4, "requests_per_minute": 500 } });
    api.call(Method::PATCH, "/api/v1/projects/sandbox", &tenant.admin, Some(limits)).await.expect(200);
    let mut made = BTreeMap::new();
    let creates = (0..20).flat_map(|n| {
        [
            (
                "/api/v1/endpoints",
                json!({ "name": format!("e{n}"), "model": "smollm2", "project": "sandbox" }),
            ),
            ("/api/v1/api-keys", json!({ "name": format!("k{n}"), "project": "sandbox" })),
        ]
    });
    let answers = creates.map(async |(path, body)| (path, api.post(path, &tenant.admin, body).await));
    for (path, answer) in futures_util::future::join_all(answers).await {
        assert!([201, 409].contains(&answer.status.as_u16()), "{}", answer.body);
        *made.entry(path).or_insert(0) += u32::from(answer.status.as_u16() == 201);
    }
    // One key was there before.
    assert_eq!(made, [("/api/v1/api-keys", 3), ("/api/v1/endpoints", 3)].into());

    let slow = json!({ "limits": { "requests_per_minute": 5 } });
    api.call(Method::PATCH, "/api/v1/projects/sandbox", &tenant.admin, Some(slow)).await.expect(200);
    let mut refused = None;
    for _ in 0..12 {
        let answer = api.get("/api/v1/me", &tenant.key).await;
        if answer.status.as_u16() == 429 {
            refused = Some(answer.headers["retry-after"].clone());
        }
    }
    assert!(refused.is_some(), "the project sends more than it may");
    api.stopped().await;
}

#[tokio::test]
async fn a_member_sees_its_project_alone_and_projects_end() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    api.model(&admin, "smollm2").await;
    for (path, body) in [
        ("/api/v1/projects", json!({ "slug": "tax", "name": "Tax" })),
        ("/api/v1/endpoints", json!({ "name": "mine", "model": "smollm2", "project": "tax" })),
        ("/api/v1/endpoints", json!({ "name": "other", "model": "smollm2", "project": "sandbox" })),
    ] {
        api.post(path, &tenant.admin, body).await.expect(201);
    }
    let account =
        json!({ "login": "max@interior", "display_name": "Max", "password": PASSWORD, "role": "member" });
    api.post("/api/v1/accounts?tenant=interior", &admin, account).await.expect(201);
    let max = api.sign_in("max@interior").await;
    // Whose account gives it nothing learns of no project, there or not.
    api.get("/api/v1/projects/tax", &max).await.expect(403);
    api.get("/api/v1/projects/none", &max).await.expect(403);
    let path = "/api/v1/projects/tax/members/max@interior";
    api.call(Method::PUT, path, &tenant.developer, Some(json!({ "role": "developer" }))).await.expect(403);
    api.call(Method::PUT, path, &tenant.admin, Some(json!({ "role": "tenant_admin" }))).await.expect(422);
    for _ in 0..2 {
        api.call(Method::PUT, path, &tenant.admin, Some(json!({ "role": "developer" }))).await.expect(200);
    }
    let members = api.get("/api/v1/projects/tax/members", &max).await.expect(200);
    assert_eq!(members["items"][0]["login"], "max@interior");
    api.get("/api/v1/endpoints/mine", &max).await.expect(200);
    let other = api.get("/api/v1/endpoints/other", &tenant.admin).await.expect(200);
    let foreign = format!("/api/v1/endpoints/{}", text(&other["id"]));
    for path in [foreign.as_str(), "/api/v1/projects/sandbox", "/api/v1/projects/sandbox/members"] {
        api.get(path, &max).await.expect(404);
    }
    api.call(Method::DELETE, &foreign, &max, None).await.expect(404);
    let seen = api.get("/api/v1/projects", &max).await.expect(200);
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);

    api.call(Method::DELETE, "/api/v1/projects/tax", &tenant.admin, None).await.expect(409);
    let key = api.post("/api/v1/api-keys", &tenant.admin, json!({ "name": "k", "project": "tax" })).await;
    let key = text(&key.expect(201)["secret"]);
    api.get("/api/v1/me", &key).await.expect(200);
    api.call(Method::DELETE, "/api/v1/endpoints/mine", &max, None).await.expect(204);
    api.call(Method::DELETE, path, &tenant.admin, None).await.expect(204);
    api.get("/api/v1/projects/tax", &max).await.expect(403);
    api.call(Method::DELETE, "/api/v1/projects/tax", &tenant.admin, None).await.expect(204);
    api.get("/api/v1/me", &key).await.expect(401);
    api.get("/api/v1/projects/tax", &tenant.admin).await.expect(404);
    api.post("/api/v1/projects", &tenant.admin, json!({ "slug": "tax", "name": "Again" })).await.expect(201);
    api.stopped().await;
}

#[tokio::test]
async fn an_export_has_all_and_no_secret() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.model(&admin, "smollm2").await;
    let tenant = busy(&api, &admin, "interior").await;
    let other = busy(&api, &admin, "finance").await;
    let path = "/api/v1/tenants/interior/export";
    api.get(path, &admin).await.expect(403);
    api.get(path, &tenant.developer).await.expect(403);
    api.get(path, &other.admin).await.expect(404);
    // Who was refused is in the log of its own tenant; the platform's people are in that of the ministry.
    for (token, denied) in [(&tenant.admin, 2), (&other.admin, 1)] {
        let events = api.get("/api/v1/audit?limit=200", token).await.expect(200);
        let events = events["items"].as_array().unwrap().iter();
        let refused = events.filter(|e| e["action"] == "export_tenant" && e["verdict"] == "denied");
        assert_eq!(refused.count(), denied);
    }
    api.call(Method::PATCH, "/api/v1/tenants/interior", &admin, Some(json!({ "status": "suspended" })))
        .await
        .expect(200);
    for token in [&tenant.admin, &admin] {
        let answer =
            api.http.get(format!("http://{}{path}", api.public)).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let archive = answer.bytes().await.unwrap();
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
        }
        let manifest: Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        let listed = manifest["entries"].as_array().unwrap();
        assert_eq!(listed.len() + 1, entries.len());
        for entry in listed {
            let content = &entries[entry["path"].as_str().unwrap()];
            assert_eq!(entry["sha256"], json!(domain::models::Sha256Digest::of(content)), "{entry}");
        }
        let lines = |table: &str| {
            let text = std::str::from_utf8(&entries[&format!("tables/{table}.ndjson")]).unwrap().to_owned();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        assert_eq!((lines("tenants").len(), lines("files").len(), lines("principals").len()), (1, 2, 2));
        assert_eq!(lines("model_files").len(), 2, "not the catalogue's");
        assert_eq!(entries.keys().filter(|path| path.starts_with("files/")).count(), 2);
        let everything = String::from_utf8_lossy(&archive);
        for secret in ["argon2", "password_hash", "key_hash", "totp_seed", "client_secret", "finance"] {
            assert!(!everything.contains(secret), "{secret} is in the export");
        }
    }
    let events = api.get("/api/v1/audit?limit=200", &tenant.admin).await.expect(200);
    let exports = events["items"].as_array().unwrap().iter().filter(|e| e["action"] == "export_tenant");
    assert_eq!(exports.filter(|e| e["verdict"] == "allowed").count(), 2);
    api.stopped().await;
}

#[tokio::test]
async fn a_deleted_tenant_leaves_a_certificate_and_its_audit_log() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.model(&admin, "smollm2").await;
    let tenant = busy(&api, &admin, "interior").await;
    let other = busy(&api, &admin, "finance").await;
    let path = "/api/v1/tenants/interior";
    let patch = |body: Value| api.call(Method::PATCH, path, &admin, Some(body));
    patch(json!({ "delete_protection": true })).await.expect(200);
    api.call(Method::DELETE, path, &admin, None).await.expect(409);
    api.call(Method::DELETE, path, &tenant.admin, None).await.expect(403);
    patch(json!({ "delete_protection": false })).await.expect(200);
    assert_eq!(api.objects().len(), 2 + 2 + 3, "files of both, models of both and the catalogue's");

    // Twice at once: one deletion.
    let digest = "a".repeat(64);
    let delete = format!("{path}?export_sha256={digest}");
    let (one, two) = tokio::join!(
        api.call(Method::DELETE, &delete, &admin, None),
        api.call(Method::DELETE, &delete, &admin, None)
    );
    let (one, two) = (one.expect(200), two.expect(200));
    assert_eq!(one["tenant_id"], two["tenant_id"]);
    for token in [&tenant.key, &tenant.admin] {
        api.get("/api/v1/me", token).await.expect(401);
    }
    patch(json!({ "status": "active" })).await.expect(409);

    // Cut off after longer and longer times, by two at once; each goes on
    // where the others were.
    let (leader, objects, clock) = (leader(&api).await, objects(&api), Clock::system());
    let deletion = format!("/api/v1/tenant-deletions/{}", text(&one["tenant_id"]));
    let mut cuts = 0;
    let done = loop {
        let key = key();
        let tick = || scheduler::deletions::tick(&api.store, &objects, &clock, &key, leader.term());
        let time = Duration::from_millis(1 + cuts);
        let (a, b) = tokio::join!(tokio::time::timeout(time, tick()), tokio::time::timeout(time, tick()));
        for end in [a, b].into_iter().flatten() {
            end.unwrap();
        }
        cuts += 1;
        let seen = api.get(&deletion, &admin).await.expect(200);
        if seen["state"] == "finished" {
            break seen;
        }
        assert!(cuts < 500, "{seen}");
    };
    println!("finished after {cuts} cuts");
    let certificate = &done["certificate"]["certificate"];
    assert_eq!(certificate["rows"]["principals"], json!(2));
    assert_eq!(certificate["rows"]["files"], json!(2));
    assert_eq!(certificate["rows"]["model_files"], json!(2));
    assert_eq!(certificate["rows"]["sessions"], json!(2));
    assert_eq!((&certificate["objects"], &certificate["object_bytes"]), (&json!(3), &json!(8 + 9 + 22)));
    assert_eq!(certificate["export_sha256"], json!(digest));
    let installation = api.get("/api/v1/installation", &other.key).await.expect(200);
    let public_key = text(&installation["certificate_public_key"]);
    let signed: domain::certificates::SignedCertificate =
        serde_json::from_value(done["certificate"].clone()).unwrap();
    verify(&signed.text(), &public_key).unwrap();
    verify(&signed.text().replace("\"objects\":3", "\"objects\":4"), &public_key).unwrap_err();
    assert_eq!(api.objects().len(), 2 + 2, "what others use stays");

    // Nothing of it is left where the catalogue finds a tenant, but what is kept.
    api.get(path, &admin).await.expect(404);
    let mut tx = api.store.system().await.unwrap();
    let gone = domain::TenantId(text(&one["tenant_id"]).parse().unwrap());
    for table in store::deletions::erasure_order(&mut tx).await.unwrap() {
        assert_eq!(store::deletions::erase(&mut tx, gone, &table, 1).await.unwrap(), 0, "{table}");
    }
    let events = store::audit::list(&mut tx, Some(gone), None, 1000).await.unwrap();
    assert!(
        events.iter().any(|e| e.action == "create_tenant")
            && events.iter().any(|e| e.action == "delete_tenant")
    );
    drop(tx);
    let certified = api.get("/api/v1/tenant-deletions", &other.admin).await;
    certified.expect(403);

    // Others are untouched, and the short name is free.
    api.get("/api/v1/endpoints/chat", &other.key).await.expect(200);
    busy(&api, &admin, "interior").await;
    api.stopped().await;
}

#[tokio::test]
async fn only_rows_of_a_tenant_that_is_being_deleted_can_be_erased() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    api.model(&admin, "smollm2").await;
    busy(&api, &admin, "interior").await;
    let tenant = api.get("/api/v1/tenants/interior", &admin).await.expect(200);
    let id = domain::TenantId(text(&tenant["id"]).parse().unwrap());
    for table in ["endpoints", "files", "model_files", "usage", "api_keys"] {
        let mut tx = api.store.system().await.unwrap();
        assert_eq!(store::deletions::erase(&mut tx, id, table, 100).await.unwrap(), 0, "{table}");
    }
    // Kept tables give no right to it at all.
    for table in store::deletions::KEPT_TABLES {
        let mut tx = api.store.system().await.unwrap();
        store::deletions::erase(&mut tx, id, table, 1).await.unwrap_err();
    }
    api.stopped().await;
}

#[tokio::test]
async fn retention_takes_old_files_once() {
    let api = Api::start().await;
    let admin = api.sign_in(ADMIN).await;
    let tenant = api.tenant(&admin, "interior").await;
    let file = upload(&api, &tenant.key, b"{}\n").await;
    let rules = json!({ "retention": { "files_days": 1, "results_days": 1 } });
    api.call(Method::PATCH, "/api/v1/tenants/interior", &admin, Some(rules)).await.expect(200);
    let (leader, objects) = (leader(&api).await, objects(&api));
    let now: Timestamp = Clock::system().now();
    let tick = async |clock: &Clock| {
        scheduler::retention::tick(&api.store, &objects, clock, leader.term()).await.unwrap()
    };
    assert!(!tick(&Clock::from_fn(move || now + Duration::from_secs(23 * 3600))).await);
    let later = Clock::from_fn(move || now + Duration::from_secs(25 * 3600));
    assert!(tick(&later).await);
    assert!(!tick(&later).await);
    let path = format!("/api/v1/files/{}", text(&file["id"]));
    api.get(&path, &tenant.key).await.expect(404);
    assert_eq!(api.objects().len(), 0);
    let id = domain::TenantId(
        text(&api.get("/api/v1/tenants/interior", &admin).await.expect(200)["id"]).parse().unwrap(),
    );
    let events =
        store::audit::list(&mut api.store.system().await.unwrap(), Some(id), None, 100).await.unwrap();
    let applied: Vec<_> = events.iter().filter(|e| e.action == "apply_retention").collect();
    assert_eq!((applied.len(), &applied[0].detail), (1, &json!({ "files": 1, "results": 0 })));
    api.stopped().await;
}
