//! How many cases properties are tried with.

use proptest::prelude::ProptestConfig;

/// As many as `PROPTEST_CASES` says, else `cases`.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if told { default } else { ProptestConfig { cases, ..default } }
}
