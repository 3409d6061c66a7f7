//! Why a workload is where it is, or why it waits, in plain words.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::models::Sha256Digest;
use crate::planner::{Considered, Cost, FAILURES_BEFORE_MOVE, PassedOver};
use crate::quotas::{Level, Rule};
use crate::workloads::{PlacementState, Workload, WorkloadState};
use crate::{DeviceId, PlacementId, ProjectId, Timestamp, WorkerId, WorkloadId};

/// Where a workload is and why, or why it is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WorkloadExplanation {
    /// The workload.
    pub workload: Workload,
    /// Its project.
    pub project_id: ProjectId,
    /// What stops it.
    pub level: Option<Level>,
    /// The plan that found so; `chancery replay` makes it again.
    pub plan: Option<String>,
    /// Its place among those that wait in its tenant.
    pub position: Option<Position>,
    /// Where it is.
    pub placement: Option<Placed>,
    /// When it was last made to leave, and for whom.
    pub evicted: Option<Eviction>,
    /// All that in plain words.
    pub text: String,
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Position {
    /// From 1.
    pub at: u64,
    /// How many wait.
    pub of: u64,
}

/// Where a workload is, and what that was chosen from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placed {
    /// The placement.
    pub id: PlacementId,
    /// Its worker.
    pub worker_id: WorkerId,
    /// That worker's name.
    pub worker: String,
    /// Its devices.
    pub devices: Vec<DeviceId>,
    /// The accelerator class that it is on.
    pub class: String,
    /// The classes that it would rather be on, and why it is not.
    pub passed_over: Vec<PassedOver>,
    /// How far it is.
    pub state: PlacementState,
    /// Since when.
    pub since: Timestamp,
    /// How often in a row it failed there.
    #[serde(default)]
    pub failures: u32,
    /// When it did so last.
    #[serde(default)]
    pub failed_at: Option<Timestamp>,
    /// What its worker last said of it, e.g. why it cannot start.
    #[serde(default)]
    pub detail: Option<String>,
    /// What it was chosen from.
    pub considered: Considered,
    /// What it costs there, the least of all; not of placements from before costs
    /// were kept.
    pub cost: Option<Cost>,
    /// The plan that chose so; `chancery replay` makes it again.
    pub plan: Option<String>,
    /// Digest of what that plan was made from.
    pub inputs: Option<Sha256Digest>,
}

/// What made a workload leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Eviction {
    /// The workload it made room for.
    pub preemptor: WorkloadId,
    /// By which rule.
    pub rule: Rule,
    /// When what it left was placed.
    pub placed_at: Timestamp,
}

impl WorkloadExplanation {
    /// With the words.
    pub fn told(mut self) -> Self {
        let mut text = match (&self.placement, self.workload.state) {
            (Some(placed), _) => {
                told_placed(placed)
                    + &told_class(placed, &self.workload.resources.alternatives)
                    + &told_failing(placed)
            }
            (None, WorkloadState::Ended) => "It is over: nobody wants it any more.".to_owned(),
            (None, _) => self.told_waiting(),
        };
        match self.workload.failed_on.len() {
            0 => {}
            1 => text += " It failed on one other worker, which it avoids for an hour if another takes it.",
            n => {
                let _ = write!(
                    text,
                    " It failed on {n} other workers, which it avoids for an hour if others take it."
                );
            }
        }
        if let Some(eviction) = &self.evicted {
            let _ = write!(
                text,
                " It had to leave a device before, for workload {}, {}.",
                eviction.preemptor,
                told_rule(eviction.rule)
            );
        }
        self.text = text;
        self
    }

    fn told_waiting(&self) -> String {
        let mut text = match &self.workload.reason {
            Some(reason) => format!("It waits: {reason}."),
            None => "It waits for the scheduler, which has not looked at it yet.".to_owned(),
        };
        if let Some(position) = self.position {
            let _ = write!(text, " It is number {} of {} that wait in its tenant.", position.at, position.of);
        }
        if let Some(help) = self.level.and_then(told_help) {
            let _ = write!(text, " {help}");
        }
        if let Some(plan) = self.plan.as_ref().filter(|_| self.workload.reason.is_some()) {
            let _ = write!(text, " Plan {plan} found so.");
        }
        text
    }
}

fn told_placed(placed: &Placed) -> String {
    let state = match placed.state {
        PlacementState::Assigned => "is starting",
        PlacementState::Ready => "runs",
        PlacementState::Draining => "is leaving",
        PlacementState::Ended => "ran",
    };
    let chosen = &placed.considered;
    let fitting = match chosen.fitting {
        1 => "the only worker that could take it".to_owned(),
        n => format!("chosen from {n} workers that could take it"),
    };
    let mut text = format!("It {state} on worker {} since {}, {fitting}", placed.worker, placed.since);
    let rejected = [
        (chosen.short_of_memory, "had too little memory free"),
        (chosen.short_of_milli, "had too few thousandths free"),
        (chosen.cordoned, "were cordoned"),
        (chosen.lost, "were lost"),
        (chosen.out_of_zone, "were in other zones"),
        (chosen.out_of_pool, "were dedicated to others or outside of its tenant's pools"),
        (chosen.not_cleared, "were not cleared for its classification"),
    ];
    let rejected: Vec<String> =
        rejected.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
    if !rejected.is_empty() {
        let _ = write!(text, "; of the others, {}", rejected.join(", "));
    }
    text.push('.');
    if let Some(plan) = &placed.plan {
        let _ = write!(text, " Plan {plan} chose so");
        if let Some(cost) = placed.cost {
            let _ = write!(text, ", at a cost of {} of a device", millionths(cost.total));
        }
        text.push('.');
    }
    text
}

/// Which class it got, where it would do with several.
fn told_class(placed: &Placed, alternatives: &[String]) -> String {
    if alternatives.is_empty() {
        return String::new();
    }
    let mut text = format!(" It is on class {}", placed.class);
    if placed.passed_over.is_empty() {
        text += ", which it would rather have than any other.";
        return text;
    }
    let passed = placed.passed_over.iter().map(|passed| format!("{}: {}", passed.class, passed.why));
    let _ = write!(text, "; of what it would rather have: {}.", passed.collect::<Vec<_>>().join("; "));
    text
}

/// That it fails where it is, and what is done about it.
fn told_failing(placed: &Placed) -> String {
    let (PlacementState::Assigned, Some(at)) = (placed.state, placed.failed_at) else { return String::new() };
    let times = match placed.failures {
        1 => "once".to_owned(),
        n => format!("{n} times in a row"),
    };
    let mut text = format!(" It failed there {times}, last at {at}");
    if let Some(detail) = &placed.detail {
        let _ = write!(text, ": {detail}");
    }
    text += if placed.failures >= FAILURES_BEFORE_MOVE {
        ". It stays until a worker takes it on which it did not fail, and its worker tries on."
    } else {
        ". Its worker tries again."
    };
    text
}

/// Millionths, to three places.
fn millionths(n: i64) -> String {
    let thousandths = (n + n.signum() * 500) / 1000;
    let sign = if thousandths < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", thousandths.abs() / 1000, thousandths.abs() % 1000)
}

/// What would let it run.
fn told_help(level: Level) -> Option<&'static str> {
    match level {
        Level::Quota => Some("It begins when other work of its tenant ends, or with more quota."),
        Level::BorrowingLimit => Some("It begins when other work of its tenant ends, or may borrow more."),
        Level::Cohort => Some("It begins when work in its cohort ends, or with quota of its tenant's own."),
        Level::FairShare => Some("It begins when those who borrow more than its tenant use less."),
        Level::Priority => Some("It begins when what is before it has ended, or with a higher priority."),
        Level::Devices | Level::Memory => Some("It begins when work there ends, or on one more worker."),
        Level::Zone => Some("It begins on a worker in its tenant's zones."),
        Level::Pool => {
            Some("It begins on a worker of its tenant's pools, or on one that is dedicated to nobody.")
        }
        Level::Classification => Some("It begins on a worker that is cleared for it."),
        Level::ModelNotApproved => Some("It begins when its model version is approved."),
        Level::Budget => Some("It begins in the next period, or with a larger budget."),
    }
}

fn told_rule(rule: Rule) -> &'static str {
    match rule {
        Rule::WithinTenant => "which is more important in the same tenant",
        Rule::Reclaim => "whose tenant took back what is its own",
        Rule::ReclaimWhileBorrowing => "which is more important, though its tenant borrows too",
        Rule::FairShare => "whose tenant borrows less, by its weight",
    }
}
