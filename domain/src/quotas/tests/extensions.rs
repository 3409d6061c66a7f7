//! What is added to the model: limits of projects, budgets, parts of
//! endpoints, memory of usage, promises.

use super::dsl::*;
use crate::quotas::*;

#[test]
fn a_project_is_limited_within_its_tenant() {
    let mut world = classical("tenant t 10\nproject t/small 2\nproject t/other 10");
    world.arrives(&["t/small a 1 *3", "t/other b 5"]);
    assert_eq!(world.said(), "admit a#1; admit a#2; admit b");
    let why = world.why("a#3");
    assert_eq!((why.level, why.asked, why.free), (Level::Quota, 1000, 0));
    assert_eq!(why.node, Some(world.node("t/small")));
    assert_eq!(world.figures("t/small").used, 2000);
    assert_eq!(world.figures("t").used, 7000);
    world.ends(&["a#1"]);
    assert_eq!(world.said(), "admit a#3");
}

#[test]
fn a_project_that_has_no_limit_uses_its_tenants_quota() {
    let mut world = classical("tenant t 3\nproject t/x 2");
    world.arrives(&["t/unknown a 3"]);
    assert_eq!(world.is("a"), Some(Standing::Admitted));
}

#[test]
fn only_its_own_projects_work_is_preempted_for_a_projects_limit() {
    let tree = "cohort R
        tenant t in R 10 within lower reclaim any
        project t/x 2
        tenant u in R 0";
    let mut world = classical(tree).runs(&["t/x mine 2 p-1", "t other 3 p-5", "u guest 5 p-9"]);
    world.arrives(&["t/x new 2 p1"]);
    assert_eq!(world.said(), "evict mine for new by within_tenant; promise new");
}

#[test]
fn budgets_are_reserved_and_settled() {
    let mut world = classical("tenant t 10 tokens 100\nproject t/x 10 tokens 60");
    let budget = |w: &World, node: &str| w.admissions.budget(w.node(node), &BudgetKind::Tokens).unwrap();
    world.arrives(&["t/x a 1 tokens 50", "t/x b 1 tokens 40", "t c 1 tokens 50", "t d 1 tokens 1"]);
    assert_eq!(world.said(), "admit a; admit c");
    assert_eq!((budget(&world, "t").reserved, budget(&world, "t/x").reserved), (100, 50));
    let why = world.why("b");
    assert_eq!((why.level, why.asked, why.free, why.never), (Level::Budget, 40, 10, false));
    assert_eq!(why.node, Some(world.node("t/x")));
    // It spent less than it reserved: the rest is free for others.
    world.admissions.release(world.ids["a"], &[(BudgetKind::Tokens, 10)], at(world.now));
    world.cycle();
    assert_eq!(world.said(), "admit b");
    assert_eq!((budget(&world, "t").spent, budget(&world, "t").reserved), (10, 90));
    world.admissions.begin_period(world.node("t"), &BudgetKind::Tokens);
    world.admissions.release(world.ids["c"], &[(BudgetKind::Tokens, 49)], at(world.now));
    world.cycle();
    assert_eq!(world.said(), "admit d");
    assert_eq!(budget(&world, "t"), BudgetState { limit: 100, spent: 49, reserved: 41 });
}

#[test]
fn more_than_a_budget_is_never() {
    let mut world = classical("tenant t 10 tokens 100");
    world.arrives(&["t a 1 tokens 101"]);
    assert!(world.why("a").never);
}

#[test]
fn what_was_spent_may_exceed_what_was_reserved() {
    let mut world = classical("tenant t 10 tokens 100");
    world.arrives(&["t a 1 tokens 90"]);
    world.admissions.release(world.ids["a"], &[(BudgetKind::Tokens, 120)], at(world.now));
    let budget = world.admissions.budget(world.node("t"), &BudgetKind::Tokens).unwrap();
    assert_eq!(budget.free(), -20);
    world.arrives(&["t b 1 tokens 1", "t c 1"]);
    assert_eq!(world.why("b").free, 0);
    assert_eq!(world.is("c"), Some(Standing::Admitted), "it spends nothing");
}

#[test]
fn surplus_replicas_go_before_needed_ones() {
    let mut world = classical("tenant t 4 within lower").runs(&["t r 1 *3 of chat min 1", "t job 1"]);
    world.arrives(&["t new 2 p1"]);
    // The newest is the job; replicas above the minimum go before it.
    assert_eq!(
        world.said(),
        "evict r#3 for new by within_tenant; evict r#2 for new by within_tenant; promise new"
    );
}

#[test]
fn guaranteed_replicas_are_safe_from_other_tenants() {
    let tree = "cohort R
        tenant a in R 4 reclaim any
        tenant b in R 0 within lower";
    let mut world = classical(tree).runs(&["b r 1 *4 of chat min 3 floor 2"]);
    world.arrives(&["a one 1", "a two 1", "a three 1"]);
    assert_eq!(world.is("one"), Some(Standing::Promised));
    assert_eq!(world.is("two"), Some(Standing::Promised));
    assert_eq!(world.is("three"), Some(Standing::Pending));
    assert_eq!(world.victims(), "r r");
    // Its own tenant may take them.
    world.leave();
    world.arrives(&["b urgent 1 p9"]);
    assert_eq!(world.is("urgent"), Some(Standing::Promised), "{:?}", world.log);
}

#[test]
fn a_gang_is_admitted_and_evicted_whole() {
    let mut world = classical("tenant t 10 within lower");
    world.arrives(&["t gang 2 x5", "t more 3 x3 p1"]);
    assert_eq!(world.said(), "admit more");
    let mut world = classical("tenant t 10 within lower").runs(&["t gang 2 x5"]);
    world.arrives(&["t new 1 p1"]);
    assert_eq!(world.said(), "evict gang for new by within_tenant; promise new");
    assert_eq!(world.figures("t").used, 10_000, "all of it until it has left");
    world.ends(&["gang"]);
    assert_eq!(world.figures("t").used, 1000);
}

#[test]
fn what_was_used_lately_comes_after_what_was_not() {
    let settings =
        Settings { fair_sharing: false, history: Some(History { half_life_secs: 100, penalty_secs: 0 }) };
    let mut world = World::new("cohort R 1\ntenant a in R 0\ntenant b in R 0", settings);
    world.arrives(&["a old 1"]);
    world.now += 50;
    world.arrives(&["a next 1 p5", "b next_b 1"]);
    world.ends(&["old"]);
    assert_eq!(world.said(), "admit old; admit next_b", "priority does not make up for it");
    // When it has faded, priority counts again.
    world.now += 20_000;
    world.arrives(&["b last 1 p-1"]);
    world.ends(&["next_b"]);
    assert_eq!(world.said(), "admit next");
}

#[test]
fn projects_of_a_tenant_are_told_apart_by_what_they_used() {
    let settings =
        Settings { fair_sharing: false, history: Some(History { half_life_secs: 3600, penalty_secs: 0 }) };
    let mut world = World::new("tenant t 1\nproject t/x 1\nproject t/y 1", settings);
    world.arrives(&["t/x old 1"]);
    world.now += 100;
    world.arrives(&["t/x again 1 p9", "t/y first 1"]);
    world.ends(&["old"]);
    assert_eq!(world.said(), "admit old; admit first");
}

#[test]
fn a_burst_pays_at_once() {
    for (penalty_secs, expected) in [(0, "admit burst"), (600, "admit steady")] {
        let history = Some(History { half_life_secs: 36_000, penalty_secs });
        let mut world = World::new(
            "cohort R 1\ntenant a in R 0\ntenant b in R 0\ntenant c in R 0",
            Settings { fair_sharing: false, history },
        );
        // Many short ones, against one that took longer than all of them.
        world.arrives(&["a short 1 *5"]);
        for name in ["short#1", "short#2", "short#3", "short#4", "short#5"] {
            world.ends(&[name]);
        }
        world.arrives(&["b long 1"]);
        world.now += 60;
        world.ends(&["long"]);
        world.arrives(&["c now 1"]);
        world.arrives(&["a burst 1", "b steady 1"]);
        world.said();
        world.ends(&["now"]);
        assert_eq!(world.said(), expected);
    }
}

#[test]
fn a_promised_room_is_nobody_elses() {
    let mut world = classical("tenant t 4 within lower").runs(&["t low 2 p-1 *2"]);
    world.arrives(&["t big 4 p1"]);
    assert_eq!(world.is("big"), Some(Standing::Promised));
    world.ends(&["low#1"]);
    world.arrives(&["t small 1"]);
    assert_eq!(world.is("small"), Some(Standing::Pending), "the room is promised");
    world.ends(&["low#2"]);
    assert_eq!(world.is("big"), Some(Standing::Admitted));
}

#[test]
fn a_promise_is_kept_as_soon_as_anything_leaves() {
    let mut world = classical("tenant t 4 within lower").runs(&["t low 2 p-1", "t other 2"]);
    world.arrives(&["t new 2 p1"]);
    assert_eq!(world.said(), "evict low for new by within_tenant; promise new");
    world.ends(&["other"]);
    assert_eq!(world.said(), "admit new");
}

#[test]
fn a_promise_can_be_recalled_for_something_more_important() {
    let mut world = classical("tenant t 2 within lower").runs(&["t low 2 p-1"]);
    world.arrives(&["t mid 2 p1"]);
    world.arrives(&["t high 2 p2"]);
    assert_eq!(
        world.said(),
        "evict low for mid by within_tenant; promise mid; recall mid for high; promise high"
    );
    world.ends(&["low"]);
    assert_eq!(world.said(), "admit high");
    world.ends(&["high"]);
    assert_eq!(world.said(), "admit mid");
}

#[test]
fn a_withdrawn_preemptor_leaves_its_room() {
    let mut world = classical("tenant t 2 within lower").runs(&["t low 2 p-1"]);
    world.arrives(&["t mid 2 p1", "t next 2"]);
    world.ends(&["mid"]);
    assert_eq!(world.is("next"), Some(Standing::Promised));
    world.ends(&["low"]);
    assert_eq!(world.is("next"), Some(Standing::Admitted));
}

#[test]
fn an_operators_eviction_promises_the_room_to_the_next() {
    let mut world = classical("tenant t 2").runs(&["t old 2"]);
    world.arrives(&["t next 2"]);
    assert!(world.admissions.evict(world.ids["old"], at(world.now)));
    assert!(!world.admissions.evict(world.ids["old"], at(world.now)), "once");
    world.cycle();
    assert_eq!(world.said(), "promise next");
    world.ends(&["old"]);
    assert_eq!(world.said(), "admit next");
}

#[test]
fn acceptable_classes_are_tried_in_order() {
    let tree = "cohort R
        tenant t in R 2 of h100 2
        tenant u in R 4";
    let mut world = classical(tree);
    world.arrives(&["t one 2 or h100", "t two 2 or h100", "t three 2 or h100", "t four 3 or h100"]);
    // Own quota of the second class before borrowing in the first.
    assert_eq!(world.said(), "admit one on gpu; admit two on h100; admit three on gpu");
}

#[test]
fn borrowing_comes_before_preempting_unless_told_otherwise() {
    for (policy, expected) in
        [("", "admit new on h100"), ("preempt-first", "evict low for new by within_tenant; promise new")]
    {
        let tree = format!(
            "cohort R
            tenant t in R 2 of h100 0 within lower {policy}
            tenant u in R 0 of h100 4"
        );
        let mut world = classical(&tree).runs(&["t low 2 p-1"]);
        world.arrives(&["t new 2 p1 or h100"]);
        assert_eq!(world.said(), expected);
    }
}

#[test]
fn partial_admission_preempts_for_the_whole_first() {
    let mut world = classical("tenant t 10 within lower").runs(&["t low 5 p-1", "t high 2 p9"]);
    world.arrives(&["t new 1 x8 min 2 p1"]);
    assert_eq!(world.said(), "evict low for new by within_tenant; promise new");
    let mut world = classical("tenant t 10 within lower").runs(&["t low 1 p-1", "t high 5 p9"]);
    world.arrives(&["t new 1 x8 min 2 p1"]);
    assert_eq!(world.said(), "admit new x4");
    let mut world = classical("tenant t 10 within lower").runs(&["t low 3 p-1", "t high 7 p9"]);
    world.arrives(&["t new 1 x8 min 2 p1"]);
    assert_eq!(world.said(), "evict low for new by within_tenant; promise new");
}

#[test]
fn holds_say_what_keeps_a_workload() {
    let mut world = classical("tenant t 2");
    let mut hold = |name: &str, hold: Option<Hold>| {
        let id = world.ids.get(name).copied();
        if let Some(id) = id {
            assert!(world.admissions.set_hold(id, hold));
        }
        world.cycle();
    };
    hold("none", None);
    world.arrives(&["t first 2", "t second 2", "t third 2"]);
    let zone = Hold { level: Level::Zone, detail: "zone north is full".into() };
    assert!(world.admissions.set_hold(world.ids["second"], Some(zone)));
    let why = world.why("second");
    assert_eq!((why.level, why.detail.as_deref()), (Level::Zone, Some("zone north is full")));
    world.ends(&["first"]);
    assert_eq!(world.said(), "admit first; admit third");
    assert!(!world.admissions.set_hold(world.ids["third"], None), "it does not wait");
    assert!(world.admissions.set_hold(world.ids["second"], None));
    world.ends(&["third"]);
    assert_eq!(world.said(), "admit second");
}
