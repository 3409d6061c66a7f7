//! What keeps work from a worker whatever is free there: how secret the work may
//! be, and whom the worker is for.

use std::time::Duration;

use domain::planner::{Considered, Cost, Decision, Hold};
use domain::tenants::Classification;
use domain::workers::{DeviceMemory, ObservedState};
use domain::{TenantId, WorkerId, WorkloadId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row;
use store::StoreError;
use store::workers::WorkerChange;
use tests::database::rows;
use tests::ministries::Platform;
use tests::wait::until;

use crate::placement::{Scene, obedient};

const GB: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

async fn clear(scene: &Scene, worker: &str, clearance: Classification) {
    let change = WorkerChange { clearance: Some(clearance), ..WorkerChange::default() };
    let mut tx = scene.db.store.system().await.unwrap();
    store::workers::update(&mut tx, &worker.parse().unwrap(), change, None).await.unwrap();
    tx.commit().await.unwrap();
}

/// Where live placements of a tenant are, by name of the worker.
async fn placed_of(scene: &Scene, tenant: TenantId) -> Vec<String> {
    let sql = format!(
        "SELECT w.name FROM placements p JOIN workers w ON w.id = p.worker_id
         WHERE p.state <> 'ended' AND p.tenant_id = '{tenant}' ORDER BY 1"
    );
    rows(&mut scene.db.superuser().await, &sql).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What a tenant is told of its first workload.
async fn explained(scene: &Scene, tenant: TenantId) -> domain::explanations::WorkloadExplanation {
    let sql =
        format!("SELECT id FROM workloads WHERE tenant_id = '{tenant}' AND NOT ended ORDER BY id LIMIT 1");
    let id: uuid::Uuid = rows(&mut scene.db.superuser().await, &sql).await.unwrap()[0].get(0);
    let mut tx = scene.db.store.tenant(tenant).await.unwrap();
    let mut system = scene.db.store.system().await.unwrap();
    store::workloads::explain(&mut tx, &mut system, WorkloadId(id)).await.unwrap()
}

/// A decision to put a tenant's waiting workload on a worker, by hand.
async fn by_hand(scene: &Scene, tenant: TenantId, worker: WorkerId) -> Decision {
    let snapshot = scene.snapshot().await;
    let workload = snapshot.workloads.values().find(|w| w.tenant_id == tenant).unwrap();
    let device_id = snapshot.workers[&worker].devices[0].id;
    Decision::Place {
        workload: workload.id,
        generation: workload.generation,
        worker,
        class: "cpu".to_owned(),
        passed_over: Vec::new(),
        holds: vec![Hold { device_id, memory_bytes: GB, milli: 500 }],
        considered: Considered::default(),
        cost: Cost::default(),
    }
}

#[tokio::test]
async fn secret_work_lands_only_on_cleared_workers_and_leaves_those_that_are_not() {
    let scene = Scene::new().await;
    let (secret, other) = (scene.tenant, scene.another_tenant("health").await);
    scene.set(format!("UPDATE tenants SET classification = 'secret' WHERE id = '{secret}'")).await;
    let [a, bb] = [scene.join("a", &[(4 * GB, 4000)]).await, scene.join("bb", &[(4 * GB, 4000)]).await];
    scene.endpoint(1, GB, 500).await;
    scene.endpoint_of(other, 1, GB, 500).await;
    scene.tick().await;
    assert!(placed_of(&scene, secret).await.is_empty(), "nobody is cleared unless told");
    assert_eq!(placed_of(&scene, other).await.len(), 1, "what is not secret is not kept");
    let told = explained(&scene, secret).await;
    assert_eq!(told.level, Some(domain::quotas::Level::Classification));
    assert_eq!(
        told.workload.reason.as_deref(),
        Some("no worker of class cpu takes work: 2 workers are not cleared for secret work")
    );
    assert!(told.text.contains("It begins on a worker that is cleared for it."), "{}", told.text);
    // Whatever a planner believes, the database refuses it.
    let forbidden = by_hand(&scene, secret, a).await;
    assert!(matches!(scene.apply(&forbidden).await, Err(StoreError::Conflict(_))));
    clear(&scene, "a", Classification::Confidential).await;
    assert!(matches!(scene.apply(&forbidden).await, Err(StoreError::Conflict(_))));
    scene.tick().await;
    assert!(placed_of(&scene, secret).await.is_empty());

    clear(&scene, "a", Classification::Secret).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, secret).await, ["a"]);
    let told = explained(&scene, secret).await;
    assert_eq!(told.placement.as_ref().unwrap().considered.not_cleared, 1);
    assert!(told.text.contains("1 were not cleared for its classification"), "{}", told.text);
    for worker in [a, bb] {
        scene.obey(worker).await;
    }

    // What a worker says of itself changes nothing.
    scene.join("a", &[(4 * GB, 4000)]).await;
    scene.obey(a).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, secret).await, ["a"]);

    clear(&scene, "a", Classification::Internal).await;
    clear(&scene, "bb", Classification::Secret).await;
    scene.tick().await;
    let drained = "SELECT tenant_id, detail ->> 'why' FROM audit_events WHERE action = 'drain_placement'";
    let audited = rows(&mut scene.db.superuser().await, drained).await.unwrap();
    let audited: Vec<(uuid::Uuid, String)> = audited.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(audited, [(secret.0, "not_cleared".to_owned())]);
    assert_eq!(placed_of(&scene, secret).await, ["a"], "it holds what it has until it has let go");
    scene.obey(a).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, secret).await, ["bb"]);

    // The same where the work becomes more secret.
    let at = placed_of(&scene, other).await;
    scene.set(format!("UPDATE tenants SET classification = 'secret' WHERE id = '{other}'")).await;
    scene.tick().await;
    scene.obey(a).await;
    scene.obey(bb).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, other).await, ["bb"], "it was on {at:?}");
    scene.db.finish().await;
}

async fn dedicate(scene: &Scene, pool: &str, tenants: &[TenantId]) {
    let mut tx = scene.db.store.system().await.unwrap();
    store::pools::put(&mut tx, &pool.parse().unwrap(), "", tenants, scene.now).await.unwrap();
    tx.commit().await.unwrap();
}

async fn move_to(scene: &Scene, worker: &str, pool: Option<&str>) {
    let pool = pool.map(|pool| pool.parse().unwrap());
    let change = WorkerChange { pool: Some(pool.as_ref()), ..WorkerChange::default() };
    let mut tx = scene.db.store.system().await.unwrap();
    store::workers::update(&mut tx, &worker.parse().unwrap(), change, None).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_dedicated_pool_takes_its_tenants_work_and_no_other() {
    let scene = Scene::new().await;
    let (defence, health) = (scene.tenant, scene.another_tenant("health").await);
    let [a, bb] = [scene.join("a", &[(2 * GB, 4000)]).await, scene.join("bb", &[(2 * GB, 4000)]).await];
    dedicate(&scene, "defence", &[defence]).await;
    move_to(&scene, "a", Some("defence")).await;
    scene.endpoint(3, GB, 500).await;
    scene.endpoint_of(health, 3, GB, 500).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, defence).await, ["a", "a"]);
    assert_eq!(placed_of(&scene, health).await, ["bb", "bb"]);
    let waits = async |tenant: TenantId| {
        let all = scene.snapshot().await.workloads;
        all.into_values().find(|w| w.tenant_id == tenant && w.reason.is_some()).unwrap().reason.unwrap()
    };
    let (ours, theirs) = (waits(defence).await, waits(health).await);
    assert!(ours.ends_with("1 worker is outside of the pools defence"), "{ours}");
    assert!(theirs.ends_with("1 worker is dedicated to others"), "{theirs}");
    for worker in [a, bb] {
        scene.obey(worker).await;
    }

    // With room everywhere: the database, too, refuses what is of another pool.
    let [ccc, dddd] =
        [scene.join("ccc", &[(2 * GB, 4000)]).await, scene.join("dddd", &[(2 * GB, 4000)]).await];
    move_to(&scene, "ccc", Some("defence")).await;
    for (tenant, worker) in [(defence, dddd), (health, ccc)] {
        let snapshot = scene.snapshot().await;
        let waiting =
            snapshot.workloads.values().find(|w| w.tenant_id == tenant && w.reason.is_some()).unwrap();
        let Decision::Place { holds, class, .. } = by_hand(&scene, tenant, worker).await else { panic!() };
        let forbidden = Decision::Place {
            workload: waiting.id,
            generation: waiting.generation,
            worker,
            class,
            passed_over: Vec::new(),
            holds,
            considered: Considered::default(),
            cost: Cost::default(),
        };
        assert!(matches!(scene.apply(&forbidden).await, Err(StoreError::Conflict(_))), "{tenant}");
    }
    scene.tick().await;
    assert_eq!(placed_of(&scene, defence).await, ["a", "a", "ccc"]);
    assert_eq!(placed_of(&scene, health).await, ["bb", "bb", "dddd"]);
    for worker in [ccc, dddd] {
        scene.obey(worker).await;
    }

    // Joining again does not take a worker out of its pool; the platform does.
    scene.join("a", &[(2 * GB, 4000)]).await;
    assert_eq!(scene.snapshot().await.workers[&a].pool.as_str(), "defence");
    move_to(&scene, "a", None).await;
    assert!(scene.snapshot().await.workers[&a].dedicated, "from when it joins again");
    scene.join("a", &[(2 * GB, 4000)]).await;
    let worker = &scene.snapshot().await.workers[&a];
    assert_eq!((worker.pool.as_str(), worker.dedicated), ("default", false));
    scene.obey(a).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, defence).await, ["a", "a", "ccc"], "what runs stays");

    // Its tenant goes, and the pool is nobody's.
    dedicate(&scene, "defence", &[]).await;
    scene.set("UPDATE endpoints SET replicas = 4".to_owned()).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, defence).await, ["a", "a", "ccc", "dddd"]);
    assert_eq!(placed_of(&scene, health).await, ["bb", "bb", "dddd"]);
    let mut tx = scene.db.store.system().await.unwrap();
    store::pools::delete(&mut tx, &"defence".parse().unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    scene.tick().await;
    assert_eq!(placed_of(&scene, health).await, ["bb", "bb", "ccc", "dddd"]);
    scene.db.finish().await;
}

#[tokio::test]
async fn pools_are_dedicated_by_the_platform_and_end_with_no_tenant() {
    let it = Platform::start().await;
    it.system.join("node").await;
    let interior = it.tenant("interior").await;
    it.tenant("health").await;
    let put = async |pool: &str, token: &str, body: Value| {
        it.call(Method::PUT, &format!("/api/v1/pools/{pool}"), token, Some(body)).await
    };
    for (pool, body) in [
        ("defence", json!({"tenants": ["nobody"]})),
        ("defence", json!({"tenants": ["interior"], "description": "two\nlines"})),
        ("defence", json!({"tenants": vec!["interior"; 257]})),
        ("defence", json!({})),
        ("defence", json!({"tenants": ["interior"], "workers": ["node"]})),
        ("Defence", json!({"tenants": ["interior"]})),
    ] {
        let (status, answer) = put(pool, &it.admin, body.clone()).await;
        assert!(status.is_client_error(), "{body}: {status} {answer}");
    }
    let (status, _) = put("defence", &interior, json!({"tenants": ["interior"]})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(it.ok(Method::GET, "/api/v1/pools", &it.admin, None).await["items"], json!([]));

    let body = json!({"tenants": ["interior", "health", "interior"], "description": "Bunker"});
    let (status, pool) = put("defence", &it.admin, body).await;
    assert_eq!(status, StatusCode::OK, "{pool}");
    assert_eq!((&pool["tenants"], &pool["workers"]), (&json!(["health", "interior"]), &json!(0)));
    let patch =
        async |body: Value| it.call(Method::PATCH, "/api/v1/workers/node", &it.admin, Some(body)).await;
    let (status, _) = patch(json!({"pool": "No Pool"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, worker) = patch(json!({"pool": "defence"})).await;
    assert_eq!(
        (status, &worker["pool"], &worker["dedicated"]),
        (StatusCode::OK, &json!("defence"), &json!(true))
    );
    it.system.join("node").await;
    let worker = it.ok(Method::GET, "/api/v1/workers/node", &it.admin, None).await;
    assert_eq!(worker["pool"], "defence");
    let pools = it.ok(Method::GET, "/api/v1/pools", &it.admin, None).await;
    assert_eq!((&pools["items"][0]["name"], &pools["items"][0]["workers"]), (&json!("defence"), &json!(1)));

    // A tenant that is deleted leaves it; the pool is still closed to others.
    it.ok(Method::DELETE, "/api/v1/tenants/health", &it.admin, None).await;
    until("the end of the tenant", PATIENCE, async || {
        let pool = it.ok(Method::GET, "/api/v1/pools/defence", &it.admin, None).await;
        (pool["tenants"] == json!(["interior"])).then_some(())
    })
    .await;
    let delete = async || it.call(Method::DELETE, "/api/v1/pools/defence", &it.admin, None).await.0;
    assert_eq!((delete().await, delete().await), (StatusCode::NO_CONTENT, StatusCode::NOT_FOUND));
    let worker = it.ok(Method::GET, "/api/v1/workers/node", &it.admin, None).await;
    assert_eq!((&worker["pool"], &worker["dedicated"]), (&json!("defence"), &json!(false)));
    it.system.stop().await;
}

#[tokio::test]
async fn who_runs_the_fleet_clears_workers_and_nobody_else() {
    let it = Platform::start().await;
    it.system.join("node").await;
    let interior = it.tenant("interior").await;
    let path = "/api/v1/workers/node";
    let worker = it.ok(Method::GET, path, &it.admin, None).await;
    assert_eq!((&worker["clearance"], &worker["cordoned"]), (&json!("internal"), &json!(false)));
    let patch = async |token: &str, body: Value| it.call(Method::PATCH, path, token, Some(body)).await;
    for body in [json!({"clearance": "top"}), json!({"secrecy": "secret"})] {
        let (status, answer) = patch(&it.admin, body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer}");
    }
    let (status, _) = patch(&interior, json!({"clearance": "secret"})).await;
    assert!([StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&status), "{status}");
    assert_eq!(it.ok(Method::GET, path, &it.admin, None).await["clearance"], "internal");

    let (status, worker) = patch(&it.admin, json!({"clearance": "secret"})).await;
    assert_eq!((status, &worker["clearance"]), (StatusCode::OK, &json!("secret")), "{worker}");
    assert_eq!(worker["cordoned"], false, "what is not named stays");
    let (_, worker) = patch(&it.admin, json!({"cordoned": true})).await;
    assert_eq!((&worker["clearance"], &worker["cordoned"]), (&json!("secret"), &json!(true)));
    let audited = "SELECT count(*) FROM audit_events WHERE action = 'update_worker' AND detail = '{\"clearance\": \"secret\"}'";
    until("the record", PATIENCE, async || (it.system.db.count(audited).await == 1).then_some(())).await;
    // A worker may ask for much, but not for that.
    let body = json!({"name": "node", "pool": "default", "zone": "here", "address": "http://127.0.0.1:9",
        "clearance": "secret", "devices": [{"ordinal": 0, "class": "cpu", "memory_bytes": 1000, "milli": 1000}]});
    let (status, answer) = it.system.post("join", &it.system.join_token, body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    it.system.stop().await;
}

/// A worker says of all it holds that it fails, for so many times in a row.
async fn fails(scene: &Scene, worker: WorkerId, failures: u32) {
    let mut reports = obedient(&scene.db.store, worker).await.unwrap();
    for report in &mut reports {
        report.state = ObservedState::Failing;
        report.detail = Some("the engine needs more memory".to_owned());
        report.failures = failures;
    }
    scene.report(worker, &reports).await;
}

#[tokio::test]
async fn what_fails_on_a_worker_is_moved_to_another_and_avoids_the_first() {
    let mut scene = Scene::new().await;
    let tenant = scene.tenant;
    let a = scene.join("a", &[(4 * GB, 4000)]).await;
    scene.endpoint(1, GB, 500).await;
    scene.tick().await;
    fails(&scene, a, 1).await;
    let told = explained(&scene, tenant).await;
    assert!(told.text.contains("It failed there once, last at"), "{}", told.text);
    assert!(told.text.contains("the engine needs more memory. Its worker tries again."), "{}", told.text);
    scene.now = scene.now + Duration::from_secs(40);
    fails(&scene, a, 4).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, tenant).await, ["a"]);
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'draining'").await, 0);
    let told = explained(&scene, tenant).await;
    assert_eq!(told.placement.as_ref().unwrap().failures, 4);
    assert!(
        told.text.contains("4 times in a row") && told.text.contains("It stays until a worker"),
        "{}",
        told.text
    );

    let bb = scene.join("bb", &[(4 * GB, 4000)]).await;
    scene.tick().await;
    let why =
        "SELECT count(*) FROM audit_events WHERE action = 'drain_placement' AND detail ->> 'why' = 'failing'";
    assert_eq!(scene.db.count(why).await, 1);
    scene.obey(a).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, tenant).await, ["bb"]);
    let told = explained(&scene, tenant).await;
    assert_eq!((told.workload.failed_on.len(), told.workload.failed_on[0].worker_id), (1, a));
    assert_eq!(told.placement.as_ref().unwrap().considered.failed_before, 1);
    assert!(told.text.contains("It failed on one other worker, which it avoids"), "{}", told.text);
    scene.obey(bb).await;
    scene.forget().await;
    assert_eq!(scene.tick().await.applied, 0, "a scheduler that begins knows the same");

    // Another tenant's work goes where there is room: the worker is not bad for all.
    let other = scene.another_tenant("health").await;
    scene.endpoint_of(other, 1, GB, 500).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, other).await.len(), 1);
    assert!(explained(&scene, other).await.workload.failed_on.is_empty());

    // It fails there too: with nowhere else to go it stays, and goes back only once
    // the first failure is long ago.
    scene.now = scene.now + Duration::from_secs(100);
    scene.obey(a).await;
    fails(&scene, bb, 9).await;
    scene.tick().await;
    assert_eq!(placed_of(&scene, tenant).await, ["bb"]);
    scene.now = scene.now + Duration::from_secs(3600);
    scene.obey(a).await;
    fails(&scene, bb, 99).await;
    scene.tick().await;
    assert!(scene.db.count(why).await >= 2);
    for worker in [a, bb] {
        scene.obey(worker).await;
    }
    scene.tick().await;
    assert_eq!(placed_of(&scene, tenant).await, ["a"]);
    scene.db.finish().await;
}

#[tokio::test]
async fn memory_that_others_use_is_not_placed_on() {
    let scene = Scene::new().await;
    let a = scene.join("a", &[(32 * GB, 4000)]).await;
    let measure = async |available_bytes| {
        let held = obedient(&scene.db.store, a).await.unwrap();
        let memory = DeviceMemory { ordinal: 0, available_bytes };
        scene.report_with(a, &held, &[memory, DeviceMemory { ordinal: 7, available_bytes: 0 }]).await
    };
    assert!(!measure(40 * GB).await, "all of it is there");
    scene.endpoint(4, 8 * GB, 100).await;
    assert!(measure(21 * GB).await);
    scene.tick().await;
    assert_eq!(scene.placed().await, ["a", "a"], "with what others use 20 GB are left");
    let reason = scene.snapshot().await.workloads.into_values().find_map(|w| w.reason).unwrap();
    assert!(reason.contains("the largest free is 4.0 GB on a, where others use 12.0 GB"), "{reason}");
    measure(21 * GB).await;

    // Less is believed at once, and nobody is made to leave; more once it is enough.
    assert!(measure(10 * GB).await);
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 2);
    for noise in [10 * GB + GB / 3, 10 * GB, 11 * GB - GB / 3, 10 * GB] {
        assert!(!measure(noise).await, "{noise} is noise");
    }
    assert_eq!(scene.tick().await.applied, 0);
    assert!(measure(26 * GB).await);
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 3);
    // A scheduler that begins knows the same, and a worker that joins again, too.
    scene.join("a", &[(32 * GB, 4000)]).await;
    scene.forget().await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 3);
    assert!(measure(32 * GB).await);
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 4);
    let device = &scene.snapshot().await.workers[&a].devices[0];
    assert_eq!((device.available_memory_bytes, device.used_memory_bytes), (None, 32 * GB));
    scene.db.finish().await;
}
