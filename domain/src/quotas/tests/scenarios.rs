//! The published scenarios: what is there, what comes, who must go.

use super::dsl::*;
use crate::quotas::Standing;

const C: &str = "cohort R
    tenant c1 in R 6 borrows 6 within lower reclaim lower
    tenant c2 in R 6 borrows 6 reclaim any";
const S: &str = "tenant s 6 within lower";
const F: &str = "cohort R
    tenant a in R 3 within lower reclaim any
    tenant b in R 3 within lower reclaim any
    tenant c in R 3 within lower reclaim any
    tenant zero in R 0 within lower reclaim any";
const LEND: &str = "cohort R
    tenant lend1 in R 6 lends 4 within lower reclaim lower
    tenant lend2 in R 6 lends 2 within lower reclaim lower";
const SHARED: &str = "cohort R 11
    tenant A_std in R 1 within lower reclaim lower threshold 0
    tenant B_std in R 1 within lower reclaim lower threshold 0
    tenant A_be in R 0 within lower reclaim lower
    tenant B_be in R 0 within lower reclaim lower";
const TREE: &str = "cohort R
    cohort C in R 2
    tenant q in C 0 reclaim any
    tenant qb in R 0";
const TREE_AND_QN: &str = "cohort R
    cohort C in R 2
    tenant q in C 0 reclaim any
    tenant qb in R 0
    tenant qn in R 2";

struct Case {
    number: u32,
    fair: bool,
    tree: &'static str,
    runs: &'static [&'static str],
    arrives: &'static str,
    /// Victims' names; `-` for none and not admitted, `` for admitted as is.
    evicts: &'static str,
}

const fn classical_case(
    number: u32,
    tree: &'static str,
    runs: &'static [&'static str],
    arrives: &'static str,
    evicts: &'static str,
) -> Case {
    Case { number, fair: false, tree, runs, arrives, evicts }
}

const fn fair_case(
    number: u32,
    tree: &'static str,
    runs: &'static [&'static str],
    arrives: &'static str,
    evicts: &'static str,
) -> Case {
    Case { number, fair: true, tree, runs, arrives, evicts }
}

const CASES: &[Case] = &[
    classical_case(1, S, &["s low 2 p-1", "s mid 2", "s high 2 p1"], "s new 2 p1", "low"),
    classical_case(2, S, &["s low 3 p-1", "s mid 3"], "s new 4", "-"),
    classical_case(3, S, &["s low 1 p-1", "s mid 2", "s high 3 p1"], "s new 2 p1", "mid"),
    classical_case(4, S, &["s low 3 p-1", "s mid 3"], "s new 1 p-1", "-"),
    classical_case(5, C, &["c1 low 3 p-1", "c2 mid 3", "c2 high 6 p1"], "c1 new 3 p1", "mid"),
    // Nobody goes: what is free may be borrowed.
    classical_case(6, C, &["c1 high 4 p1", "c2 low 4 p-1"], "c1 new 4 p1", ""),
    classical_case(7, C, &["c1 high 4 p1", "c2 low 4 p-1 *2"], "c1 new 4 p1", "-"),
    classical_case(8, LEND, &["lend1 low 3 p-1", "lend2 mid 3", "lend2 high 4 p1"], "lend1 new 3 p1", "mid"),
    classical_case(9, LEND, &["lend2 low 10 p-1"], "lend1 new 9", "-"),
    classical_case(
        10,
        "cohort R\ntenant a in R 3 lends 2\ntenant b in R 2 lends 2",
        &["b old 2"],
        "b new 3",
        "-",
    ),
    classical_case(11, SHARED, &["A_be low 10 p-1", "B_be small 1 p-1"], "A_std new 10", "low"),
    classical_case(12, SHARED, &["B_std old 10 p1"], "A_std new 10 p2", "-"),
    classical_case(13, SHARED, &["B_std old 13 p1"], "A_std new 1 p2", "old"),
    classical_case(15, TREE, &["qb old 2"], "q new 2", "old"),
    classical_case(16, TREE_AND_QN, &["qb old 2", "qn safe 2 p-10"], "q new 2", "old"),
    fair_case(17, F, &["a a 1 *3", "b b 1 *5", "c c 1"], "c new 1", "b"),
    fair_case(18, F, &["a a 1 *3", "b b 1 *5", "c c 1"], "a new 1", "b"),
    fair_case(19, F, &["a a 1 *3", "b b 1 *5"], "a new 2", "-"),
    fair_case(20, F, &["b b 9"], "a new 2", "b"),
    fair_case(21, F, &["a a 2", "b b 7"], "a new 5", "-"),
    fair_case(
        22,
        "cohort R
        tenant a in R 3 weight 2 within lower reclaim any
        tenant b in R 3 within lower reclaim any
        tenant c in R 3 within lower reclaim any",
        &["a a 1 *3", "b b 1 *6"],
        "a new 2",
        "b b",
    ),
    fair_case(24, F, &["a a 3.5", "b b 2.5", "c c 2.5"], "b new 2", "-"),
    classical_case(25, "tenant s 50", &[], "s new 2 x50 min 20", ""),
];

#[test]
fn published_scenarios() {
    for case in CASES {
        let world = if case.fair { fair(case.tree) } else { classical(case.tree) };
        let mut world = world.runs(case.runs);
        world.arrives(&[case.arrives]);
        let expected = if case.evicts == "-" { "" } else { case.evicts };
        assert_eq!(world.victims(), expected, "victims of {}: {:?}", case.number, world.log);
        let standing = match case.evicts {
            "-" => Standing::Pending,
            "" => Standing::Admitted,
            _ => Standing::Promised,
        };
        assert_eq!(world.is("new"), Some(standing), "outcome of {}: {:?}", case.number, world.log);
        // Once the victims have left, it holds its room; they may come back
        // only where that takes nobody else's.
        if standing == Standing::Promised {
            let back = world.log.len();
            world.leave();
            assert_eq!(world.is("new"), Some(Standing::Admitted), "after {}: {:?}", case.number, world.log);
            let more: Vec<_> = world.log[back..].iter().filter(|l| l.starts_with("evict")).collect();
            assert!(more.is_empty(), "nobody preempts back in {}: {more:?}", case.number);
        }
    }
}

#[test]
fn scenarios_name_their_rules() {
    let mut world = classical(C).runs(&["c1 low 3 p-1", "c2 mid 3", "c2 high 6 p1"]);
    world.arrives(&["c1 new 3 p1"]);
    assert_eq!(world.said(), "evict mid for new by reclaim; promise new");
    let mut world = classical(S).runs(&["s low 2 p-1", "s mid 2", "s high 2 p1"]);
    world.arrives(&["s new 2 p1"]);
    assert_eq!(world.said(), "evict low for new by within_tenant; promise new");
    let mut world = classical(SHARED).runs(&["A_be low 10 p-1", "B_be small 1 p-1"]);
    world.arrives(&["A_std new 10"]);
    assert_eq!(world.said(), "evict low for new by reclaim_while_borrowing; promise new");
    let mut world = fair(F).runs(&["a a 1 *3", "b b 1 *5", "c c 1"]);
    world.arrives(&["c new 1"]);
    assert_eq!(world.said(), "evict b#5 for new by reclaim; promise new");
    let mut world = fair(F).runs(&["a a 1 *3", "b b 1 *5", "c c 1"]);
    world.arrives(&["a new 1"]);
    assert_eq!(world.said(), "evict b#5 for new by fair_share; promise new");
}

#[test]
fn scenario_14_what_cannot_be_reclaimed_is_not_lent() {
    for (reclaim, lent) in [("never", false), ("lower", false), ("any", true)] {
        let tree = format!("cohort R\ntenant A in R 2 reclaim {reclaim}\ntenant B in R 0");
        let mut world = classical(&tree).runs(&["A a1 1"]);
        world.arrives(&["A a2 2", "B b 1"]);
        assert_eq!(world.is("a2"), Some(Standing::Pending));
        let expected = if lent { Standing::Admitted } else { Standing::Pending };
        assert_eq!(world.is("b"), Some(expected), "reclaim {reclaim}: {:?}", world.log);
        world.ends(&["a1"]);
        let a2 = if lent { Standing::Promised } else { Standing::Admitted };
        assert_eq!(world.is("a2"), Some(a2), "reclaim {reclaim}: {:?}", world.log);
    }
}

#[test]
fn scenario_23_weight_zero_gives_back_all_but_its_own() {
    const WEIGHTLESS: &str = "cohort R
        tenant a in R 3 within lower reclaim any
        tenant b in R 3 weight 0 within lower reclaim any
        tenant c in R 3 within lower reclaim any";
    let mut world = fair(WEIGHTLESS).runs(&["a a 1 *3", "b b 1 *6"]);
    world.arrives(&["a new 3"]);
    assert_eq!(world.victims(), "b b b");
    let mut world = fair(WEIGHTLESS).runs(&["a a 1 *3", "b b 1 *3", "c c 1 *3"]);
    world.arrives(&["a new 1"]);
    assert_eq!(world.victims(), "");
    assert_eq!(world.is("new"), Some(Standing::Pending));
}

#[test]
fn scenario_25_admits_the_largest_count() {
    let mut world = classical("tenant s 50");
    world.arrives(&["s new 2 x50 min 20"]);
    assert_eq!(world.said(), "admit new x25");
}
