//! Tests of the quota planner.

mod corners;
mod dsl;
mod extensions;
mod scenarios;
