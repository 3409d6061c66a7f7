//! Corners of the model.

use super::dsl::*;
use crate::quotas::*;

#[test]
fn what_is_not_listed_cannot_be_borrowed() {
    let mut world = classical("cohort R 5\ntenant a in R\ntenant b in R 0");
    world.arrives(&["a no 1", "b yes 1", "b other 1 on h100"]);
    assert_eq!(world.said(), "admit yes");
    let why = world.why("no");
    assert_eq!((why.level, why.free, why.never), (Level::Quota, 0, true));
    assert!(world.why("other").never);
}

#[test]
fn a_cut_kills_nothing_and_admits_nothing() {
    let mut world = classical("cohort R\ntenant a in R 6\ntenant b in R 0").runs(&["a a 1 *5", "b b 1"]);
    world.change("a", |spec| spec.quotas.values_mut().for_each(|q| q.nominal = 3 * UNIT));
    assert_eq!(world.said(), "");
    assert_eq!(world.figures("a").available, -3 * UNIT);
    world.arrives(&["a new 1", "b more 0"]);
    assert_eq!(world.why("new").free, 0);
    world.ends(&["a#1", "a#2", "a#3"]);
    assert_eq!(world.is("new"), Some(Standing::Pending));
    world.ends(&["a#4"]);
    assert_eq!(world.is("new"), Some(Standing::Admitted));
}

#[test]
fn more_quota_counts_at_once() {
    let mut world = classical("tenant a 1");
    world.arrives(&["a a 1 *3"]);
    assert_eq!(world.said(), "admit a#1");
    world.change("a", |spec| spec.quotas.values_mut().for_each(|q| q.nominal = 2 * UNIT));
    assert_eq!(world.said(), "admit a#2");
}

#[test]
fn changes_keep_promises_and_places() {
    let mut world = classical("tenant t 4 within lower").runs(&["t low 2 p-1 *2"]);
    world.arrives(&["t big 4 p1", "t small 1"]);
    world.said();
    world.change("t", |spec| spec.weight_milli = 2000);
    assert_eq!(world.is("big"), Some(Standing::Promised));
    world.ends(&["low#1", "low#2"]);
    assert_eq!(world.said(), "admit big");
}

#[test]
fn a_tenant_gone_from_the_tree_waits() {
    let mut world = classical("cohort R 4\ntenant a in R 0").runs(&["a old 1"]);
    let cohort = world.node("R");
    let only = vec![NodeSpec::new(cohort, None)];
    world.admissions.reconfigure(Settings::default(), only).unwrap();
    world.arrives(&["a new 1"]);
    assert_eq!(world.is("old"), Some(Standing::Admitted));
    assert!(world.why("new").never);
}

#[test]
fn strict_order_lets_nobody_overtake() {
    let mut world = classical("tenant t 4 strict").runs(&["t old 2"]);
    world.arrives(&["t big 3", "t small 1"]);
    assert_eq!(world.said(), "");
    assert_eq!(world.why("big").level, Level::Quota);
    let behind = world.admissions.why(world.ids["small"]).unwrap();
    assert_eq!((behind.position, behind.why.unwrap().level), (2, Level::Priority));
    // A more important one goes before the head, and does not unblock it.
    world.arrives(&["t urgent 1 p1"]);
    assert_eq!(world.said(), "admit urgent");
    world.ends(&["old"]);
    assert_eq!(world.said(), "admit big");
    world.ends(&["urgent"]);
    assert_eq!(world.said(), "admit small");
}

#[test]
fn a_withdrawn_strict_head_lets_the_next_try() {
    let mut world = classical("tenant t 4 strict").runs(&["t old 2"]);
    world.arrives(&["t big 3", "t small 1"]);
    world.ends(&["big"]);
    assert_eq!(world.said(), "admit small");
}

#[test]
fn best_effort_lets_what_fits_overtake() {
    let mut world = classical("tenant t 4").runs(&["t old 2"]);
    world.arrives(&["t big 3", "t small 1"]);
    assert_eq!(world.said(), "admit small");
    let waiting = world.admissions.waiting(world.tenant("t"));
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].1.position, waiting[0].1.of), (1, 1));
}

#[test]
fn whoever_borrows_less_goes_first() {
    let mut world = classical("cohort R\ntenant a in R 1\ntenant b in R 3");
    world.arrives(&["a old 1"]);
    world.said();
    world.arrives(&["a borrows 3 p9", "b owns 3"]);
    assert_eq!(world.said(), "admit owns");
}

#[test]
fn borrowing_nearby_comes_before_borrowing_far() {
    let tree = "cohort R 1
        cohort near in R 2
        tenant a in near 0
        cohort far in R
        tenant b in far 0";
    let mut world = classical(tree);
    world.arrives(&["b b 2 p9", "a a 2"]);
    assert_eq!(world.said(), "admit a");
}

#[test]
fn priority_then_age_then_identifier() {
    let mut world = classical("tenant t 1").runs(&["t old 1"]);
    world.arrives(&["t b 1 at 20", "t a 1 at 10", "t c 1 at 30 p1", "t d 1 at 10"]);
    for expected in ["c", "a", "d", "b"] {
        let last = world.standing(Standing::Admitted)[0];
        let name = world.names[&last].clone();
        world.ends(&[&name]);
        assert_eq!(world.log.pop().unwrap(), format!("admit {expected}"));
    }
}

#[test]
fn limits_of_cohorts_bind_those_below() {
    let tree = "cohort R
        cohort C in R 2 borrows 1
        tenant a in C 0
        tenant b in R 9";
    let mut world = classical(tree);
    world.arrives(&["a a 4", "a b 3"]);
    assert_eq!(world.said(), "admit b");
    let why = world.why("a");
    assert_eq!((why.level, why.node, why.never), (Level::BorrowingLimit, Some(world.node("C")), true));
}

#[test]
fn what_is_not_lent_stays_free() {
    let tree = "cohort R
        tenant a in R 6 lends 2
        tenant b in R 0";
    let mut world = classical(tree);
    world.arrives(&["b b 1 *3"]);
    assert_eq!(world.said(), "admit b#1; admit b#2");
    assert_eq!(world.why("b#3").level, Level::Cohort);
    assert_eq!(world.figures("a").available, 4 * UNIT);
    assert_eq!(world.figures("R").subtree, 2 * UNIT);
    world.arrives(&["a a 4"]);
    assert_eq!(world.figures("R").used, 2 * UNIT, "its own part does not count above");
}

#[test]
fn four_levels_add_up() {
    let tree = "cohort top 1
        cohort mid in top 2
        cohort low in mid 3 lends 4
        tenant a in low 4
        tenant b in top 0";
    let mut world = classical(tree);
    assert_eq!(world.figures("low").subtree, 7 * UNIT);
    assert_eq!(world.figures("mid").subtree, 6 * UNIT);
    assert_eq!(world.figures("top").subtree, 7 * UNIT);
    world.arrives(&["a a 5"]);
    assert_eq!(world.figures("low").used, 5 * UNIT);
    assert_eq!(world.figures("mid").used, 2 * UNIT);
    world.arrives(&["b b 6"]);
    assert_eq!(world.why("b").free, 5 * UNIT);
    world.arrives(&["a all 5"]);
    assert_eq!(world.is("all"), Some(Standing::Admitted), "10 = 1 + 2 + 7");
}

#[test]
fn equal_and_newer_may_be_preempted_where_that_is_the_policy() {
    let mut world = classical("tenant t 2 within newer").runs(&["t young 1 at 500", "t old 1 at 100"]);
    world.arrives(&["t between 1 at 300"]);
    assert_eq!(world.said(), "evict young for between by within_tenant; promise between");
    let mut world = classical("tenant t 2 within newer").runs(&["t one 1 at 200", "t two 1 at 100"]);
    world.arrives(&["t latest 1 at 300"]);
    assert_eq!(world.said(), "");
    // An older one of the same kind may do what a younger could not.
    world.arrives(&["t oldest 1 at 150"]);
    assert_eq!(world.said(), "evict one for oldest by within_tenant; promise oldest");
}

#[test]
fn other_tenants_go_before_ones_own() {
    let tree = "cohort R
        tenant a in R 4 within lower reclaim any
        tenant b in R 0";
    let mut world = classical(tree).runs(&["a own 2 p-5", "b guest 2 p5"]);
    world.arrives(&["a new 2 p1"]);
    assert_eq!(world.said(), "evict guest for new by reclaim; promise new");
}

#[test]
fn reclaiming_stops_where_borrowing_ends() {
    let tree = "cohort R
        tenant a in R 4 reclaim any
        tenant b in R 4";
    let mut world = classical(tree).runs(&["b b 1 *6"]);
    world.arrives(&["a new 4"]);
    assert_eq!(world.victims(), "b b");
    world.leave();
    assert_eq!(world.figures("b").used, 4 * UNIT);
    world.arrives(&["a more 1"]);
    assert_eq!(world.victims(), "");
}

#[test]
fn lower_priority_only_where_that_is_the_policy() {
    let tree = "cohort R
        tenant a in R 4 reclaim lower
        tenant b in R 0";
    let mut world = classical(tree).runs(&["b same 2", "b low 2 p-1"]);
    world.arrives(&["a one 2", "a two 2"]);
    assert_eq!(world.victims(), "low");
    assert_eq!(world.why("two").level, Level::Priority);
}

#[test]
fn the_lowest_share_is_served_first() {
    let tree = "cohort R 4
        tenant a in R 0
        tenant b in R 0 weight 3";
    let mut world = fair(tree);
    world.arrives(&["a a 1 *4", "b b 1 *4"]);
    world.said();
    let used = |w: &World, n: &str| w.figures(n).used / UNIT;
    assert_eq!((used(&world, "a"), used(&world, "b")), (2, 2), "one head each a round");
    for name in ["a#1", "a#2", "b#1", "b#2"] {
        if world.is(name) == Some(Standing::Admitted) {
            world.ends(&[name]);
        }
    }
    assert_eq!(used(&world, "a") + used(&world, "b"), 4);
    assert!(used(&world, "b") >= 2);
}

#[test]
fn shares_are_compared_at_each_level() {
    // C's tenants together borrow more than d: d is served first, though c1
    // itself borrows nothing yet.
    let tree = "cohort R 6
        cohort C in R
        tenant c1 in C 0
        tenant c2 in C 0
        tenant d in R 0";
    let mut world = fair(tree).runs(&["c2 c 1 *3", "d d 1 *2"]);
    world.arrives(&["c1 new 1 p9", "d next 1"]);
    assert_eq!(world.said(), "admit next");
    assert_eq!(world.admissions.tree().dominant_share(world.node("d")).unwrap().per_mille(), Some(500));
}

#[test]
fn a_subtree_that_does_not_borrow_is_protected() {
    let tree = "cohort R
        cohort C in R 4
        tenant c1 in C 0 reclaim any
        tenant c2 in C 0 reclaim any
        tenant d in R 2 reclaim any";
    let mut world = fair(tree).runs(&["c1 c 1 *4", "d d 1 *2"]);
    world.arrives(&["d more 1"]);
    assert_eq!(world.said(), "", "C uses its own");
    world.arrives(&["c2 fair 1"]);
    assert_eq!(world.said(), "evict c#4 for fair by fair_share; promise fair");
}

#[test]
fn other_classes_are_not_touched() {
    let tree = "cohort R
        tenant a in R 2 of h100 2 reclaim any
        tenant b in R 0 of h100 0";
    let mut world = classical(tree).runs(&["b here 2", "b there 2 on h100"]);
    world.arrives(&["a new 2 on h100"]);
    assert_eq!(world.victims(), "there");
}

#[test]
fn decisions_come_in_portions() {
    let mut world = classical("cohort R\ntenant a in R 6\ntenant b in R 6");
    world.arrives(&[]);
    let tree = "cohort R\ntenant a in R 6\ntenant b in R 6";
    let whole = {
        let mut world = classical(tree);
        world.arrives(&["a a 1 *8", "b b 2 *4"]);
        world.said()
    };
    let mut world = classical(tree);
    for portion in 1..4 {
        let mut portions = Vec::new();
        world = classical(tree);
        let mut other = classical(tree);
        other.arrives(&["a a 1 *8", "b b 2 *4"]);
        for ask in other.asks.values() {
            world.admissions.enqueue(ask.clone()).unwrap();
        }
        while !world.admissions.is_settled() {
            let some = world.admissions.cycle(at(5000), portion);
            assert!(some.len() <= portion);
            portions.extend(some.iter().map(|d| other.say(d)));
        }
        portions.sort();
        let mut expected: Vec<_> = whole.split("; ").map(str::to_owned).collect();
        expected.sort();
        assert_eq!(portions, expected);
    }
    assert!(world.admissions.cycle(at(5001), 10).is_empty(), "a second cycle finds nothing");
}

#[test]
fn nonsense_is_refused() {
    let cohort = |n| NodeId::Cohort(crate::CohortId(uuid::Uuid::from_u128(n)));
    let spec = |n, parent| NodeSpec::new(cohort(n), parent);
    let error = |nodes: &[NodeSpec]| Tree::new(nodes).unwrap_err();
    assert_eq!(error(&[spec(1, None), spec(1, None)]), TreeError::Twice(cohort(1)));
    assert_eq!(error(&[spec(1, Some(cohort(2)))]), TreeError::Parent(cohort(1)));
    let ring = [spec(1, Some(cohort(2))), spec(2, Some(cohort(1)))];
    assert_eq!(error(&ring), TreeError::Depth(cohort(1)));
    let mut negative = spec(1, None);
    negative.quotas.insert(Key::milli("gpu"), Quota { nominal: -1, ..Quota::default() });
    assert_eq!(error(&[negative]), TreeError::Amount(cohort(1)));

    let mut world = classical("tenant t 1");
    world.arrives(&["t a 1"]);
    let ask = world.asks[&world.ids["a"]].clone();
    let refused = |world: &mut World, ask: Ask| world.admissions.enqueue(ask).unwrap_err();
    assert_eq!(refused(&mut world, ask.clone()), QuotaError::Known(ask.id));
    let other = Ask { id: crate::WorkloadId(uuid::Uuid::from_u128(99)), ..ask };
    let none = Ask { options: vec![], ..other.clone() };
    assert_eq!(refused(&mut world, none), AskError::Options.into());
    assert_eq!(refused(&mut world, Ask { count: 0, ..other.clone() }), AskError::Count.into());
    let huge = Ask { options: vec![vec![(Key::milli("gpu"), MAX_AMOUNT)]], count: 2, ..other.clone() };
    assert_eq!(refused(&mut world, huge), AskError::Amount.into());
    let twice = Ask { options: vec![vec![(Key::milli("gpu"), 1), (Key::milli("gpu"), 1)]], ..other };
    assert_eq!(refused(&mut world, twice), AskError::Amount.into());
}

#[test]
fn huge_quotas_saturate() {
    let all: Vec<NodeSpec> = (0..400u128)
        .map(|n| {
            let id = crate::TenantId(uuid::Uuid::from_u128(n + 2));
            let parent = NodeId::Cohort(crate::CohortId(uuid::Uuid::from_u128(1)));
            let mut spec = NodeSpec::new(NodeId::Tenant(id), Some(parent));
            let quota = Quota { nominal: MAX_AMOUNT, borrowing_limit: Some(MAX_AMOUNT), lending_limit: None };
            spec.quotas.insert(Key::milli("gpu"), quota);
            spec
        })
        .collect();
    let root = NodeId::Cohort(crate::CohortId(uuid::Uuid::from_u128(1)));
    let nodes: Vec<NodeSpec> = [NodeSpec::new(root, None)].into_iter().chain(all).collect();
    let tree = Tree::new(&nodes).unwrap();
    let figures = tree.figures(root, &Key::milli("gpu")).unwrap();
    assert_eq!(figures.subtree, MAX_TOTAL);
    assert_eq!(figures.available, MAX_TOTAL);
}

#[test]
fn a_snapshot_replays() {
    let tree = "cohort R
        tenant a in R 4 within lower reclaim any tokens 100
        project a/x 3
        tenant b in R 0";
    let mut world = classical(tree).runs(&["b b 1 *4", "a/x low 1 p-1"]);
    world.arrives(&["a/x big 3 p1 tokens 7", "b more 1", "a other 1 or h100"]);
    let snapshot = world.admissions.snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    let read: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(read, snapshot);
    let mut again = Admissions::from_snapshot(read).unwrap();
    assert!(again.cycle(at(world.now), usize::MAX).is_empty(), "everything was decided");
    assert_eq!(again.snapshot(), snapshot);
}
