//! Tests of the quota planner.

mod corners;
mod drive;
mod dsl;
mod extensions;
mod found;
mod generate;
mod model;
mod properties;
mod scenarios;
