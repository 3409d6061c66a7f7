//! What a decision makes true in a snapshot: what the store does to the
//! database in SQL, for whoever plays both.

use uuid::Uuid;

use super::{Change, Decision, LivePlacement, Snapshot};
use crate::workloads::{Failure, PlacementState, Workload, WorkloadState};
use crate::{PlacementId, Timestamp, WorkloadId};

/// A decision expected to find what is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the decision does not apply to what is there: {0:?}")]
pub struct Overtaken(pub Box<Decision>);

impl Snapshot {
    /// Makes a decision true, and returns what a planner is to be told of it. Each
    /// workload and placement that it makes gets the next identifier of `ids`.
    pub fn apply(
        &mut self,
        decision: &Decision,
        now: Timestamp,
        ids: &mut impl FnMut() -> Uuid,
    ) -> Result<Vec<Change>, Overtaken> {
        self.try_apply(decision, now, ids).ok_or_else(|| Overtaken(Box::new(decision.clone())))
    }

    fn try_apply(
        &mut self,
        decision: &Decision,
        now: Timestamp,
        ids: &mut impl FnMut() -> Uuid,
    ) -> Option<Vec<Change>> {
        Some(match decision {
            Decision::DeclareLost { worker: id, seen_at } => {
                let worker = self.workers.get_mut(id).filter(|w| w.live && w.seen_at == *seen_at)?;
                worker.live = false;
                vec![Change::Worker(*id, Some(worker.clone()))]
            }
            Decision::EndPlacement { placement, generation, worker, .. } => {
                let found = self.placements.get(placement)?;
                if found.generation != *generation || self.workers.get(worker).is_none_or(|w| w.live) {
                    return None;
                }
                self.settle_time(*placement, now);
                self.end_placement(*placement)
            }
            Decision::CreateWorkloads {
                owner, tenant_id, version_id, resources, priority, count, ..
            } => {
                let mut make = |_| {
                    let workload = Workload {
                        id: ids().into(),
                        tenant_id: *tenant_id,
                        owner: *owner,
                        version_id: *version_id,
                        resources: resources.clone(),
                        priority: *priority,
                        state: WorkloadState::Pending,
                        generation: 0,
                        reason: None,
                        queued_at: now,
                        promised_at: None,
                        promised_class: None,
                        failed_on: Vec::new(),
                        created_at: now,
                    };
                    self.workloads.insert(workload.id, workload.clone());
                    Change::Workload(workload.id, Some(workload))
                };
                (0..*count).map(&mut make).collect()
            }
            Decision::EndWorkload { workload, generation } => {
                self.workloads.get(workload).filter(|w| w.generation == *generation)?;
                self.workloads.remove(workload);
                vec![Change::Workload(*workload, None)]
            }
            Decision::Drain { placement, generation, .. } => {
                self.drain(*placement, *generation).into_iter().collect()
            }
            Decision::Evict { placement, generation, .. } => {
                let drained = self.drain(*placement, *generation)?;
                let victim = self.placements[placement].workload_id;
                let workload = self.workloads.get_mut(&victim)?;
                workload.queued_at = now;
                vec![drained, Change::Workload(victim, Some(workload.clone()))]
            }
            Decision::Place { workload, .. } => {
                let id: PlacementId = ids().into();
                let placement = self.place(id, decision, now)?;
                vec![
                    Change::Workload(*workload, Some(self.workloads.get(workload)?.clone())),
                    Change::Placement(id, Some(placement)),
                ]
            }
            Decision::Wait { workload: id, generation, reason, promised, .. } => {
                let workload = self.pending(*id).filter(|w| w.generation == *generation)?;
                workload.reason = Some(reason.clone());
                workload.promised_at = promised.as_ref().map(|_| workload.promised_at.unwrap_or(now));
                workload.promised_class.clone_from(promised);
                vec![Change::Workload(*id, Some(workload.clone()))]
            }
        })
    }

    /// A placement is over: its devices are free, and its workload, if that has
    /// not ended, waits again. Returns what a planner is to be told.
    pub fn end_placement(&mut self, id: PlacementId) -> Vec<Change> {
        let Some(placement) = self.placements.remove(&id) else { return Vec::new() };
        self.sum(&placement, false);
        let mut changes = vec![Change::Placement(id, None)];
        if let Some(workload) = self.workloads.get_mut(&placement.workload_id) {
            workload.state = WorkloadState::Pending;
            if let Some(at) = placement.failed_at {
                workload.failed(Failure { worker_id: placement.worker_id, at });
            }
            changes.push(Change::Workload(workload.id, Some(workload.clone())));
        }
        changes
    }

    fn drain(&mut self, id: PlacementId, generation: i64) -> Option<Change> {
        let placement = self.placements.get_mut(&id)?;
        if placement.generation != generation || placement.state == PlacementState::Draining {
            return None;
        }
        placement.state = PlacementState::Draining;
        Some(Change::Placement(id, Some(placement.clone())))
    }

    fn pending(&mut self, id: WorkloadId) -> Option<&mut Workload> {
        self.workloads.get_mut(&id).filter(|w| w.state == WorkloadState::Pending)
    }

    fn place(&mut self, id: PlacementId, decision: &Decision, now: Timestamp) -> Option<LivePlacement> {
        let Decision::Place { workload, generation, worker, class, holds, .. } = decision else {
            return None;
        };
        let worker_id = *worker;
        if self.workers.get(&worker_id).is_none_or(|worker| !worker.live) {
            return None;
        }
        let workload = self.pending(*workload).filter(|w| w.generation == *generation)?;
        workload.state = WorkloadState::Placed;
        workload.generation += 1;
        workload.reason = None;
        (workload.promised_at, workload.promised_class) = (None, None);
        let workload = workload.clone();
        let placement = LivePlacement {
            id,
            workload_id: workload.id,
            owner: workload.owner,
            tenant_id: workload.tenant_id,
            project_id: self.intents.get(&workload.owner)?.project_id,
            resources: workload.resources,
            class: class.clone(),
            priority: workload.priority,
            since: now,
            failures: 0,
            failed_at: None,
            version_id: workload.version_id,
            generation: workload.generation,
            worker_id,
            state: PlacementState::Assigned,
            holds: holds.clone(),
        };
        self.sum(&placement, true);
        self.placements.insert(id, placement.clone());
        Some(placement)
    }

    /// Adds to what is used of devices, or takes away.
    fn sum(&mut self, placement: &LivePlacement, add: bool) {
        let Some(worker) = self.workers.get_mut(&placement.worker_id) else { return };
        for hold in &placement.holds {
            let Some(device) = worker.devices.iter_mut().find(|d| d.id == hold.device_id) else { continue };
            if add {
                device.used_memory_bytes = device.used_memory_bytes.saturating_add(hold.memory_bytes);
                device.used_milli = device.used_milli.saturating_add(hold.milli);
            } else {
                device.used_memory_bytes = device.used_memory_bytes.saturating_sub(hold.memory_bytes);
                device.used_milli = device.used_milli.saturating_sub(hold.milli);
            }
        }
    }
}
