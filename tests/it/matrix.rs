//! Who may do what: every operation of the router, asked by every kind of
//! caller, against a table that is committed; and, in `alike`, that what belongs
//! to another answers like what never was.

mod alike;
mod scene;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reqwest::{Method, StatusCode};
use scene::{Caller, Scene, Stand};
use serde_json::{Value, json};
use uuid::Uuid;

/// The table of decisions. `CHANCERY_UPDATE_GOLDEN=1` writes it anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/it/matrix/decisions.txt");
/// Requests that end the session they come with: asked last.
const LAST: &[&str] = &["delete_session"];
/// Where one's own account and sessions are.
const OWN: &[&str] = &["/api/v1/me", "/api/v1/sessions", "/api/v1/installation"];

/// An operation of the document.
struct Operation {
    name: String,
    method: Method,
    route: String,
    public: bool,
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut operations = Vec::new();
    for (route, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push(Operation {
                name: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                route: route.clone(),
                public: operation["security"] == json!([{}]),
            });
        }
    }
    operations.sort_by_key(|o| (LAST.contains(&&*o.name), o.route.clone(), o.method.to_string()));
    operations
}

impl Operation {
    fn names_something(&self) -> bool {
        self.route.contains('{')
    }

    fn reads(&self) -> bool {
        self.method == Method::GET
    }
}

/// Asks, and counts refused mutations, which must all be recorded.
async fn ask(
    scene: &Scene,
    operation: &Operation,
    caller: &Caller,
    path: &str,
    refused: &mut i64,
) -> StatusCode {
    let mut request = scene.request(&operation.method, path, caller);
    if caller.stand.harms_nothing() && !operation.reads() {
        // It can harm nothing, so it may get as far as it can.
        let key = Uuid::now_v7().to_string();
        request = request.header("if-match", "*").header("idempotency-key", key).json(&body(&operation.name));
    }
    let status = request.send().await.unwrap().status();
    let known = caller.stand != Stand::Nobody;
    // What would have left with an export is recorded where it is refused, too.
    let recorded = !operation.reads() || operation.name == "export_tenant";
    if known && recorded && [403, 404].contains(&status.as_u16()) {
        *refused += 1;
    }
    assert!(!status.is_server_error() || status == 503, "{} by {}: {status}", operation.name, caller.name);
    status
}

/// `401`, `403`, `404`, or `ok`: the caller may do this and the request went on.
async fn decision(scene: &Scene, operation: &Operation, caller: &Caller, refused: &mut i64) -> String {
    let of_tenant = |path: String| match caller.stand {
        // Their own account and sessions are in no tenant.
        Stand::Platform if OWN.iter().any(|own| path.starts_with(own)) => path,
        Stand::Platform if path.contains('?') => format!("{path}&tenant=interior"),
        Stand::Platform => format!("{path}?tenant=interior"),
        Stand::Foreign if !operation.names_something() => format!("{path}?tenant=interior"),
        _ => path,
    };
    let real = of_tenant(scene.path(&operation.route, true));
    let harmless = if operation.reads() || caller.stand.harms_nothing() || caller.stand == Stand::Nobody {
        real.clone()
    } else {
        of_tenant(scene.path(&operation.route, false))
    };
    let mut status = ask(scene, operation, caller, &harmless, refused).await;
    if status == 403 && harmless != real {
        status = ask(scene, operation, caller, &real, refused).await;
    }
    match status.as_u16() {
        status @ (401 | 403) => status.to_string(),
        404 if harmless == real => "404".to_owned(),
        405 => panic!("{} has no handler", operation.name),
        _ => "ok".to_owned(),
    }
}

#[tokio::test]
async fn every_caller_may_do_what_the_table_says() {
    let scene = Scene::new().await;
    let operations = operations();
    assert!(operations.len() > 60, "the document was read");
    let readable: Vec<String> = operations
        .iter()
        .filter(|o| o.reads() && o.names_something() && !o.public)
        .map(|o| o.route.clone())
        .collect();
    let denied = "SELECT count(*) FROM audit_events WHERE verdict = 'denied'";
    let before = (scene.look(&readable).await, scene.platform.system.db.count(denied).await);
    for (path, answer) in &before.0 {
        // The control: without it, a refusal would prove nothing.
        assert!(
            answer["status"] == 200 || path.ends_with("/results") || path.starts_with("/v1/models/"),
            "{path}: {answer}"
        );
    }

    let (mut table, mut refused) = (BTreeMap::new(), 0);
    for operation in &operations {
        let mut line: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for caller in &scene.callers {
            let decision = if operation.public {
                "public".to_owned()
            } else {
                decision(&scene, operation, caller, &mut refused).await
            };
            if caller.stand == Stand::Nobody && !operation.public {
                assert_eq!(decision, "401", "{} by {}", operation.name, caller.name);
                continue;
            }
            if operation.name == "delete_tenant_quota" && decision == "ok" {
                scene.give_quotas().await;
            }
            if operation.name == "delete_tenant_budgets" && decision == "ok" {
                scene.give_budgets().await;
            }
            line.entry(decision).or_default().push(&caller.name);
        }
        table.insert(format!("{} {} {}", operation.name, operation.method, operation.route), line);
    }
    for (path, answer) in scene.look(&readable).await {
        assert_eq!(answer, before.0[&path], "a refused request changed {path}");
    }
    let recorded = scene.platform.system.db.count(denied).await - before.1;
    assert_eq!(recorded, refused, "each refused mutation has one record");
    compare(&print(&table));
    scene.platform.system.stop().await;
}

/// The table as text, an operation and a decision a line.
fn print(table: &BTreeMap<String, BTreeMap<String, Vec<&str>>>) -> String {
    let mut text = String::from(
        "# Who may do what with the objects of another's, or their own, ministry. Generated by the test\n\
         # `matrix`, compared by it; callers without a valid credential get 401 everywhere.\n",
    );
    for (operation, decisions) in table {
        writeln!(text, "\n{operation}").unwrap();
        for (decision, callers) in decisions {
            if decision == "public" {
                writeln!(text, "  public").unwrap();
            } else {
                writeln!(text, "  {decision}: {}", callers.join(", ")).unwrap();
            }
        }
    }
    text
}

fn compare(found: &str) {
    if std::env::var_os("CHANCERY_UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, found).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    let first = found.lines().zip(committed.lines()).find(|(found, committed)| found != committed);
    assert!(
        found == committed,
        "decisions changed, first at {first:?}. If that is meant, run this test with CHANCERY_UPDATE_GOLDEN=1 and commit {GOLDEN}"
    );
}

/// A body that the operation accepts, so that what it names is looked for.
fn body(operation: &str) -> Value {
    match operation {
        "update_endpoint" => json!({"replicas": 1}),
        "update_project" => json!({"name": "x"}),
        "put_project_member" => json!({"role": "viewer"}),
        "put_tenant_quota" | "put_project_quota" => json!({"quotas": []}),
        "put_tenant_budgets" | "put_project_budgets" => json!({"budgets": []}),
        "put_pool" => json!({"tenants": []}),
        "put_accelerator_class" => json!({"description": "x"}),
        "update_account" | "update_service_account" => json!({"display_name": "x"}),
        "set_group_mappings" => json!({"mappings": []}),
        "update_identity_provider" => json!({"enabled": true}),
        _ => json!({}),
    }
}
