//! Simulations whose outcome can be worked out by hand, and what holds in any.

mod properties;
mod traces;

use std::time::Duration;

use serde_json::{Value, json};

use super::{ClusterSpec, Job, Outcome, Scenario, ScenarioError, Simulation, WhatIfSpec, jobs};

const HEADER: &str = "arrival_secs,tenant,class,milli,duration_secs";

fn cluster(value: Value) -> ClusterSpec {
    serde_json::from_value(value).unwrap()
}

fn what_if(mut value: Value) -> WhatIfSpec {
    value["name"] = json!("changed");
    serde_json::from_value(value).unwrap()
}

fn trace(lines: &[&str]) -> Vec<Job> {
    jobs::read(&format!("{HEADER}\n{}\n", lines.join("\n"))).unwrap()
}

fn scenario(cluster: &ClusterSpec, change: Option<&WhatIfSpec>, jobs: &[Job]) -> Scenario {
    Scenario::new(cluster, Vec::new(), change, jobs).unwrap()
}

fn play(cluster: &ClusterSpec, change: Option<&WhatIfSpec>, jobs: &[Job]) -> Outcome {
    play_until(cluster, change, jobs, None)
}

fn play_until(
    cluster: &ClusterSpec,
    change: Option<&WhatIfSpec>,
    jobs: &[Job],
    until: Option<Duration>,
) -> Outcome {
    let scenario = scenario(cluster, change, jobs);
    let mut simulation = Simulation::new(&scenario, jobs, until).unwrap();
    while simulation.step().unwrap().is_some() {}
    simulation.outcome("base")
}

fn one_worker(devices: u32) -> ClusterSpec {
    cluster(json!({ "workers": [{ "name": "a", "class": "x", "devices": devices }] }))
}

/// Two tenants of one device each, who lend to each other and take back.
fn lenders(drain_secs: u64) -> ClusterSpec {
    let tenant = |name: &str| {
        json!({
            "name": name, "cohort": "all", "policies": { "reclaim": "any" },
            "quotas": [{ "class": "x", "nominal": 1000 }],
        })
    };
    cluster(json!({
        "drain_secs": drain_secs,
        "workers": [{ "name": "a", "class": "x", "devices": 2 }],
        "cohorts": [{ "name": "all" }],
        "tenants": [tenant("health"), tenant("justice")],
    }))
}

#[test]
fn what_does_not_fit_waits_and_is_counted() {
    let jobs = trace(&["0,a,x,1000,10", "0,a,x,1000,10", "0,b,x,1000,10"]);
    let outcome = play(&one_worker(2), None, &jobs);
    assert_eq!((outcome.end_secs, outcome.work.finished, outcome.queue_most), (20.0, 3, 1));
    assert!((outcome.waits.mean_secs - 10.0 / 3.0).abs() < 1e-9);
    assert_eq!((outcome.waits.p50_secs, outcome.waits.p95_secs), (0.0, 10.0));
    assert_eq!((outcome.queue_mean, outcome.classes[0].utilisation_pct), (0.5, 75.0));
    assert_eq!((outcome.classes[0].accelerators, outcome.classes[0].most_used), (2.0, 2.0));
    // Tenants take turns.
    let [a, b] = &outcome.tenants[..] else { panic!("two tenants") };
    assert_eq!((a.waits.most_secs, a.arrived, a.finished), (10.0, 2, 2));
    assert_eq!((b.waits.most_secs, b.arrived, b.finished), (0.0, 1, 1));
    assert!((b.used_hours - 10.0 / 3600.0).abs() < 1e-12);
    assert!(outcome.left_over.is_empty() && !outcome.stopped);
}

#[test]
fn a_lender_takes_back_its_own_and_what_was_begun_is_lost() {
    let jobs = trace(&["0,health,x,1000,100", "0,health,x,1000,100", "10,justice,x,1000,50"]);
    let outcome = play(&lenders(5), None, &jobs);
    assert_eq!(outcome.preemptions.by_rule, [("reclaim".to_owned(), 1)].into());
    // It ran for 10 s and drained for 5, waits until justice has ended at 65 s, and
    // begins anew; justice waited for the drain.
    assert!((outcome.preemptions.wasted_hours - 15.0 / 3600.0).abs() < 1e-12);
    assert_eq!((outcome.end_secs, outcome.work.finished), (165.0, 3));
    let [health, justice] = &outcome.tenants[..] else { panic!("two tenants") };
    assert_eq!((health.waits.most_secs, health.preempted), (50.0, 1));
    assert_eq!((justice.waits.most_secs, justice.preempted), (5.0, 0));
}

#[test]
fn what_ends_within_the_drain_time_loses_nothing() {
    let jobs = trace(&["0,health,x,1000,12", "0,health,x,1000,12", "10,justice,x,1000,50"]);
    let outcome = play(&lenders(300), None, &jobs);
    assert_eq!((outcome.preemptions.total, outcome.preemptions.wasted_hours), (1, 0.0));
    assert_eq!((outcome.end_secs, outcome.work.finished), (62.0, 3));
}

#[test]
fn changes_happen_when_they_are_to() {
    let jobs = trace(&["0,a,x,1000,10", "0,a,x,1000,10", "0,a,x,1000,10"]);
    let base = one_worker(1);
    assert_eq!(play(&base, None, &jobs).end_secs, 30.0);
    let more = json!([{ "name": "b", "class": "x", "devices": 1, "at_secs": 10 }]);
    let more = what_if(json!({ "add": more }));
    assert_eq!(play(&base, Some(&more), &jobs).end_secs, 20.0);

    // Cordoned at 5 s, it ends what it runs; the rest waits for ever.
    let cordon = what_if(json!({ "cordon": [{ "workers": "a", "at_secs": 5 }] }));
    let outcome = play(&base, Some(&cordon), &jobs);
    assert_eq!((outcome.end_secs, outcome.work.finished, outcome.work.waiting), (10.0, 1, 2));
    assert_eq!((outcome.classes[0].utilisation_pct, outcome.classes[0].accelerators), (100.0, 0.0));
    let [left] = &outcome.left_over[..] else { panic!("one reason: {:?}", outcome.left_over) };
    assert!(left.pieces == 2 && left.line == 3 && left.reason.contains("cordoned"), "{left:?}");

    // Gone at 5 s, it takes what it ran with it.
    let remove = what_if(json!({ "remove": [{ "workers": "a", "at_secs": 5 }] }));
    let outcome = play(&base, Some(&remove), &jobs);
    assert_eq!((outcome.work.finished, outcome.work.waiting), (0, 3));
    assert_eq!(outcome.preemptions.lost_with_workers, 1);
    assert!((outcome.preemptions.wasted_hours - 5.0 / 3600.0).abs() < 1e-12);

    // With quota from 12 s on, one more may run.
    let none = json!({ "name": "a", "quotas": [{ "class": "x", "nominal": 0 }] });
    let bound = cluster(json!({
        "workers": [{ "name": "a", "class": "x" }], "tenants": [none],
    }));
    assert_eq!(play(&bound, None, &jobs).work.finished, 0);
    let some = json!([{ "name": "a", "quotas": [{ "class": "x", "nominal": 1000 }] }]);
    let later = what_if(json!({ "tenants": some, "quotas_at_secs": 12 }));
    assert_eq!(play(&bound, Some(&later), &jobs).end_secs, 42.0);
}

#[test]
fn time_stops_where_it_is_told_to() {
    let jobs = trace(&["0,a,x,1000,10", "0,a,x,1000,10", "20,a,x,1000,10"]);
    let outcome = play_until(&one_worker(1), None, &jobs, Some(Duration::from_secs(15)));
    assert!(outcome.stopped);
    let work = outcome.work;
    assert_eq!((work.finished, work.running, work.waiting, work.to_come), (1, 1, 0, 1));
    assert_eq!((outcome.end_secs, outcome.classes[0].used_hours), (15.0, 15.0 / 3600.0));
}

#[test]
fn what_fits_nowhere_is_left_over_with_the_planner_s_reason() {
    let mut jobs = trace(&["0,a,x,1000,10", "0,a,y,1000,10"]);
    jobs[0].request.memory_bytes = 1;
    let outcome = play(&one_worker(1), None, &jobs);
    assert_eq!((outcome.work.waiting, outcome.left_over.len()), (2, 2));
    assert!(outcome.left_over.iter().any(|left| left.reason.contains("as large as")), "{outcome:?}");
    assert!(outcome.left_over.iter().any(|left| left.reason.contains("of class y")), "{outcome:?}");
    let scenario = scenario(&one_worker(1), None, &jobs);
    assert!(jobs.iter().all(|job| !scenario.could_take(&job.request)));
    assert_eq!((scenario.largest("x"), scenario.largest("y")), (Some((1000, 0)), None));
}

#[test]
fn free_thousandths_of_no_use_are_fragments() {
    // 400 of the first device are free and no request fits there, for 10 s.
    let jobs = trace(&["0,a,x,600,10", "0,a,x,600,10"]);
    let outcome = play(&one_worker(2), None, &jobs);
    assert!((outcome.classes[0].fragmentation_pct - 40.0).abs() < 1e-9, "{outcome:?}");
    let jobs = trace(&["0,a,x,600,10", "0,a,x,400,10"]);
    let outcome = play(&one_worker(1), None, &jobs);
    assert_eq!(outcome.classes[0].fragmentation_pct, 0.0);
}

#[test]
fn shares_that_are_even_have_index_one() {
    let lines: Vec<String> =
        (0..8).map(|n| format!("0,{},x,1000,10", if n % 2 == 0 { "a" } else { "b" })).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let outcome = play(&one_worker(2), None, &trace(&lines));
    assert_eq!(outcome.jain, Some(1.0));
    // One has all and the other nothing, of two: a half.
    let jobs = trace(&["0,a,x,1000,10", "0,a,x,1000,10", "0,a,x,1000,10", "1,b,x,1000,10"]);
    let outcome = play_until(&one_worker(2), None, &jobs, Some(Duration::from_secs(9)));
    assert_eq!(outcome.jain, Some(0.5));
    assert_eq!(play(&one_worker(2), None, &trace(&["0,a,x,1000,10"])).jain, None);
}

#[test]
fn descriptions_that_cannot_be_say_why() {
    let refused = |value: Value| {
        let jobs = trace(&["0,health,x,1000,1"]);
        Scenario::new(&cluster(value), Vec::new(), None, &jobs).map(drop).unwrap_err().to_string()
    };
    let worker = json!({ "name": "a", "class": "x" });
    let with = |key: &str, value: Value| {
        let mut all = json!({ "workers": [worker] });
        all[key] = value;
        refused(all)
    };
    assert_eq!(refused(json!({})), ScenarioError::NoWorkers.to_string());
    assert!(with("workers", json!([worker, worker])).contains("workers a is there twice"));
    let many = json!([{ "name": "a", "class": "x", "count": 30000 }]);
    assert!(with("workers", many).contains("more than 20000 workers"));
    let wide = json!([{ "name": "a", "class": "x", "devices": 65 }]);
    assert!(with("workers", wide).contains("workers a: devices must be 1 to 64"));
    let other = with("tenants", json!([{ "name": "justice" }]));
    assert!(other.contains("line 2: tenant health is not in the cluster description"), "{other}");
    let orphan = json!([{ "name": "health", "cohort": "none", "quotas": [] }]);
    assert!(with("tenants", orphan).contains("tenant health names the cohort none, which is not there"));
    let below = json!([{ "name": "p", "parent": "q" }, { "name": "q", "parent": "p" }]);
    assert!(with("cohorts", below).contains("cohort p: is below itself"));
    let twice = json!([{ "name": "health", "quotas": [
        { "class": "x", "nominal": 1 }, { "class": "x", "nominal": 2 },
    ] }]);
    assert!(with("tenants", twice).contains("quotas of tenant health: names x milli twice"));
    let loose = json!([{ "name": "health", "cohort": "c" }]);
    assert!(with("tenants", loose).contains("but no quotas"));
    let picks = what_if(json!({ "cordon": [{ "workers": "b" }] }));
    let jobs = trace(&[]);
    let error = Scenario::new(&one_worker(1), Vec::new(), Some(&picks), &jobs).map(drop).unwrap_err();
    assert!(error.to_string().contains("names the workers b, which is not there"), "{error}");
}
