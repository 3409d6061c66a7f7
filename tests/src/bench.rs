//! What the benchmarks of the scheduler share (`tests/examples/*_bench.rs`): a
//! platform with durable commits and the scheduler's own loop, ministries with
//! quotas and jobs, and workers that are played.

pub mod fleet;
pub mod jobs;
pub mod measure;
pub mod ministries;
pub mod platform;
pub mod random;
pub mod sql;
