//! Quotas: what the ledger in the database refuses, what is lent and taken
//! back, and how the tree is set and seen.

use std::collections::BTreeMap;

use domain::planner::{Considered, Decision, Hold};
use domain::quotas::{Key, NodeId, Policies, Quota, Reclaim};
use domain::tenants::Slug;
use domain::{ProjectId, TenantId, WorkloadId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row;
use store::StoreError;
use store::quotas::NewNode;
use tests::database::rows;
use tests::ministries::Platform;

use crate::placement::Scene;

const GB: u64 = 1_000_000_000;

/// A tenant's quota of class cpu, in a cohort; it takes its own back from anybody.
pub(crate) async fn give(scene: &Scene, tenant: TenantId, milli: i64, cohort: Option<&str>) {
    let quotas = BTreeMap::from([(Key::milli("cpu"), Quota { nominal: milli, ..Quota::default() })]);
    let mut tx = scene.db.store.system().await.unwrap();
    let parent = match cohort {
        None => None,
        Some(name) => {
            let (name, nothing): (Slug, _) = (name.parse().unwrap(), BTreeMap::new());
            let new =
                NewNode { parent: None, weight_milli: 1000, policies: Policies::default(), quotas: &nothing };
            store::quotas::put_cohort(&mut tx, &name, &new, scene.now).await.unwrap();
            Some(store::quotas::cohort(&mut tx, &name).await.unwrap())
        }
    };
    let policies = Policies { reclaim: Reclaim::Any, ..Policies::default() };
    let new = NewNode { parent, weight_milli: 1000, policies, quotas: &quotas };
    store::quotas::put_tenant(&mut tx, tenant, &new, scene.now).await.unwrap();
    tx.commit().await.unwrap();
}

async fn limit(scene: &Scene, tenant: TenantId, milli: i64) {
    let quotas = BTreeMap::from([(Key::milli("cpu"), Quota { nominal: milli, ..Quota::default() })]);
    let mut tx = scene.db.store.system().await.unwrap();
    let new = NewNode {
        parent: Some(NodeId::Tenant(tenant)),
        weight_milli: 1000,
        policies: Policies::default(),
        quotas: &quotas,
    };
    // A tenant's first project has its identifier here, and is no node of its own.
    let project = ProjectId::generate();
    let sql = format!("INSERT INTO projects VALUES ('{project}', '{tenant}', 'limited', 'Limited', now())");
    rows(&mut scene.db.superuser().await, &sql).await.unwrap();
    scene.set(format!("INSERT INTO audit_events SELECT gen_random_uuid(), NULL, now(), 'test', 'create', 'project:{project}', 'allowed', '{{}}'")).await;
    scene.set(format!("UPDATE endpoints SET project_id = '{project}' WHERE tenant_id = '{tenant}'")).await;
    store::quotas::put_project(&mut tx, tenant, project, &new, scene.now).await.unwrap();
    tx.commit().await.unwrap();
}

/// What the ledger says a node uses.
async fn used(scene: &Scene, node: impl std::fmt::Display) -> i64 {
    scene
        .db
        .count(&format!("SELECT COALESCE(sum(used), 0)::bigint FROM quota_cells WHERE node_id = '{node}'"))
        .await
}

/// Every moment: the ledger is what the placements add up to.
pub(crate) async fn balanced(scene: &Scene) {
    assert_eq!(store::quotas::differences(&scene.db.store).await.unwrap(), []);
}

async fn reasons(scene: &Scene) -> Vec<(Option<String>, String)> {
    let sql = "SELECT level, reason FROM workloads WHERE state = 'pending' ORDER BY id";
    rows(&mut scene.db.superuser().await, sql).await.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect()
}

#[tokio::test]
async fn a_tenant_uses_no_more_than_its_quota_and_a_change_holds_at_once() {
    let scene = Scene::new().await;
    let worker = scene.join("a", &[(8 * GB, 8000)]).await;
    scene.endpoint(3, GB, 500).await;
    give(&scene, scene.tenant, 1000, None).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), used(&scene, scene.tenant).await), (2, 1000));
    let why = "its tenant's quota of class cpu has less left than the 500 milli-accelerators it asks for";
    assert_eq!(reasons(&scene).await, [(Some("quota".to_owned()), why.to_owned())]);
    balanced(&scene).await;
    assert_eq!(scene.tick().await.applied, 0, "a second look finds nothing to do");

    give(&scene, scene.tenant, 1500, None).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), used(&scene, scene.tenant).await), (3, 1500));

    // A cut kills nothing, and what leaves does not come back.
    give(&scene, scene.tenant, 600, None).await;
    scene.obey(worker).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), used(&scene, scene.tenant).await), (3, 1500));
    scene.set("UPDATE endpoints SET replicas = 0".to_owned()).await;
    scene.tick().await;
    assert_eq!(used(&scene, scene.tenant).await, 1500, "held until they have ended");
    scene.obey(worker).await;
    assert_eq!(used(&scene, scene.tenant).await, 0);
    scene.set("UPDATE endpoints SET replicas = 3".to_owned()).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 1);
    balanced(&scene).await;

    // Out of the tree, devices alone bind it; back in it, what runs counts.
    let mut tx = scene.db.store.system().await.unwrap();
    store::quotas::remove(&mut tx, NodeId::Tenant(scene.tenant)).await.unwrap();
    tx.commit().await.unwrap();
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 3);
    give(&scene, scene.tenant, 100, None).await;
    assert_eq!(used(&scene, scene.tenant).await, 1500);
    scene.db.finish().await;
}

#[tokio::test]
async fn the_database_refuses_what_a_planner_should_not_have_decided() {
    let scene = Scene::new().await;
    let worker = scene.join("a", &[(8 * GB, 8000)]).await;
    scene.endpoint(2, GB, 500).await;
    give(&scene, scene.tenant, 500, None).await;
    scene.tick().await;
    let snapshot = scene.snapshot().await;
    let waiting = snapshot.workloads.values().find(|w| w.generation == 0).expect("one waits");
    let device_id = snapshot.workers[&worker].devices[0].id;
    let place = Decision::Place {
        workload: waiting.id,
        generation: 0,
        worker,
        class: "cpu".to_owned(),
        passed_over: Vec::new(),
        holds: vec![Hold { device_id, memory_bytes: GB, milli: 500 }],
        considered: Considered::default(),
        cost: domain::planner::Cost::default(),
    };
    assert!(matches!(scene.apply(&place).await, Err(StoreError::NoQuota)));
    assert_eq!((scene.placed().await.len(), used(&scene, scene.tenant).await), (1, 500));

    // The limit of a project stops it as well.
    give(&scene, scene.tenant, 5000, None).await;
    limit(&scene, scene.tenant, 700).await;
    // What is in a project stays in it, except for this test.
    scene.forget().await;
    let refused = scene.apply(&place).await;
    assert!(matches!(refused, Err(StoreError::NoQuota)), "{refused:?}");
    scene.tick().await;
    let why = "its project's limit of class cpu has less left than the 500 milli-accelerators it asks for";
    assert_eq!(reasons(&scene).await, [(Some("quota".to_owned()), why.to_owned())]);
    give(&scene, scene.tenant, 0, None).await;
    scene.tick().await;
    balanced(&scene).await;

    // Not even by hand: what was configured is no more than what is checked.
    let over = scene.set_or("UPDATE quota_cells SET used = -1").await;
    assert!(over.unwrap_err().contains("quota_cells_used"));
    scene.db.finish().await;
}

#[tokio::test]
async fn what_is_lent_is_taken_back() {
    let scene = Scene::new().await;
    let worker = scene.join("a", &[(8 * GB, 2000)]).await;
    let lender = scene.another_tenant("lender").await;
    give(&scene, scene.tenant, 1000, Some("all")).await;
    give(&scene, lender, 1000, Some("all")).await;
    scene.endpoint(4, GB, 500).await;
    scene.tick().await;
    scene.obey(worker).await;
    assert_eq!((scene.placed().await.len(), used(&scene, scene.tenant).await), (4, 2000), "it borrows");

    scene.endpoint_of(lender, 1, GB, 500).await;
    scene.tick().await;
    let draining = "SELECT count(*) FROM placements WHERE state = 'draining'";
    assert_eq!(scene.db.count(draining).await, 1, "one makes room");
    assert_eq!(scene.tick().await.applied, 0, "and no more of them while it leaves");
    let sql = "SELECT detail ->> 'rule', (detail ->> 'for')::uuid = (SELECT id FROM workloads WHERE tenant_id = $t) FROM audit_events WHERE action = 'evict_placement'";
    let event =
        rows(&mut scene.db.superuser().await, &sql.replace("$t", &format!("'{lender}'"))).await.unwrap();
    assert_eq!((event.len(), event[0].get::<&str, _>(0), event[0].get::<bool, _>(1)), (1, "reclaim", true));
    let told = reasons(&scene).await;
    assert_eq!(told[0].1, "room is being made for it: what is in its place was told to leave");
    balanced(&scene).await;

    scene.obey(worker).await;
    scene.tick().await;
    assert_eq!((used(&scene, scene.tenant).await, used(&scene, lender).await), (1500, 500));
    let told = reasons(&scene).await;
    assert_eq!(told.len(), 1, "the one that left waits anew");
    assert_eq!(told[0].0.as_deref(), Some("cohort"));
    for _ in 0..3 {
        scene.obey(worker).await;
        assert_eq!(scene.tick().await.applied, 0, "nobody takes it back in turn");
    }
    balanced(&scene).await;

    // Both can be told why.
    let waiting = scene.snapshot().await.workloads.into_values().find(|w| w.reason.is_some()).unwrap();
    let text = explained(&scene, scene.tenant, waiting.id).await;
    let preemptor = scene.snapshot().await.workloads.into_values().find(|w| w.tenant_id == lender).unwrap();
    for part in [
        "It waits: its tenant's cohort has less of class cpu left than it asks for: 500 milli-accelerators.",
        "It is number 1 of 1 that wait in its tenant.",
        "It begins when work in its cohort ends, or with quota of its tenant's own.",
        &format!("for workload {}, whose tenant took back what is its own.", preemptor.id),
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = explained(&scene, lender, preemptor.id).await;
    assert!(text.starts_with("It runs on worker a since"), "{text}");
    assert!(text.contains("the only worker that could take it"), "{text}");
    scene.db.finish().await;
}

pub(crate) async fn explained(scene: &Scene, tenant: TenantId, workload: WorkloadId) -> String {
    let mut tx = scene.db.store.tenant(tenant).await.unwrap();
    let mut system = scene.db.store.system().await.unwrap();
    store::workloads::explain(&mut tx, &mut system, workload).await.unwrap().text
}

#[tokio::test]
async fn nobody_is_made_to_leave_in_vain() {
    let scene = Scene::new().await;
    let worker = scene.join("a", &[(4 * GB, 2000), (4 * GB, 2000)]).await;
    let lender = scene.another_tenant("lender").await;
    give(&scene, scene.tenant, 1000, Some("all")).await;
    give(&scene, lender, 3000, Some("all")).await;
    scene.endpoint(8, GB, 500).await;
    scene.tick().await;
    scene.obey(worker).await;
    assert_eq!(used(&scene, scene.tenant).await, 4000);
    // Its quota is its own, but no device will ever have the memory.
    scene.endpoint_of(lender, 1, 5 * GB, 500).await;
    scene.tick().await;
    assert_eq!(scene.db.count("SELECT count(*) FROM placements WHERE state = 'draining'").await, 0);
    let told = reasons(&scene).await;
    assert!(told[0].1.starts_with("no device of class cpu is as large as 5.0 GB"), "{told:?}");
    assert_eq!(scene.tick().await.applied, 0);
    scene.db.finish().await;
}

fn quota(class: &str, nominal: i64) -> Value {
    json!({ "class": class, "nominal": nominal })
}

#[tokio::test]
async fn the_tree_is_set_and_seen_by_those_whom_it_concerns() {
    let platform = Platform::start().await;
    let admin = platform.admin.clone();
    let minister = platform.tenant("health").await;
    platform.tenant("justice").await;
    let put = |path: &'static str, body: Value| platform.call(Method::PUT, path, &admin, Some(body));

    let (status, refusal) =
        put("/api/v1/tenants/health/quota", json!({"cohort": "none", "quotas": []})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refusal.to_string().contains("there is no cohort none: make it first"), "{refusal}");
    for (path, body) in [
        ("/api/v1/cohorts/country", json!({"quotas": [quota("cpu", 4000)]})),
        ("/api/v1/cohorts/social", json!({"parent": "country"})),
        ("/api/v1/tenants/health/quota", json!({"cohort": "social", "quotas": [quota("cpu", 2000)]})),
        (
            "/api/v1/tenants/justice/quota",
            json!({"cohort": "country", "weight_milli": 2000, "quotas": [quota("cpu", 0)]}),
        ),
        ("/api/v1/projects/sandbox/quota?tenant=health", json!({"quotas": [quota("cpu", 500)]})),
    ] {
        let (status, node) = put(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {node}");
    }
    let tree = platform.ok(Method::GET, "/api/v1/quotas", &admin, None).await;
    let node = |tree: &Value, name: &str| -> Value {
        tree["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).cloned().unwrap()
    };
    assert_eq!(tree["nodes"].as_array().unwrap().len(), 5);
    assert_eq!(node(&tree, "country")["quotas"][0]["guaranteed"], 6000);
    assert_eq!(node(&tree, "justice")["quotas"][0]["available"], 6000);
    assert_eq!(node(&tree, "sandbox")["quotas"][0]["available"], 500);

    for (path, body, says) in [
        ("/api/v1/cohorts/country", json!({"parent": "social"}), "below itself"),
        (
            "/api/v1/cohorts/social",
            json!({"quotas": [quota("none", 1)]}),
            "accelerator class that does not exist",
        ),
        ("/api/v1/cohorts/social", json!({"quotas": [quota("cpu", -1)]}), "must be 0 to"),
        (
            "/api/v1/cohorts/social",
            json!({"quotas": [quota("cpu", 1), quota("cpu", 2)]}),
            "names cpu milli twice",
        ),
        (
            "/api/v1/projects/sandbox/quota?tenant=health",
            json!({"quotas": [{"class": "cpu", "nominal": 1, "borrowing_limit": 1}]}),
            "neither lend nor borrow",
        ),
    ] {
        let (status, refusal) = put(path, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {refusal}");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    let (status, _) = platform.call(Method::DELETE, "/api/v1/cohorts/social", &admin, None).await;
    assert_eq!(status, StatusCode::CONFLICT, "somebody is in it");
    let unchanged = platform.ok(Method::GET, "/api/v1/quotas", &admin, None).await;
    assert_eq!(tree, unchanged, "what was refused changed nothing");

    // A ministry sees its own part, and may limit its projects, not raise its quota.
    let own = platform.ok(Method::GET, "/api/v1/quotas", &minister, None).await;
    let names: Vec<&str> =
        own["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sandbox", "health"]);
    let more = json!({"quotas": [quota("cpu", 99_000)]});
    let (status, _) = platform.call(Method::PUT, "/api/v1/tenants/health/quota", &minister, Some(more)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let less = json!({"quotas": [quota("cpu", 100)]});
    let limited = platform.ok(Method::PUT, "/api/v1/projects/sandbox/quota", &minister, Some(less)).await;
    assert_eq!((&limited["quotas"][0]["nominal"], &limited["revision"]), (&json!(100), &json!(2)));

    // A project's limit ends with the project, a tenant's part with its node.
    for (method, path) in [
        (Method::DELETE, "/api/v1/projects/sandbox/quota?tenant=health"),
        (Method::DELETE, "/api/v1/tenants/health/quota"),
        (Method::DELETE, "/api/v1/cohorts/social"),
    ] {
        let (status, answer) = platform.call(method, path, &admin, None).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{path}: {answer}");
    }
    let tree = platform.ok(Method::GET, "/api/v1/quotas", &admin, None).await;
    assert_eq!(node(&tree, "country")["quotas"][0]["guaranteed"], 4000);
    platform.system.db.finish().await;
}
