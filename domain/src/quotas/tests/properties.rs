//! What holds whatever happens, tried on random trees, workloads and sequences
//! of operations. `PROPTEST_CASES` tries more of them.

use std::collections::BTreeSet;

use proptest::prelude::{Strategy, prop_assert_eq, proptest};

use super::drive::Drive;
use super::generate::{ALL, Case, Kinds, Op, case};
use crate::cases::cases;
use crate::quotas::{Decision, Standing};

fn run(case: &Case) -> Drive {
    let mut drive = Drive::new(case);
    for op in &case.ops {
        drive.step(op);
    }
    drive
}

/// Nothing ends, and who has to leave waits again at once, until nobody has to.
fn rest(case: &Case) -> Drive {
    let mut drive = run(case);
    let mut seen = BTreeSet::new();
    loop {
        let decisions = drive.step(&Op::Cycle);
        if !decisions.iter().any(|d| matches!(d, Decision::Evict { .. })) {
            return drive;
        }
        drive.step(&Op::AllLeave);
        let holds: Vec<_> = drive
            .model
            .work
            .iter()
            .filter(|(_, w)| matches!(w.standing, Standing::Admitted | Standing::Promised))
            .map(|(id, w)| (*id, w.option, w.count))
            .collect();
        assert!(seen.insert(holds), "they preempt each other in turns");
        assert!(seen.len() < 200, "they do not come to rest");
    }
}

proptest! {
    #![proptest_config(cases(80))]

    /// The tree equals its recomputation, no limit is exceeded in either view,
    /// nobody loses what is their own, floors and budgets hold, and nobody
    /// waits who need not.
    #[test]
    fn the_books_are_right_whatever_happens(case in case(ALL)) {
        run(&case);
    }

    /// Putting any victim back would leave too little room.
    #[test]
    fn nobody_has_to_leave_in_vain(
        case in (0..4u8).prop_flat_map(|kind| {
            // Mostly many workloads over few quotas, where there is a choice.
            case(Kinds { one_key: kind > 0, deep: kind < 2, ops: 80, history: false, ..ALL })
        })
    ) {
        let mut drive = Drive::new(&case);
        for op in &case.ops {
            drive.step(op);
            if !matches!(op, Op::Cycle) {
                drive.check_searches();
            }
        }
    }

    /// No two preempt each other in turns: with endless work, preemption ends.
    #[test]
    fn preemption_comes_to_rest(
        case in (0..2u8, 0..2u8).prop_flat_map(|(deep, one_key)| {
            case(Kinds { deep: deep > 0, one_key: one_key > 0, changes: false, history: false, ..ALL })
        })
    ) {
        rest(&case);
    }

    /// Units do not matter.
    #[test]
    fn quantities_may_be_multiplied(case in case(ALL), k in 2..1_000_000i64) {
        let (mut one, mut other) = (Drive::new(&case), Drive::new(&case.scaled(k)));
        for (op, scaled) in case.ops.iter().zip(&case.scaled(k).ops) {
            prop_assert_eq!(one.step(op), other.step(scaled));
        }
    }

    /// What is decided depends on nothing but what was told.
    #[test]
    fn the_same_is_decided_of_the_same(case in case(ALL)) {
        let (mut one, mut other) = (Drive::new(&case), Drive::new(&case));
        for op in &case.ops {
            prop_assert_eq!(one.step(op), other.step(op));
        }
        prop_assert_eq!(one.admissions.snapshot(), other.admissions.snapshot());
    }

    /// One that starts from a snapshot goes on as the other would have.
    #[test]
    fn a_snapshot_goes_on_alike(case in case(Kinds { history: false, ..ALL })) {
        let (mut one, mut other) = (Drive::new(&case), Drive::new(&case));
        for op in &case.ops {
            prop_assert_eq!(one.step(op), other.step(op));
            if matches!(op, Op::Cycle) {
                other.reborn();
                prop_assert_eq!(other.cycle(), vec![]);
                prop_assert_eq!(&one.model.kept, &other.model.kept);
            }
        }
    }
}
