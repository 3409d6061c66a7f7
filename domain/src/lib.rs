//! Types and rules of Chancery. No I/O: nothing here opens a file, a socket or
//! a database, and time and randomness come in as arguments.
#![warn(missing_docs)]

pub mod accelerators;
pub mod audit;
pub mod autoscaling;
pub mod budgets;
#[cfg(test)]
mod cases;
pub mod certificates;
pub mod deletions;
pub mod endpoints;
pub mod explanations;
pub mod files;
pub mod identity;
pub mod ids;
pub mod inference;
pub mod jobs;
pub mod keys;
pub mod models;
pub mod openai;
pub mod outbox;
mod pairs;
pub mod placing;
pub mod planner;
pub mod pools;
pub mod principals;
pub mod projects;
pub mod quotas;
pub mod restrictions;
pub mod sessions;
pub mod simulate;
pub mod tenants;
pub mod time;
pub mod usage;
pub mod workers;
pub mod workloads;

pub use ids::*;
pub use time::{Clock, Timestamp};
