//! What holds whatever happens, tried on random trees, workloads and sequences
//! of operations. `PROPTEST_CASES` tries more of them.

use proptest::prelude::*;

use super::drive::Drive;
use super::generate::{ALL, Case, case};

/// As many cases as the environment says, else `cases`.
fn cases(cases: u32) -> ProptestConfig {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if told { default } else { ProptestConfig { cases, ..default } }
}

fn run(case: &Case) -> Drive {
    let mut drive = Drive::new(case);
    for op in &case.ops {
        drive.step(op);
    }
    drive
}

proptest! {
    #![proptest_config(cases(200))]

    /// The tree equals its recomputation, no limit is exceeded in either view,
    /// nobody loses what is their own, floors and budgets hold, and nobody
    /// waits who need not.
    #[test]
    fn the_books_are_right_whatever_happens(case in case(ALL)) {
        run(&case);
    }
}
