//! What tenants and projects may spend of accelerators' time.

use std::time::Duration;

use proptest::prelude::*;

use crate::budgets::{Period, TimeBudget};
use crate::cases::cases;
use crate::planner::simulation::World;
use crate::planner::*;
use crate::quotas::Level;

const GB: u64 = 1_000_000_000;

fn budget(limit_secs: i64, period: Period) -> TimeBudget {
    TimeBudget {
        project: None,
        class: "cpu".to_owned(),
        period,
        limit: limit_secs * 1000,
        settled_ms: 0,
        began: Timestamp::UNIX_EPOCH,
    }
}

/// A tenant with one job of as many shares, on enough devices.
fn world(budgets: Vec<TimeBudget>, shares: u32) -> (World, WorkloadOwner) {
    let mut world = World::new(1);
    world.add_worker("cpu", 4, 8 * GB, 4000);
    let owner = world.add_job(GB, 1000);
    world.snapshot.intents.get_mut(&owner).unwrap().count = shares;
    let tenant = world.snapshot.intents[&owner].tenant_id;
    world.snapshot.budgets.insert(tenant, budgets);
    (world, owner)
}

fn placed(world: &World) -> usize {
    world.snapshot.placements.len()
}

fn later(world: &mut World, secs: u64) {
    world.now = world.now + Duration::from_secs(secs);
    world.report();
}

fn waits(decisions: &[Decision]) -> Vec<(Option<Level>, &str)> {
    let waits = decisions.iter().filter_map(|decision| match decision {
        Decision::Wait { level, reason, .. } => Some((*level, &**reason)),
        _ => None,
    });
    waits.collect()
}

#[test]
fn each_reserves_a_minute_and_is_charged_what_it_ran() {
    let (mut world, _) = world(vec![budget(150, Period::Day)], 3);
    let decisions = world.settle_kept();
    assert_eq!(placed(&world), 2, "two of a minute each");
    let why = "its tenant's budget of 150 accelerator-seconds of class cpu a day is spent or reserved but for \
               30 accelerator-seconds, and it would reserve 60 accelerator-seconds; its period ends at \
               1970-01-02T00:00:00Z";
    assert_eq!(waits(&decisions), [(Some(Level::Budget), why)]);

    // What runs on spends more, and is left alone though nothing is left.
    later(&mut world, 3600);
    world.settle_kept();
    assert_eq!(placed(&world), 2);
    // It ended having run for less than it reserved: room for the next.
    let (mut world, _) = self::world(vec![budget(150, Period::Day)], 3);
    world.settle_kept();
    let first = *world.snapshot.placements.keys().next().unwrap();
    later(&mut world, 20);
    let ended = world.snapshot.placements[&first].workload_id;
    world.snapshot.settle_time(first, world.now);
    world.snapshot.end_placement(first);
    world.snapshot.workloads.remove(&ended);
    world.settle_kept();
    assert_eq!(placed(&world), 2, "20 spent, 120 reserved");
    assert_eq!(waits(&world.settle_kept()), []);
}

#[test]
fn a_new_period_lets_begin_what_waits_and_is_told() {
    let (mut world, _) = world(vec![budget(60, Period::Day)], 2);
    world.settle_kept();
    assert_eq!(placed(&world), 1);
    later(&mut world, 86_399);
    world.settle_kept();
    assert_eq!(placed(&world), 1, "a second too early");
    // What still runs reserves its minute of the new period: nothing else begins,
    // and is told when that ends.
    later(&mut world, 1);
    let told = world.settle_kept();
    assert_eq!(placed(&world), 1);
    assert!(waits(&told)[0].1.ends_with("its period ends at 1970-01-03T00:00:00Z"), "{told:?}");
    let first = *world.snapshot.placements.keys().next().unwrap();
    let ended = world.snapshot.placements[&first].workload_id;
    world.snapshot.settle_time(first, world.now);
    world.snapshot.end_placement(first);
    world.snapshot.workloads.remove(&ended);
    world.settle_kept();
    assert_eq!(placed(&world), 1, "what ended at midnight has spent nothing of the new day");
    assert_ne!(*world.snapshot.placements.keys().next().unwrap(), first);
}

#[test]
fn a_cut_ends_nothing_and_a_raise_lets_begin() {
    let (mut world, owner) = world(vec![budget(120, Period::Month)], 3);
    world.settle_kept();
    assert_eq!(placed(&world), 2);
    let tenant = world.snapshot.intents[&owner].tenant_id;
    world.snapshot.budgets.insert(tenant, vec![budget(0, Period::Month)]);
    let told = world.settle_kept();
    assert_eq!(placed(&world), 2);
    let why = "it would reserve 60 accelerator-seconds of class cpu, which is more than its tenant's budget of \
               0 accelerator-seconds a month";
    assert_eq!(waits(&told), [(Some(Level::Budget), why)]);
    world.snapshot.budgets.insert(tenant, vec![budget(180, Period::Month)]);
    world.settle_kept();
    assert_eq!(placed(&world), 3);
    world.snapshot.budgets.remove(&tenant);
    assert_eq!(world.settle_kept(), []);
}

#[test]
fn a_project_has_its_own_and_another_class_does_for_one_that_is_spent() {
    let (mut world, owner) = world(Vec::new(), 2);
    world.add_worker("other", 1, 8 * GB, 1000);
    let intent = world.snapshot.intents.get_mut(&owner).unwrap();
    intent.resources.alternatives = vec!["other".to_owned()];
    let (tenant, project) = (intent.tenant_id, intent.project_id);
    let of_project = TimeBudget { project: Some(project), ..budget(60, Period::Day) };
    world.snapshot.budgets.insert(tenant, vec![budget(600, Period::Day), of_project]);
    let decisions = world.settle_kept();
    let mut classes: Vec<_> = world.snapshot.placements.values().map(|p| p.class.clone()).collect();
    classes.sort();
    assert_eq!(classes, ["cpu", "other"], "{decisions:?}");
    // Another project of the tenant has the tenant's budget still.
    let beside = world.add_job(GB, 1000);
    world.snapshot.intents.get_mut(&beside).unwrap().tenant_id = tenant;
    world.settle_kept();
    assert_eq!(placed(&world), 3);
}

#[test]
fn old_records_know_no_budgets() {
    let empty = Snapshot::empty(Timestamp::UNIX_EPOCH);
    let text = serde_json::to_string(&empty).unwrap();
    assert!(!text.contains("budgets"), "{text}");
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), empty);
}

proptest! {
    #![proptest_config(cases(200))]

    /// Whatever happens, nothing is placed beyond a budget, nothing that runs is
    /// ended for one, and nothing waits for one that has room.
    #[test]
    fn budgets_are_kept_and_keep_nobody_for_nothing(seed: u64, several_classes: bool) {
        println!("seed {seed}, {several_classes}");
        let mut world = World::new(seed);
        (world.several_classes, world.budgets) = (several_classes, true);
        for _ in 0..60 {
            world.happen();
            world.check();
            if world.random.below(10) == 0 {
                world.fail_over();
            }
            world.settle_kept();
            world.check_settled();
        }
        let mut replay = Replay::default();
        for page in &world.pages {
            replay.read(&page.line).unwrap();
        }
    }

    /// The same with quotas, and tenants that have several projects.
    #[test]
    fn budgets_and_quotas_are_kept_together(seed: u64) {
        println!("seed {seed}");
        let mut world = World::with_cohorts(seed);
        world.budgets = true;
        for _ in 0..60 {
            world.happen();
            world.check();
            world.settle_kept();
            world.check_settled();
        }
    }
}
