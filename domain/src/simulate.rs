//! Capacity planning: a trace of work on a fleet that is only described, placed
//! by the production [`Planner`](crate::planner::Planner) in virtual time.
//!
//! [`Scenario`] is the fleet with its quotas and what happens to them,
//! [`jobs`] and [`openb`] read traces, [`Simulation`] plays one on the other,
//! and [`Outcome`] is what came of it. Everything is a pure function of its
//! inputs: the same inputs give the same outcome, to the last digit.
//!
//! What is simulated is the scheduler, not the work: a piece of work runs for
//! the time that the trace gives, whatever runs beside it. Work that is made to
//! leave ends if it can within [`ClusterSpec::drain_secs`]; else its progress is
//! lost and it waits anew. Placement, start and report take no time.

mod cluster;
mod csv;
pub mod jobs;
mod measures;
pub mod openb;
mod outcome;
mod run;
mod scenario;
mod series;
#[cfg(test)]
mod tests;

pub use cluster::{ClusterSpec, CohortSpec, PickSpec, ProjectSpec, TenantSpec, WhatIfSpec, WorkersSpec};
pub use csv::CsvError;
pub use jobs::Job;
pub use outcome::{ClassFigures, LeftOver, Outcome, Plots, Preemptions, TenantFigures, Waits, WorkFigures};
pub use run::{Progress, Simulation, SimulationError};
pub use scenario::{Machine, Scenario, ScenarioError};

/// Most pieces of work of one trace.
pub const MAX_WORK: usize = 2_000_000;
/// Most workers of one scenario.
pub const MAX_WORKERS: usize = 20_000;
/// Most tenants of one scenario.
pub const MAX_TENANTS: usize = 10_000;
/// Latest moment and longest time that a file may name, in seconds: a century.
pub const MAX_SECS: u64 = 100 * 366 * 24 * 3600;

/// Virtual time since the beginning, in microseconds.
pub(crate) type Micros = u64;

/// Microseconds in a second.
pub(crate) const SECOND: Micros = 1_000_000;
