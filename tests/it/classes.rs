//! Work that will do with accelerators of several classes: it gets the first in
//! which quota and devices have room, and counts there.

use std::collections::BTreeMap;

use domain::accelerators::DeviceReport;
use domain::quotas::{Key, Policies, Quota};
use domain::workers::JoinRequest;
use domain::{WorkerId, WorkloadId};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row;
use store::quotas::NewNode;
use tests::database::rows;
use tests::ministries::Platform;
use tests::stage::{PATIENCE, Stage, says};
use tests::wait::until;
use uuid::Uuid;

use crate::placement::Scene;
use crate::quotas::{balanced, explained};

const GB: u64 = 1_000_000_000;

async fn join(scene: &Scene, name: &str, class: &str, devices: u32) -> WorkerId {
    let device =
        |ordinal| DeviceReport { ordinal, class: class.to_owned(), memory_bytes: 8 * GB, milli: 1000 };
    let request = JoinRequest {
        name: name.parse().unwrap(),
        pool: "default".parse().unwrap(),
        zone: "here".parse().unwrap(),
        address: "http://127.0.0.1:1".to_owned(),
        devices: (0..devices).map(device).collect(),
    };
    let mut tx = scene.db.store.system().await.unwrap();
    let hash = [u8::try_from(name.len()).unwrap(); 32];
    let id = store::workers::join(&mut tx, &request, &hash, scene.now).await.unwrap();
    tx.commit().await.unwrap();
    id
}

/// What the scene's tenant uses of a class, by the ledger.
async fn used(scene: &Scene, class: &str) -> i64 {
    let sql =
        format!("SELECT used FROM quota_cells WHERE node_id = '{}' AND class = '{class}'", scene.tenant);
    scene.db.count(&sql).await
}

/// Workloads of the scene with the class they are on, the oldest placement first.
async fn placed(scene: &Scene) -> Vec<(WorkloadId, String)> {
    let sql = "SELECT workload_id, class FROM placements WHERE state <> 'ended' ORDER BY class, id";
    let found = rows(&mut scene.db.superuser().await, sql).await.unwrap();
    found.iter().map(|row| (WorkloadId(row.get::<Uuid, _>(0)), row.get(1))).collect()
}

#[tokio::test]
async fn replicas_of_one_endpoint_get_different_classes_and_count_in_theirs() {
    let scene = Scene::new().await;
    scene.set("INSERT INTO accelerator_classes VALUES ('h100', ''), ('a100', '')".to_owned()).await;
    let workers = [join(&scene, "a", "h100", 1).await, join(&scene, "bb", "a100", 4).await];
    let quotas = [("h100", 3000), ("a100", 2000), ("cpu", 0)]
        .map(|(class, nominal)| (Key::milli(class), Quota { nominal, ..Quota::default() }));
    let quotas = BTreeMap::from(quotas);
    let new = NewNode { parent: None, weight_milli: 1000, policies: Policies::default(), quotas: &quotas };
    let mut tx = scene.db.store.system().await.unwrap();
    store::quotas::put_tenant(&mut tx, scene.tenant, &new, scene.now).await.unwrap();
    tx.commit().await.unwrap();

    let endpoint = scene.endpoint(4, GB, 1000).await;
    scene
        .set(format!(
            "UPDATE endpoints SET class = 'h100', alternatives = '{{a100,cpu}}' WHERE id = '{endpoint}'"
        ))
        .await;
    scene.tick().await;
    let on: Vec<String> = placed(&scene).await.into_iter().map(|(_, class)| class).collect();
    assert_eq!(on, ["a100", "a100", "h100"]);
    assert_eq!(
        (used(&scene, "h100").await, used(&scene, "a100").await, used(&scene, "cpu").await),
        (1000, 2000, 0)
    );
    balanced(&scene).await;
    assert_eq!(scene.tick().await.applied, 0, "a second look finds nothing to do");
    // So does a scheduler that reads everything anew.
    scene.forget().await;
    assert_eq!(scene.tick().await.applied, 0);

    // Each can be told why it is where it is, and the last why it waits.
    let all = placed(&scene).await;
    let text = explained(&scene, scene.tenant, all[2].0).await;
    assert!(text.contains("It is on class h100, which it would rather have than any other."), "{text}");
    let text = explained(&scene, scene.tenant, all[0].0).await;
    let why = "It is on class a100; of what it would rather have: h100: no worker of class h100 has \
               1000 milli-accelerators free: the most free is 0 on a.";
    assert!(text.contains(why), "{text}");
    let waiting = scene.snapshot().await.workloads.into_values().find(|w| w.reason.is_some()).unwrap();
    let reason = waiting.reason.unwrap();
    for part in
        ["no worker of class h100 has 1000 milli-accelerators free", "quota of class a100", "of class cpu"]
    {
        assert!(reason.contains(part), "{reason}");
    }
    let sql =
        "SELECT detail FROM audit_events WHERE action = 'place_workload' AND detail ->> 'class' = 'a100'";
    let audited = rows(&mut scene.db.superuser().await, sql).await.unwrap();
    let detail: Value = audited[0].get(0);
    assert_eq!(detail["passed_over"][0]["class"], "h100", "{detail}");

    // What leaves gives back what it counted, and the preferred class comes first again.
    for worker in workers {
        scene.obey(worker).await;
    }
    scene.set("UPDATE endpoints SET replicas = 0".to_owned()).await;
    scene.tick().await;
    for worker in workers {
        scene.obey(worker).await;
    }
    assert_eq!((used(&scene, "h100").await, used(&scene, "a100").await), (0, 0));
    scene.set("UPDATE endpoints SET replicas = 1".to_owned()).await;
    scene.tick().await;
    assert_eq!(placed(&scene).await[0].1, "h100");
    balanced(&scene).await;

    // One of before classes were kept counts as its workload says.
    scene.set("UPDATE placements SET class = NULL".to_owned()).await;
    scene.forget().await;
    scene.tick().await;
    balanced(&scene).await;
    let text =
        explained(&scene, scene.tenant, scene.snapshot().await.workloads.into_keys().next().unwrap()).await;
    assert!(text.contains("It is on class h100"), "{text}");
    scene.db.finish().await;
}

#[tokio::test]
async fn the_api_takes_several_classes_and_refuses_what_is_no_choice() {
    let stage = Stage::start().await;
    let interior = stage.ministry("interior").await;
    stage.model("small").await;
    stage.set("INSERT INTO accelerator_classes VALUES ('h100', '')").await;
    let worker = stage.worker("first", |_| says(&["x"])).await;
    let post = |resources: Value| {
        let body = json!({"name": "chat", "model": "small", "resources": resources});
        stage.call(&interior, Method::POST, "/api/v1/endpoints", Some(body))
    };
    for (resources, says) in [
        (json!({"class": "h100", "alternatives": ["none"]}), "none is no accelerator class"),
        (json!({"class": "cpu", "alternatives": ["h100", "cpu"]}), "names cpu twice"),
        (json!({"class": "none", "alternatives": ["cpu"]}), "names no accelerator class"),
        (json!({"class": "cpu", "milli": 0}), "must be between 1 and"),
    ] {
        let (status, problem) = post(resources).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    let asked =
        json!({"class": "h100", "alternatives": ["cpu"], "memory_bytes": 1_000_000_000, "milli": 200});
    let (status, endpoint) = post(asked.clone()).await;
    assert_eq!((status, &endpoint["resources"]), (StatusCode::CREATED, &asked));
    stage.until_ready(1).await;
    assert_eq!(worker.placements().len(), 1);

    // A job of the same kind, of which shares wait beside it.
    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}});
    let part = Part::bytes(format!("{line}\n").into_bytes()).file_name("in.jsonl");
    let form = Form::new().text("purpose", "batch").part("file", part);
    let answer = stage.request(&interior, Method::POST, "/v1/files").multipart(form).send().await.unwrap();
    let file: Value = answer.json().await.unwrap();
    let id = file["id"].as_str().unwrap().trim_start_matches("file-").parse::<Uuid>().unwrap();
    let body = json!({"input_file_id": id, "resources": asked});
    let (status, job) = stage.call(&interior, Method::POST, "/api/v1/jobs", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let share = until("its share is placed", PATIENCE, async || {
        let (_, all) = stage.call(&interior, Method::GET, "/api/v1/workloads", None).await;
        let all = all["items"].as_array().unwrap().clone();
        all.into_iter().find(|w| w["owner"]["job"] == job["id"] && w["state"] == "placed")
    })
    .await;
    assert_eq!(share["resources"], asked);
    let path = format!("/api/v1/workloads/{}/explanation", share["id"].as_str().unwrap());
    let (_, told) = stage.call(&interior, Method::GET, &path, None).await;
    assert_eq!(told["placement"]["class"], "cpu");
    let passed = json!([{"class": "h100", "why": "no worker has a device of class h100"}]);
    assert_eq!(told["placement"]["passed_over"], passed, "{told}");
    let cancel = format!("/api/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    stage.call(&interior, Method::POST, &cancel, None).await;
    stage.stop().await;
}

#[tokio::test]
async fn classes_are_made_and_taken_away_by_the_platform() {
    let it = Platform::start().await;
    let interior = it.tenant("interior").await;
    let device =
        json!({"ordinal": 0, "class": "ascend-910b", "memory_bytes": 64_000_000_000_u64, "milli": 1000});
    let joining = json!({"name": "npu", "pool": "default", "zone": "here", "address": "http://127.0.0.1:9", "devices": [device]});
    let join = async || it.system.post("join", &it.system.join_token, joining.clone()).await;
    let (status, refusal) = join().await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refusal}");

    let put = async |class: &str, token: &str, body: Value| {
        it.call(Method::PUT, &format!("/api/v1/accelerator-classes/{class}"), token, Some(body)).await
    };
    let good = json!({"description": "Ascend 910B, 64 GB"});
    assert_eq!(put("ascend-910b", &interior, good.clone()).await.0, StatusCode::FORBIDDEN);
    for (class, body) in [
        ("Ascend", good.clone()),
        ("a_b", good.clone()),
        ("ascend-910b", json!({})),
        ("ascend-910b", json!({"description": ""})),
        ("ascend-910b", json!({"description": "a\nb"})),
        ("ascend-910b", json!({"description": "x", "pairs": true})),
    ] {
        let (status, answer) = put(class, &it.admin, body.clone()).await;
        assert!(status.is_client_error(), "{class} {body}: {status} {answer}");
    }
    for description in ["Ascend", "Ascend 910B, 64 GB"] {
        let (status, class) = put("ascend-910b", &it.admin, json!({"description": description})).await;
        assert_eq!((status, &class["description"]), (StatusCode::OK, &json!(description)));
    }
    assert_eq!(join().await.0, StatusCode::OK);
    let listed = it.ok(Method::GET, "/api/v1/accelerator-classes", &interior, None).await;
    assert_eq!(listed["items"][0], json!({"name": "ascend-910b", "description": "Ascend 910B, 64 GB"}));

    let delete = async |class: &str, token: &str| {
        it.call(Method::DELETE, &format!("/api/v1/accelerator-classes/{class}"), token, None).await.0
    };
    put("mistake", &it.admin, json!({"description": "mistake"})).await;
    assert_eq!(delete("mistake", &interior).await, StatusCode::FORBIDDEN);
    assert_eq!(delete("mistake", &it.admin).await, StatusCode::NO_CONTENT);
    assert_eq!(delete("mistake", &it.admin).await, StatusCode::NOT_FOUND);
    assert_eq!(delete("ascend-910b", &it.admin).await, StatusCode::CONFLICT);
    assert_eq!(delete("cpu", &it.admin).await, StatusCode::CONFLICT);
    let audited = "SELECT count(*) FROM audit_events WHERE action IN ('put_accelerator_class', 'delete_accelerator_class') AND verdict = 'allowed'";
    assert_eq!(it.system.db.count(audited).await, 4);
    it.system.stop().await;
}
