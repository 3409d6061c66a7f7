//! Faults that the properties found, each as a case of its own.

use super::dsl::*;
use crate::quotas::*;

/// A tenant that borrows one resource lost work that only used its own of
/// another.
#[test]
fn what_a_tenant_borrows_of_one_resource_does_not_expose_another() {
    for world in [classical, fair] {
        let tree = "cohort R
            tenant a in R 2 of h100 2 reclaim any
            tenant b in R 2 of h100 2 reclaim any
            tenant c in R 0 of h100 0";
        let mut world = world(tree).runs(&["b mine 2 on h100", "b more 3", "c guest 2 on h100"]);
        world.arrives(&["a new 2 on h100"]);
        assert_eq!(world.victims(), "guest");
    }
}

/// It had to borrow nothing of what it asked for, and was refused for the
/// share of something else.
#[test]
fn reclaiming_ones_own_does_not_depend_on_shares_of_other_resources() {
    let tree = "cohort R
        cohort C in R
        tenant a in C 2 of h100 0 reclaim any
        tenant d in C 0 of h100 0
        tenant b in R 2 of h100 4 reclaim any";
    let mut world = fair(tree).runs(&["d other 3 on h100", "b b 1 *4"]);
    world.arrives(&["a new 2"]);
    assert_eq!(world.victims(), "b b");
}

/// What a tenant kept and keeps no more went to nobody.
#[test]
fn what_is_kept_no_more_is_for_others() {
    let tree = "cohort R
        tenant a in R 2 strict
        tenant b in R 0";
    let mut world = classical(tree).runs(&["b old 1"]);
    world.arrives(&["a big 2", "b waits 1"]);
    assert_eq!(world.is("waits"), Some(Standing::Pending), "it is kept for big");
    world.arrives(&["a huge 3 p1"]);
    world.ends(&["big"]);
    assert_eq!(world.is("waits"), Some(Standing::Admitted));
}

/// Started from a snapshot, one tenant took what another kept, since that had
/// not been tried yet.
#[test]
fn what_is_kept_does_not_depend_on_what_was_tried() {
    let tree = "cohort R
        tenant a in R 2
        tenant b in R 1
        tenant c in R 0";
    let mut world = classical(tree).runs(&["c old 2"]);
    world.arrives(&["a never 1 on h100", "a big 2", "c new 1"]);
    assert_eq!(world.said(), "");
    let mut again = Admissions::from_snapshot(world.admissions.snapshot()).unwrap();
    assert_eq!(again.cycle(at(world.now), usize::MAX), vec![]);
}

/// Started from a snapshot, promises were kept in another order.
#[test]
fn promises_keep_their_order_in_a_snapshot() {
    let mut world = classical("tenant t 4").runs(&["t old 2 *2"]);
    world.arrives(&["t second 2", "t first 2 p1"]);
    for old in ["old#1", "old#2"] {
        world.admissions.evict(world.ids[old], at(world.now));
    }
    world.cycle();
    assert_eq!(world.said(), "promise first; promise second");
    world.admissions = Admissions::from_snapshot(world.admissions.snapshot()).unwrap();
    world.ends(&["old#1"]);
    assert_eq!(world.said(), "admit first");
}

/// A replica that is promised its room does not stand in for one that runs.
#[test]
fn a_promised_replica_does_not_make_up_for_a_running_one() {
    let tree = "cohort R
        tenant a in R 2 reclaim any
        tenant b in R 1 within lower";
    let mut world = classical(tree).runs(&["b r 1 *2 of chat floor 2", "b low 1 p-5"]);
    world.arrives(&["b more 1 p1 of chat floor 2"]);
    assert_eq!(world.said(), "evict low for more by within_tenant; promise more");
    world.arrives(&["a new 1"]);
    assert!(world.said().starts_with("recall more for new; promise new"), "both go on running");
}

/// What a tenant kept and what it was woken for counted twice, so that others
/// were not tried for what was their own.
#[test]
fn all_that_got_room_of_their_own_are_tried() {
    let tree = "cohort R
        tenant a in R 1
        tenant b in R 1
        tenant c in R 1";
    let mut world = classical(tree).runs(&["a a 1", "b b 1", "c c 1"]);
    world.arrives(&["a a2 1", "b b2 1", "c c2 1"]);
    assert_eq!(world.said(), "");
    world.ends(&["a", "b", "c"]);
    assert_eq!(world.said(), "admit a2; admit b2; admit c2");
}

/// What one tenant kept made another's cohort a borrower, whose work had to
/// leave though it used less than its own.
#[test]
fn what_is_kept_makes_nobody_a_borrower() {
    let tree = "cohort R
        cohort C in R 1
        tenant a in R 5 reclaim any
        tenant b in C 0
        tenant c in C 4
        tenant d in R 0";
    let mut world = classical(tree).runs(&["a old 4", "b guest 2", "d other 1"]);
    world.arrives(&["c big 4"]);
    assert_eq!(world.said(), "", "it is kept for big");
    world.arrives(&["a new 1"]);
    assert_eq!(world.said(), "admit new", "it is its own");
}

/// A share that grew by an admission let another preempt, which tried only when
/// something was freed.
#[test]
fn who_may_preempt_by_a_share_that_grew_tries_at_once() {
    let tree = "cohort R 6 of h100 4
        cohort C in R
        tenant a in R 2 reclaim lower
        tenant b in C 2 of h100 0";
    let mut world = fair(tree).runs(&["a mine 4", "b old 1 *5"]);
    world.arrives(&["a new 2 p1"]);
    assert_eq!(world.said(), "");
    world.arrives(&["b other 3 on h100"]);
    assert_eq!(world.said(), "admit other; evict old#5 for new by fair_share; promise new");
}
