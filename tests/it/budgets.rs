//! Budgets: what the database refuses, what is reserved, spent and renewed, and
//! how budgets are set and seen.

use std::time::Duration;

use domain::budgets::{BudgetLine, Counted, Period, RESERVE_SECS};
use domain::planner::{Considered, Cost, Decision, Hold};
use domain::quotas::NodeId;
use domain::{ProjectId, TenantId, Timestamp, WorkerId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row;
use store::StoreError;
use store::usage::history::{self, Range};
use tests::database::rows;
use tests::ministries::Platform;

use crate::placement::Scene;
use crate::quotas::explained;

const GB: u64 = 1_000_000_000;

fn time(limit: i64, period: Period) -> BudgetLine {
    BudgetLine { counts: Counted::AcceleratorSeconds, class: Some("cpu".to_owned()), period, limit }
}

/// A scene at noon, so that no day ends by itself.
async fn at_noon() -> Scene {
    let mut scene = Scene::new().await;
    scene.now = Period::Day.ends(scene.now) + Duration::from_secs(12 * 3600);
    scene
}

async fn give(scene: &Scene, tenant: TenantId, project: Option<ProjectId>, lines: &[BudgetLine]) {
    let mut tx = scene.db.store.system().await.unwrap();
    store::budgets::put(&mut tx, tenant, project, lines, scene.now).await.unwrap();
    tx.commit().await.unwrap();
}

/// Spent, reserved and free of a tenant's only budget.
async fn figures(scene: &Scene, tenant: TenantId) -> (i64, i64, i64) {
    let mut tx = scene.db.store.system().await.unwrap();
    let node = store::budgets::of_node(&mut tx, tenant, None, scene.now).await.unwrap();
    let budget = &node.budgets[0];
    (budget.spent, budget.reserved, budget.free)
}

/// Time passes in which the worker reports.
async fn pass(scene: &mut Scene, worker: WorkerId, secs: u64) {
    scene.now = scene.now + Duration::from_secs(secs);
    scene.obey(worker).await;
}

async fn reasons(scene: &Scene) -> Vec<(Option<String>, String)> {
    let sql = "SELECT level, reason FROM workloads WHERE state = 'pending' ORDER BY id";
    rows(&mut scene.db.superuser().await, sql).await.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect()
}

async fn replicas(scene: &Scene, n: u32) {
    scene.set(format!("UPDATE endpoints SET replicas = {n}")).await;
    scene.tick().await;
}

/// What is kept of what ended is what placements say.
async fn balanced(scene: &Scene) {
    let sql = "SELECT count(*) FROM (
        (SELECT tenant_id, project_id, class, day, milli_ms FROM accelerator_usage
         EXCEPT SELECT tenant_id, project_id, class, day, sum(milli_ms) FROM placement_days GROUP BY 1, 2, 3, 4)
        UNION ALL
        (SELECT tenant_id, project_id, class, day, sum(milli_ms) FROM placement_days GROUP BY 1, 2, 3, 4
         EXCEPT SELECT tenant_id, project_id, class, day, milli_ms FROM accelerator_usage)) differences";
    assert_eq!(scene.db.count(sql).await, 0);
}

#[tokio::test]
async fn a_budget_is_reserved_spent_and_renewed() {
    let mut scene = at_noon().await;
    let worker = scene.join("a", &[(8 * GB, 8000)]).await;
    give(&scene, scene.tenant, None, &[time(100, Period::Day)]).await;
    scene.endpoint(2, GB, 1000).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (1, (0, 60, 40)));
    let ends = Period::Day.ends(scene.now);
    let why = format!(
        "its tenant's budget of 100 accelerator-seconds of class cpu a day is spent or reserved but for \
         40 accelerator-seconds, and it would reserve 60 accelerator-seconds; its period ends at {ends}"
    );
    assert_eq!(reasons(&scene).await, [(Some("budget".to_owned()), why.clone())]);
    let waiting = scene.snapshot().await.workloads.into_values().find(|w| w.reason.is_some()).unwrap();
    let text = explained(&scene, scene.tenant, waiting.id).await;
    assert!(text.contains(&format!("It waits: {why}.")), "{text}");
    assert!(text.contains("It begins in the next period, or with a larger budget."), "{text}");
    assert_eq!(scene.tick().await.applied, 0, "a second look finds nothing to do");

    // It ends after half of what it reserved: the rest is for the next.
    pass(&mut scene, worker, 30).await;
    assert_eq!(figures(&scene, scene.tenant).await, (30, 30, 40));
    replicas(&scene, 0).await;
    pass(&mut scene, worker, 0).await;
    assert_eq!(figures(&scene, scene.tenant).await, (30, 0, 70));
    balanced(&scene).await;
    replicas(&scene, 2).await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (1, (30, 60, 10)));

    // It runs on beyond its budget; a scheduler that begins anew knows as much.
    pass(&mut scene, worker, 200).await;
    scene.forget().await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (1, (230, 0, -130)));

    // A new day: what runs reserves its minute of it, and the other still waits.
    scene.now = ends;
    scene.obey(worker).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (1, (0, 60, 40)));
    let told = reasons(&scene).await;
    assert!(told[0].1.ends_with(&format!("its period ends at {}", Period::Day.ends(ends))), "{told:?}");
    give(&scene, scene.tenant, None, &[time(120, Period::Day)]).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 2, "a larger budget lets it begin");

    // A cut ends nothing; two days are kept apart.
    give(&scene, scene.tenant, None, &[time(0, Period::Month)]).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 2);
    replicas(&scene, 0).await;
    pass(&mut scene, worker, 0).await;
    let days = rows(
        &mut scene.db.superuser().await,
        "SELECT milli_ms FROM accelerator_usage WHERE class = 'cpu' ORDER BY day",
    )
    .await
    .unwrap();
    // 30 s and then until midnight; nothing of the day that has just begun.
    let first = ends.since(Period::Day.begins(ends - Duration::from_secs(1))).as_secs() as i64 - 12 * 3600;
    let kept: Vec<i64> = days.iter().map(|row| row.get(0)).collect();
    assert_eq!(kept, [first * 1_000_000, 0]);
    balanced(&scene).await;
    scene.db.finish().await;
}

#[tokio::test]
async fn what_waited_for_the_night_begins_with_the_day() {
    let mut scene = at_noon().await;
    let worker = scene.join("a", &[(8 * GB, 8000)]).await;
    give(&scene, scene.tenant, None, &[time(60, Period::Day)]).await;
    scene.endpoint(1, GB, 1000).await;
    scene.tick().await;
    pass(&mut scene, worker, 60).await;
    replicas(&scene, 0).await;
    pass(&mut scene, worker, 0).await;
    replicas(&scene, 1).await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (0, (60, 0, 0)));
    let midnight = Period::Day.ends(scene.now);
    scene.now = midnight - Duration::from_secs(1);
    scene.obey(worker).await;
    assert_eq!(scene.tick().await.applied, 0);
    scene.now = midnight;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), figures(&scene, scene.tenant).await), (1, (0, 60, 0)));
    scene.db.finish().await;
}

#[tokio::test]
async fn of_many_at_once_no_more_begin_than_a_budget_allows() {
    let scene = at_noon().await;
    let worker = scene.join("a", &[(16 * GB, 16_000)]).await;
    give(&scene, scene.tenant, None, &[time(0, Period::Month)]).await;
    scene.endpoint(6, GB, 1000).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 0);
    give(&scene, scene.tenant, None, &[time(2 * RESERVE_SECS + 1, Period::Month)]).await;
    let snapshot = scene.snapshot().await;
    let device_id = snapshot.workers[&worker].devices[0].id;
    let place: Vec<Decision> = snapshot
        .workloads
        .keys()
        .map(|workload| Decision::Place {
            workload: *workload,
            generation: 0,
            worker,
            class: "cpu".to_owned(),
            passed_over: Vec::new(),
            holds: vec![Hold { device_id, memory_bytes: GB, milli: 1000 }],
            considered: Considered::default(),
            cost: Cost::default(),
        })
        .collect();
    let (a, b, c, d, e, f) = tokio::join!(
        scene.apply(&place[0]),
        scene.apply(&place[1]),
        scene.apply(&place[2]),
        scene.apply(&place[3]),
        scene.apply(&place[4]),
        scene.apply(&place[5]),
    );
    let all = [a, b, c, d, e, f];
    assert_eq!(all.iter().filter(|done| done.is_ok()).count(), 2, "{all:?}");
    assert_eq!(all.iter().filter(|done| matches!(done, Err(StoreError::NoBudget))).count(), 4, "{all:?}");
    assert_eq!(figures(&scene, scene.tenant).await, (0, 120, 1));
    scene.forget().await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 2, "the planner finds the same");
    scene.db.finish().await;
}

#[tokio::test]
async fn a_projects_budget_binds_it_alone_and_a_tenants_all_of_them() {
    let scene = at_noon().await;
    scene.join("a", &[(16 * GB, 16_000)]).await;
    let other = scene.another_tenant("other").await;
    // In these scenes a tenant's first project has its identifier.
    give(&scene, scene.tenant, Some(ProjectId(scene.tenant.0)), &[time(60, Period::Day)]).await;
    scene.endpoint(2, GB, 1000).await;
    scene.endpoint_of(other, 2, GB, 1000).await;
    scene.tick().await;
    assert_eq!(scene.placed().await.len(), 3, "the other tenant is not bound");
    let told = reasons(&scene).await;
    assert!(told[0].1.starts_with("its project's budget of 60 accelerator-seconds"), "{told:?}");
    // One that has no project's budget is bound by its tenant's.
    give(&scene, other, None, &[time(119, Period::Day)]).await;
    crate::quotas::give(&scene, scene.tenant, 16_000, None).await;
    scene.tick().await;
    assert_eq!((scene.placed().await.len(), figures(&scene, other).await), (3, (0, 120, -1)));
    let mut tx = scene.db.store.system().await.unwrap();
    let all = store::budgets::list(&mut tx, Some(other), scene.now).await.unwrap();
    assert_eq!((all.len(), all[0].id), (1, NodeId::Tenant(other).id()));
    drop(tx);
    scene.db.finish().await;
}

#[tokio::test]
async fn history_has_what_ended_and_what_runs_by_day() {
    let mut scene = at_noon().await;
    let worker = scene.join("a", &[(8 * GB, 8000)]).await;
    scene.endpoint(2, GB, 500).await;
    scene.tick().await;
    pass(&mut scene, worker, 30).await;
    replicas(&scene, 1).await;
    pass(&mut scene, worker, 0).await;
    let midnight = Period::Day.ends(scene.now);
    let ran = midnight.since(scene.now).as_secs();
    scene.now = midnight + Duration::from_secs(3600);
    scene.obey(worker).await;
    let history = async |tenant, project: Option<&str>, to: Timestamp| {
        let range = Range { from: midnight - Duration::from_secs(86_400), to, tenant, project };
        let mut tx = scene.db.store.system().await.unwrap();
        let days = history::accelerators(&mut tx, range, scene.now).await.unwrap();
        days.into_iter().map(|day| (day.project.to_string(), day.accelerator_seconds)).collect::<Vec<_>>()
    };
    let later = midnight + Duration::from_secs(86_400);
    // Half a core each: two for 30 s, then one until midnight and an hour of the next day.
    let both = [("sandbox".to_owned(), 1800), ("sandbox".to_owned(), 30 + ran / 2)];
    assert_eq!(history(None, None, later).await, both);
    assert_eq!(history(Some(scene.tenant), Some("sandbox"), later).await, both);
    assert_eq!(history(None, None, midnight).await, both[1..]);
    assert_eq!(history(Some(scene.tenant), Some("other"), later).await, []);
    let other = scene.another_tenant("other").await;
    assert_eq!(history(Some(other), None, later).await, []);
    balanced(&scene).await;
    scene.db.finish().await;
}

#[tokio::test]
async fn history_is_seen_by_those_whom_it_concerns() {
    let platform = Platform::start().await;
    let minister = platform.tenant("health").await;
    let foreign = platform.tenant("justice").await;
    let sandbox =
        "FROM projects WHERE slug = 'sandbox' AND tenant_id = (SELECT id FROM tenants WHERE slug = 'health')";
    for sql in [
        format!("INSERT INTO accelerator_usage SELECT tenant_id, id, 'cpu', '2026-03-01', 5400000000 {sandbox}"),
        format!(
            "INSERT INTO usage (id, tenant_id, project_id, request_id, model, version_digest, prompt_tokens, completion_tokens, accelerator_ms, at)
             SELECT gen_random_uuid(), tenant_id, id, gen_random_uuid(), 'm', sha256('m'), 5, 3, 1, '2026-03-01T12:00:00Z' {sandbox}"
        ),
    ] {
        platform.system.set(&sql).await;
    }
    let path = "/api/v1/usage/history?from=2026-03-01&to=2026-03-02";
    let own = platform.ok(Method::GET, path, &minister, None).await;
    assert_eq!(
        own,
        json!({"from": "2026-03-01T00:00:00Z", "to": "2026-03-03T00:00:00Z",
            "accelerators": [{"day": "2026-03-01", "tenant": "health", "project": "sandbox", "class": "cpu",
                "accelerator_seconds": 5400}],
            "tokens": [{"day": "2026-03-01", "tenant": "health", "project": "sandbox", "requests": 1,
                "prompt_tokens": 5, "completion_tokens": 3}]})
    );
    let admin = platform.admin.clone();
    assert_eq!(platform.ok(Method::GET, path, &admin, None).await, own);
    let nothing = platform.ok(Method::GET, path, &foreign, None).await;
    assert_eq!((&nothing["accelerators"], &nothing["tokens"]), (&json!([]), &json!([])));
    let elsewhere = platform.ok(Method::GET, &format!("{path}&project=other"), &admin, None).await;
    assert_eq!(elsewhere["accelerators"], json!([]));
    for (query, says) in [
        ("from=2026-03-02&to=2026-03-01", "from must be before to"),
        ("from=2020-03-02&to=2026-03-01", "at most 400 days"),
        ("from=yesterday", "must be a day"),
    ] {
        let path = format!("/api/v1/usage/history?{query}");
        let (status, refusal) = platform.call(Method::GET, &path, &admin, None).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refusal}");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    platform.system.db.finish().await;
}

#[tokio::test]
async fn rules_of_the_database_are_those_of_the_domain() {
    let scene = Scene::new().await;
    assert_eq!(scene.db.count("SELECT reserve_ms()").await, RESERVE_SECS * 1000);
    for moment in ["2026-12-31T23:59:59.999999Z", "2028-02-29T00:00:00Z", "2026-03-01T00:00:00.000001Z"] {
        let moment: Timestamp = moment.parse().unwrap();
        for period in [Period::Day, Period::Month] {
            let sql = format!(
                "SELECT period_begins('{}', '{moment}') = '{}'::timestamptz",
                period.as_str(),
                period.begins(moment)
            );
            let same: bool = rows(&mut scene.db.superuser().await, &sql).await.unwrap()[0].get(0);
            assert!(same, "{moment} {period:?}");
        }
    }
    scene.db.finish().await;
}

fn line(class: Option<&str>, period: &str, limit: i64) -> Value {
    match class {
        Some(class) => {
            json!({"counts": "accelerator_seconds", "class": class, "period": period, "limit": limit})
        }
        None => json!({"counts": "tokens", "period": period, "limit": limit}),
    }
}

#[tokio::test]
async fn budgets_are_set_and_seen_by_those_whom_they_concern() {
    let platform = Platform::start().await;
    let admin = platform.admin.clone();
    let minister = platform.tenant("health").await;
    let foreign = platform.tenant("justice").await;
    let put = |path: &'static str, who: &str, lines: Value| {
        let (who, body) = (who.to_owned(), json!({ "budgets": lines }));
        async { platform.call(Method::PUT, path, &{ who }, Some(body)).await }
    };
    let tenants = "/api/v1/tenants/health/budgets";
    let projects = "/api/v1/projects/sandbox/budgets?tenant=health";

    for (lines, says) in [
        (json!([line(Some("none"), "day", 1)]), "accelerator class that does not exist"),
        (json!([line(Some("cpu"), "day", -1)]), "each limit must be 0 to"),
        (json!([line(Some("cpu"), "day", 1), line(Some("cpu"), "month", 1)]), "names cpu twice"),
        (json!([{"counts": "accelerator_seconds", "period": "day", "limit": 1}]), "must name the class"),
        (json!([{"counts": "tokens", "class": "cpu", "period": "day", "limit": 1}]), "must name no class"),
        (json!([line(Some("cpu"), "year", 1)]), "period"),
    ] {
        let (status, refusal) = put(tenants, &admin, lines).await;
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY || status == StatusCode::BAD_REQUEST, "{refusal}");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    let (status, none) = platform.call(Method::GET, tenants, &minister, None).await;
    assert_eq!((status, &none["budgets"]), (StatusCode::OK, &json!([])), "what was refused changed nothing");

    let (status, node) = put(tenants, &admin, json!([line(Some("cpu"), "month", 3600)])).await;
    assert_eq!((status, &node["budgets"][0]["free"]), (StatusCode::OK, &json!(3600)), "{node}");
    assert!(node["budgets"][0]["period_ends"].as_str().unwrap().ends_with("01T00:00:00Z"), "{node}");
    // A ministry divides what it has, and sets itself no more.
    let (status, _) = put(tenants, &minister, json!([line(Some("cpu"), "month", 7200)])).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, node) = put(projects, &minister, json!([line(Some("cpu"), "day", 60)])).await;
    assert_eq!(status, StatusCode::OK, "{node}");
    assert_eq!(
        (&node["kind"], &node["name"], &node["tenant"]),
        (&json!("project"), &json!("sandbox"), &json!("health"))
    );

    let own = platform.ok(Method::GET, "/api/v1/budgets", &minister, None).await;
    let names: Vec<&str> =
        own["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["health", "sandbox"]);
    let theirs = platform.ok(Method::GET, "/api/v1/budgets", &foreign, None).await;
    assert_eq!(theirs, json!({"nodes": []}), "another ministry sees none of it");
    let (status, _) = platform.call(Method::GET, tenants, &foreign, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let all = platform.ok(Method::GET, "/api/v1/budgets", &admin, None).await;
    assert_eq!(all, own);

    // Set again, it is the same budget; left out, it is none.
    let (_, again) = put(projects, &minister, json!([line(Some("cpu"), "month", 90)])).await;
    assert_eq!((&again["budgets"][0]["revision"], &again["budgets"][0]["limit"]), (&json!(2), &json!(90)));
    let (_, none) = put(projects, &minister, json!([])).await;
    assert_eq!(none["budgets"], json!([]));
    let (status, _) = platform.call(Method::DELETE, projects, &minister, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = platform.call(Method::DELETE, tenants, &admin, None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(platform.ok(Method::GET, "/api/v1/budgets", &admin, None).await, theirs);
    platform.system.db.finish().await;
}
