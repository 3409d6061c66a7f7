//! What holds in any simulation, tried on random fleets, quotas and traces.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::{cluster, scenario, what_if};
use crate::cases::cases;
use crate::planner::{Decision, Snapshot, plan};
use crate::quotas::{Key, NodeId, NodeSpec, Tree};
use crate::simulate::outcome::MOST_REASONS;
use crate::simulate::{ClusterSpec, Job, Outcome, Simulation, WhatIfSpec};
use crate::workloads::WorkloadState;

const TENANTS: [&str; 3] = ["health", "interior", "justice"];
const CLASSES: [&str; 2] = ["x", "y"];
/// Half of the jobs would do with the other class too.
const CHOICES: usize = 4;

#[derive(Clone, Debug)]
struct Case {
    cluster: ClusterSpec,
    change: WhatIfSpec,
    jobs: Vec<Job>,
}

fn group(name: &'static str) -> impl Strategy<Value = Value> {
    (1..4u32, 0..2usize, 1..4u32, 0..3u64, 0..40u64).prop_map(move |(count, class, devices, memory, at)| {
        json!({
            "name": name, "count": count, "class": CLASSES[class], "devices": devices,
            "memory_bytes": memory * 4, "at_secs": at,
        })
    })
}

fn tenant(name: &'static str) -> impl Strategy<Value = Value> {
    let amount = || (0..5i64).prop_map(|n| n * 1000);
    let policies = (
        prop_oneof![Just("never"), Just("lower_priority"), Just("lower_or_newer_equal_priority")],
        prop_oneof![Just("never"), Just("lower_priority"), Just("any")],
        prop_oneof![Just("best_effort_fifo"), Just("strict_fifo")],
    );
    (option::weighted(0.8, (amount(), amount(), option::of(amount()))), policies, 1..4u32).prop_map(
        move |(quota, (within, reclaim, strategy), weight)| {
            let Some((x, y, limit)) = quota else { return json!({ "name": name }) };
            json!({
                "name": name, "cohort": "all", "weight_milli": weight * 1000,
                "policies": { "within": within, "reclaim": reclaim, "strategy": strategy },
                "quotas": [
                    { "class": "x", "nominal": x, "borrowing_limit": limit },
                    { "class": "y", "nominal": y, "lending_limit": limit },
                ],
            })
        },
    )
}

fn job() -> impl Strategy<Value = Job> {
    let milli = prop_oneof![Just(1000u32), Just(500), 1..1000u32, Just(2000)];
    (0..60u64, 0..3usize, 0..CHOICES, milli, 1..50u64, -2..3i32, 1..4u32, (0..6u64, 0..2u8)).prop_map(
        |(arrival, tenant, class, milli, duration, priority, count, (memory, model))| Job {
            line: 2,
            arrival_us: arrival * 1_000_000,
            tenant: TENANTS[tenant].parse().unwrap(),
            project: None,
            model: (model == 0).then(|| "shared".to_owned()),
            request: crate::accelerators::ResourceRequest {
                class: CLASSES[class % 2].to_owned(),
                alternatives: (class > 1).then(|| CLASSES[1 - class % 2].to_owned()).into_iter().collect(),
                memory_bytes: memory,
                milli,
            },
            duration_us: duration * 1_000_000,
            priority,
            count,
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let tenants = || (tenant(TENANTS[0]), tenant(TENANTS[1]), tenant(TENANTS[2]));
    let change = (
        option::of(group("c")),
        option::of(0..60u64),
        option::of(0..60u64),
        option::of((tenants(), 0..60u64)),
    );
    let base = (group("a"), group("b"), tenants(), proptest::bool::ANY, 0..20u64);
    (base, change, vec(job(), 0..40)).prop_map(|((a, b, tenants, fair, drain), change, jobs)| {
        let (add, cordon, remove, quotas) = change;
        let list = |tenants: (Value, Value, Value)| json!([tenants.0, tenants.1, tenants.2]);
        let pick = |name: &str, at: Option<u64>| {
            json!(at.map(|at| json!({ "workers": name, "count": 1, "at_secs": at })).into_iter().collect::<Vec<_>>())
        };
        let (later, at) = quotas.map_or((json!([]), 0), |(tenants, at)| (list(tenants), at));
        Case {
            cluster: cluster(json!({
                "fair_sharing": fair, "drain_secs": drain, "workers": [a, b],
                "cohorts": [{ "name": "all" }], "tenants": list(tenants),
            })),
            change: what_if(json!({
                "add": add.into_iter().collect::<Vec<_>>(), "cordon": pick("a", cordon), "remove": pick("b", remove),
                "tenants": later, "quotas_at_secs": at,
            })),
            jobs,
        }
    })
}

/// Plays a case, looking at every moment.
fn play(case: &Case, change: Option<&WhatIfSpec>, look: impl Fn(&Snapshot, &[NodeSpec])) -> Outcome {
    let scenario = scenario(&case.cluster, change, &case.jobs);
    let mut simulation = Simulation::new(&scenario, &case.jobs, None).unwrap();
    let mut steps = 0;
    // Quotas that were cut below what runs are exceeded until that has ended.
    let mut quotas = Vec::new();
    while simulation.step().unwrap().is_some() {
        let facts = simulation.facts();
        if quotas.is_empty() {
            quotas.clone_from(&facts.quotas);
        }
        if quotas == facts.quotas {
            look(facts, &quotas);
        } else {
            look(facts, &[]);
        }
        steps += 1;
        assert!(steps < 10_000, "it does not end");
    }
    // Nobody is left over who could be placed.
    let facts = simulation.facts();
    let rest = plan(facts, facts.leading_since);
    assert!(!rest.iter().any(|decision| matches!(decision, Decision::Place { .. })), "{rest:#?}");
    simulation.outcome("same")
}

/// No device is over-committed, nobody is there twice, no quota is exceeded.
fn look(facts: &Snapshot, quotas: &[NodeSpec]) {
    let mut held: BTreeMap<_, (u64, u32)> = BTreeMap::new();
    for placement in facts.placements.values() {
        for hold in &placement.holds {
            let held = held.entry(hold.device_id).or_default();
            *held = (held.0 + hold.memory_bytes, held.1 + hold.milli);
        }
        assert_eq!(placement.holds.len(), 1);
        assert!(facts.workers[&placement.worker_id].live, "it is on a worker that is gone");
    }
    for device in facts.workers.values().flat_map(|worker| &worker.devices) {
        let (memory, milli) = held.get(&device.id).copied().unwrap_or_default();
        assert_eq!((memory, milli), (device.used_memory_bytes, device.used_milli));
        assert!(memory <= device.memory_bytes && milli <= device.milli, "{device:?} is over-committed");
    }
    let placed = facts.workloads.values().filter(|w| w.state == WorkloadState::Placed).count();
    assert_eq!(placed, facts.placements.len());
    let mut tree = Tree::new(quotas).unwrap();
    for placement in facts.placements.values() {
        tree.count(
            NodeId::Tenant(placement.tenant_id),
            &Key::milli(&placement.class),
            placement.resources.milli.into(),
        );
    }
    for node in quotas {
        for key in node.quotas.keys() {
            let figures = tree.figures(node.id, key).unwrap();
            assert!(figures.available >= 0, "{:?} uses more {key:?} than it may: {figures:?}", node.id);
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// Whatever happens, nothing is over-committed, no quota is exceeded, and each
    /// piece of work ends once or is said to be left over.
    #[test]
    fn the_fleet_holds_what_it_can_and_no_work_is_lost(case in case()) {
        for change in [None, Some(&case.change)] {
            let outcome = play(&case, change, look);
            let work = outcome.work;
            let pieces: u64 = case.jobs.iter().map(|job| u64::from(job.count)).sum();
            prop_assert_eq!(work.pieces, pieces);
            prop_assert_eq!((work.running, work.to_come), (0, 0));
            prop_assert_eq!(work.finished + work.waiting, pieces);
            let told: u64 = outcome.left_over.iter().map(|left| left.pieces).sum();
            // Only the most frequent reasons are told.
            let all_told = outcome.left_over.len() < MOST_REASONS;
            prop_assert!(told == work.waiting || !all_told && told < work.waiting, "{told} of {work:?}");
            let of_tenants = outcome.tenants.iter().fold((0, 0, 0), |sum, tenant| {
                (sum.0 + tenant.arrived, sum.1 + tenant.finished, sum.2 + tenant.preempted)
            });
            prop_assert_eq!(of_tenants, (pieces, work.finished, outcome.preemptions.total));
            // What ran its time is used, and what was broken off wasted.
            let used: f64 = outcome.classes.iter().map(|class| class.used_hours).sum();
            let shared: f64 = outcome.tenants.iter().map(|tenant| tenant.used_hours).sum();
            prop_assert!((used - shared).abs() < 1e-6);
            for class in &outcome.classes {
                prop_assert!(class.utilisation_pct + class.fragmentation_pct <= 100.0 + 1e-6, "{class:?}");
            }
            if work.waiting == 0 {
                let asked: f64 = case.jobs.iter().map(|job| {
                    f64::from(job.request.milli) * f64::from(job.count) * job.duration_us as f64 / 3.6e12
                }).sum();
                prop_assert!((used - asked - outcome.preemptions.wasted_hours).abs() < 1e-6);
            }
            prop_assert!(outcome.jain.is_none_or(|jain| (0.0..=1.0).contains(&jain)));
        }
    }

    /// The same inputs give the same outcome, and a change of nothing changes nothing.
    #[test]
    fn the_same_is_the_same(case in case()) {
        let base = play(&case, None, |_, _| {});
        prop_assert_eq!(&base, &play(&case, None, |_, _| {}));
        let nothing = what_if(json!({}));
        prop_assert_eq!(&base, &play(&case, Some(&nothing), |_, _| {}));
        prop_assert_eq!(play(&case, Some(&case.change), |_, _| {}), play(&case, Some(&case.change), |_, _| {}));
    }
}
