//! What fails where it is: a replica or share that cannot start on its worker, or
//! dies there again and again, is moved to a worker on which it did not fail, if
//! one takes it. Where none does it stays, and its worker tries on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::devices::Kind;
use super::{Decision, DrainReason, LivePlacement, Planner};
use crate::workloads::{PlacementState, Workload};
use crate::{Timestamp, WorkerId, WorkloadId};

/// Failures in a row before something is moved.
pub const FAILURES_BEFORE_MOVE: u32 = 3;
/// How long it is left where it is at first; twice as long for each worker on which
/// it failed before, so that what fails everywhere does not go round.
const FIRST_STAY: Duration = Duration::from_secs(30);
/// It stays no longer than this before it is moved again.
const LONGEST_STAY: Duration = Duration::from_secs(1800);
/// A failure that is older than this says nothing of now: the worker tries again
/// at least that often.
const FRESH: Duration = Duration::from_secs(300);
/// For how long a worker is avoided by what failed there.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Whether a placement is to be looked at.
fn is_failing(placement: &LivePlacement) -> bool {
    placement.failures >= FAILURES_BEFORE_MOVE && placement.state == PlacementState::Assigned
}

/// Workers on which a workload failed lately.
pub(super) fn avoided(workload: Option<&Workload>, now: Timestamp) -> BTreeSet<WorkerId> {
    let failed = workload.into_iter().flat_map(|workload| &workload.failed_on);
    failed.filter(|failure| now.since(failure.at) <= REMEMBERED).map(|failure| failure.worker_id).collect()
}

impl Planner {
    /// Remembers whether a workload fails where it is placed.
    pub(super) fn note_failing(&mut self, workload: WorkloadId) {
        let placement = self.placed.get(&workload).and_then(|id| self.facts.placements.get(id));
        if placement.is_some_and(is_failing) {
            self.failing.insert(workload);
        } else {
            self.failing.remove(&workload);
        }
    }

    /// Makes those leave that fail where they are and would be taken elsewhere.
    pub(super) fn move_failing(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        for id in self.failing.iter().copied().collect::<Vec<_>>() {
            let Some(placement) = self.due(id, now) else { continue };
            if !self.would_be_taken_elsewhere(&placement, now) {
                continue;
            }
            let (placement, generation) = (placement.id, placement.generation);
            if let Some(placed) = self.facts.placements.get_mut(&placement) {
                placed.state = PlacementState::Draining;
            }
            self.failing.remove(&id);
            decisions.push(Decision::Drain { placement, generation, why: DrainReason::Failing });
            self.reconcile(id, now);
        }
    }

    /// Its placement, if it has failed there for long enough.
    fn due(&self, id: WorkloadId, now: Timestamp) -> Option<LivePlacement> {
        let workload = self.facts.workloads.get(&id)?;
        let placement = self.placed.get(&id).and_then(|id| self.facts.placements.get(id))?;
        let failed_at = placement.failed_at?;
        let before = avoided(Some(workload), now).len();
        let stay = FIRST_STAY.saturating_mul(1 << before.min(16)).min(LONGEST_STAY);
        let due = is_failing(placement)
            && !self.lost.contains(&placement.worker_id)
            && !self.evicting.contains_key(&id)
            && now.since(failed_at) <= FRESH
            && now.since(placement.since) >= stay;
        due.then(|| placement.clone())
    }

    /// By what bounds its tenant now, which may be other than when it was placed.
    fn would_be_taken_elsewhere(&mut self, placement: &LivePlacement, now: Timestamp) -> bool {
        let mut avoided = avoided(self.facts.workloads.get(&placement.workload_id), now);
        avoided.insert(placement.worker_id);
        let kind = Kind::of(&placement.resources, self.facts.tenants.get(&placement.tenant_id));
        (0..kind.classes.len()).any(|option| self.devices.fits_beside(&kind, option, &avoided))
    }
}
