//! What the scheduler decides: a pure function from a snapshot of intent and
//! fleet to the changes that bring the fleet closer to the intent.
//!
//! The same snapshot gives the same plan, in the same order, so any placement
//! can be replayed from its inputs. Applying a plan and planning again ends:
//! at most one plan ends what must end and creates or ends workloads, the next
//! places, and the one after that is empty. A plan that creates workloads
//! places nothing, because what it creates has no identifier yet and may come
//! before what already waits.

mod admission;
mod candidates;
mod quota;
mod reasons;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::accelerators::ResourceRequest;
use crate::quotas::{Level, Rule};
use crate::workloads::{PlacementState, Workload, WorkloadOwner, WorkloadState};
use crate::{DeviceId, PlacementId, TenantId, Timestamp, VersionId, WorkerId, WorkloadId};

pub use candidates::Considered;
use candidates::Fleet;
pub use snapshot::{Closed, Hold, Intent, LivePlacement, ShareLimits, Snapshot, TenantBounds, shares};

/// Why a placement is ended by the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its worker stopped reporting.
    WorkerLost,
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
    /// The worker is to finish what it does there and let go.
    Drain {
        /// Which.
        placement: PlacementId,
        /// Its generation.
        generation: i64,
    },
    /// Puts a workload on devices of a worker.
    Place {
        /// Which.
        workload: WorkloadId,
        /// Generation before; the placement gets the next.
        generation: i64,
        /// Where.
        worker: WorkerId,
        /// What it holds there.
        holds: Vec<Hold>,
        /// What it was chosen from.
        considered: Considered,
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
        /// Room is being made for it, which others do not take.
        promised: bool,
    },
}

/// The changes that bring the fleet closer to the intent, in the order in
/// which they are to be applied.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Vec<Decision> {
    let mut decisions = Vec::new();
    let lost = declare_lost(snapshot, now, &mut decisions);
    let mut fleet = Fleet::new(snapshot, &lost);
    let mut waiting: BTreeSet<WorkloadId> =
        snapshot.workloads.values().filter(|w| w.state == WorkloadState::Pending).map(|w| w.id).collect();
    end_lost_placements(snapshot, &lost, &mut fleet, &mut waiting, &mut decisions);
    let created = match_intents(snapshot, &lost, &mut fleet, &mut waiting, &mut decisions);
    if !created {
        admission::admit(snapshot, now, &lost, &waiting, &mut fleet, &mut decisions);
    }
    decisions
}

/// Which workers are lost; those newly so are decided.
fn declare_lost(snapshot: &Snapshot, now: Timestamp, decisions: &mut Vec<Decision>) -> BTreeSet<WorkerId> {
    let mut lost = BTreeSet::new();
    for worker in snapshot.workers.values() {
        if !worker.live {
            lost.insert(worker.id);
        } else if snapshot.is_silent(worker, now) {
            lost.insert(worker.id);
            decisions.push(Decision::DeclareLost { worker: worker.id, seen_at: worker.seen_at });
        }
    }
    lost
}

/// Ends what stood on lost workers; its workloads wait again.
fn end_lost_placements(
    snapshot: &Snapshot,
    lost: &BTreeSet<WorkerId>,
    fleet: &mut Fleet<'_>,
    waiting: &mut BTreeSet<WorkloadId>,
    decisions: &mut Vec<Decision>,
) {
    for placement in snapshot.placements.values().filter(|p| lost.contains(&p.worker_id)) {
        decisions.push(Decision::EndPlacement {
            placement: placement.id,
            generation: placement.generation,
            worker: placement.worker_id,
            why: EndReason::WorkerLost,
        });
        fleet.release(placement);
        if snapshot.workloads.contains_key(&placement.workload_id) {
            waiting.insert(placement.workload_id);
        }
    }
}

/// Makes as many workloads as each owner wants, and lets go of the rest.
/// Returns whether any is to be created.
fn match_intents(
    snapshot: &Snapshot,
    lost: &BTreeSet<WorkerId>,
    fleet: &mut Fleet<'_>,
    waiting: &mut BTreeSet<WorkloadId>,
    decisions: &mut Vec<Decision>,
) -> bool {
    let mut owned: BTreeMap<WorkloadOwner, Vec<&Workload>> =
        snapshot.intents.keys().map(|owner| (*owner, Vec::new())).collect();
    for workload in snapshot.workloads.values() {
        owned.entry(workload.owner).or_default().push(workload);
    }
    let placed: BTreeMap<WorkloadId, &LivePlacement> = snapshot
        .placements
        .values()
        .filter(|p| !lost.contains(&p.worker_id))
        .map(|p| (p.workload_id, p))
        .collect();

    let mut created = false;
    for (owner, mut workloads) in owned {
        let intent = snapshot.intents.get(&owner);
        let wanted = intent.map_or(0, |i| i.count);
        let existing = u32::try_from(workloads.len()).unwrap_or(u32::MAX);
        if let Some(intent) = intent
            && wanted > existing
        {
            created = true;
            decisions.push(Decision::CreateWorkloads {
                owner,
                tenant_id: intent.tenant_id,
                version_id: intent.version_id,
                resources: intent.resources.clone(),
                priority: intent.priority,
                existing,
                count: wanted - existing,
            });
        }
        workloads.sort_by_key(|w| parting_order(w, placed.get(&w.id).copied()));
        for workload in workloads.iter().take(existing.saturating_sub(wanted) as usize) {
            decisions.push(Decision::EndWorkload { workload: workload.id, generation: workload.generation });
            waiting.remove(&workload.id);
            fleet.forget(workload.id);
        }
    }
    // Whatever is placed for a workload that ended, now or before, is let go.
    for placement in placed.values().filter(|p| p.state != PlacementState::Draining) {
        if fleet.is_forgotten(placement.workload_id)
            || !snapshot.workloads.contains_key(&placement.workload_id)
        {
            decisions.push(Decision::Drain { placement: placement.id, generation: placement.generation });
            fleet.part(placement);
        }
    }
    created
}

/// Who goes first when there are too many: those that serve least, then the
/// youngest.
fn parting_order(workload: &Workload, placement: Option<&LivePlacement>) -> impl Ord + use<> {
    let serving = match placement.map(|p| p.state) {
        None | Some(PlacementState::Ended) => 0,
        Some(PlacementState::Draining) => 1,
        Some(PlacementState::Assigned) => 2,
        Some(PlacementState::Ready) => 3,
    };
    (serving, std::cmp::Reverse((workload.created_at, workload.id)))
}

/// Where a workload goes, and what it was chosen from.
struct Choice {
    worker: WorkerId,
    device: DeviceId,
    slot: usize,
    considered: Considered,
}
