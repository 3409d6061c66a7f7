//! What the scheduler decides: the changes that bring the fleet closer to the
//! intent.
//!
//! A [`Planner`] is told what is, and what changes; [`Planner::plan`] decides.
//! The same, told in the same order, gives the same plan, in the same order.
//! Applying a plan and planning again ends: at most one plan ends what must end
//! and creates or ends workloads, the next places, and the one after that is
//! empty. A plan that creates workloads leaves admission to the next, because
//! what it creates has no identifier yet and may come before what already
//! waits; that next one creates nothing, so that a stream of new work stops nobody.

mod admission;
mod applying;
mod board;
mod budgets;
mod devices;
mod failing;
mod intents;
mod moving;
mod quota;
mod reasons;
mod record;
#[cfg(test)]
mod simulation;
mod snapshot;
mod telling;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::accelerators::ResourceRequest;
use crate::quotas::{Level, Rule};
use crate::workloads::WorkloadOwner;
use crate::{PlacementId, TenantId, Timestamp, VersionId, WorkerId, WorkloadId};

pub use applying::Overtaken;
pub use board::{Change, Planner};
pub use devices::{Considered, Cost};
pub use failing::FAILURES_BEFORE_MOVE;
pub use record::{Beginning, Page, PlanId, Recorded, Recorder, Replay, ReplayError, Step};
pub use snapshot::{Closed, Hold, Intent, LivePlacement, ShareLimits, Snapshot, TenantBounds, shares};

/// A class that a workload would rather be on than where it was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PassedOver {
    /// Which.
    pub class: String,
    /// Why it is not on it, in plain words.
    pub why: String,
}

/// Why a placement is ended by the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its worker stopped reporting.
    WorkerLost,
}

/// Why a placement is told to let go, for nobody else's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainReason {
    /// Nobody wants its workload any more.
    Unwanted,
    /// Its worker is not cleared for what its tenant's work is now.
    NotCleared,
    /// It fails there again and again, and another worker would take it.
    Failing,
}

impl DrainReason {
    /// The name used in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted => "unwanted",
            Self::NotCleared => "not_cleared",
            Self::Failing => "failing",
        }
    }
}

/// One change. Each names what it expects to find, and is not applied when it
/// finds something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The worker has been silent too long.
    DeclareLost {
        /// Which.
        worker: WorkerId,
        /// Its last report, as the snapshot knew it.
        seen_at: Timestamp,
    },
    /// Frees the devices of a placement that nobody can drain.
    EndPlacement {
        /// Which.
        placement: PlacementId,
        /// Its generation.
        generation: i64,
        /// Its worker.
        worker: WorkerId,
        /// Why.
        why: EndReason,
    },
    /// Makes workloads for an owner that wants more.
    CreateWorkloads {
        /// What they are part of.
        owner: WorkloadOwner,
        /// Its tenant.
        tenant_id: TenantId,
        /// What each needs in memory.
        version_id: VersionId,
        /// What each asks for.
        resources: ResourceRequest,
        /// Higher goes first.
        priority: i32,
        /// How many of the owner's workloads are not ended now.
        existing: u32,
        /// How many to add.
        count: u32,
    },
    /// The workload is not wanted any more.
    EndWorkload {
        /// Which.
        workload: WorkloadId,
        /// Its generation.
        generation: i64,
    },
    /// The worker is to finish what it does there and let go. A workload that is
    /// still wanted waits anew.
    Drain {
        /// Which.
        placement: PlacementId,
        /// Its generation.
        generation: i64,
        /// Why.
        why: DrainReason,
    },
    /// Puts a workload on devices of a worker.
    Place {
        /// Which.
        workload: WorkloadId,
        /// Generation before; the placement gets the next.
        generation: i64,
        /// Where.
        worker: WorkerId,
        /// On devices of which class.
        class: String,
        /// The classes that it would rather be on, and why it is not.
        passed_over: Vec<PassedOver>,
        /// What it holds there.
        holds: Vec<Hold>,
        /// What it was chosen from.
        considered: Considered,
        /// What that costs there, the least of all.
        cost: Cost,
    },
    /// A placement must let go, because another workload has the better claim
    /// on its quota. Its workload waits anew.
    Evict {
        /// Which.
        placement: PlacementId,
        /// Its generation.
        generation: i64,
        /// For whom.
        preemptor: WorkloadId,
        /// By which rule.
        rule: Rule,
    },
    /// The workload waits, for another reason than before.
    Wait {
        /// Which.
        workload: WorkloadId,
        /// Its generation.
        generation: i64,
        /// What stops it; nothing if its tenant may begin nothing at all.
        level: Option<Level>,
        /// Why, in plain words.
        reason: String,
        /// The class in which room is being made for it, which others do not take.
        promised: Option<String>,
    },
}

impl Decision {
    /// The workload that it is about, if it is about one.
    pub fn workload(&self) -> Option<WorkloadId> {
        match self {
            Self::EndWorkload { workload, .. }
            | Self::Place { workload, .. }
            | Self::Wait { workload, .. } => Some(*workload),
            Self::Evict { preemptor, .. } => Some(*preemptor),
            Self::DeclareLost { .. }
            | Self::EndPlacement { .. }
            | Self::CreateWorkloads { .. }
            | Self::Drain { .. } => None,
        }
    }

    /// The placement that it is about, if it is about one that there is.
    pub fn placement(&self) -> Option<PlacementId> {
        match self {
            Self::EndPlacement { placement, .. }
            | Self::Drain { placement, .. }
            | Self::Evict { placement, .. } => Some(*placement),
            Self::DeclareLost { .. }
            | Self::CreateWorkloads { .. }
            | Self::EndWorkload { .. }
            | Self::Place { .. }
            | Self::Wait { .. } => None,
        }
    }
}

/// What a planner decides that knows nothing but this snapshot, with every
/// reason told at once.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Vec<Decision> {
    Planner::new(snapshot.clone()).plan(now, usize::MAX)
}

impl Planner {
    /// Decides what is to be done, in the order in which it is to be applied,
    /// and takes it for done. Creates workloads for at most `most` owners, admits
    /// about `most`, and tells as many why they wait; the rest is for the next plans.
    pub fn plan(&mut self, now: Timestamp, most: usize) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.declare_lost(now, &mut decisions);
        self.end_lost_placements(now, &mut decisions);
        let created = self.match_intents(!self.deferred, most, &mut decisions);
        self.catch_up(now, &mut decisions);
        self.spend(now);
        self.deferred = created;
        if !self.deferred {
            self.move_failing(now, &mut decisions);
            self.admit(now, most, &mut decisions);
            self.tell_reasons(now, most, &mut decisions);
        }
        decisions
    }

    /// Whether anybody waits for room that is being made.
    pub fn is_making_room(&self) -> bool {
        self.admissions.has_promised()
    }

    /// Whether planning again, with nothing else told, decides nothing.
    pub fn is_settled(&self) -> bool {
        !self.deferred
            && self.admissions.is_settled()
            && self.untold.is_empty()
            && self.changed.is_empty()
            && self.changed_owners.is_empty()
    }
}
