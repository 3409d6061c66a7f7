//! What is there at all: workers that are lost, and as many workloads as each
//! owner wants, and more while some of them move.

use std::cmp::Reverse;

use super::{Decision, EndReason, LivePlacement, Planner};
use crate::Timestamp;
use crate::workloads::{PlacementState, Workload};

impl Planner {
    /// Declares those lost that were silent for too long.
    pub(super) fn declare_lost(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        for id in self.silent(now) {
            let Some(worker) = self.facts.workers.get_mut(&id) else { continue };
            worker.live = false;
            decisions.push(Decision::DeclareLost { worker: id, seen_at: worker.seen_at });
            self.lost.insert(id);
            self.changed_workers.insert(id);
            let worker = &self.facts.workers[&id];
            self.devices.put(worker, true);
        }
    }

    /// Ends what stood on lost workers; its workloads wait again.
    pub(super) fn end_lost_placements(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        for id in std::mem::take(&mut self.changed_workers) {
            if !self.lost.contains(&id) {
                continue;
            }
            for placement in self.on_worker.get(&id).cloned().unwrap_or_default() {
                let Some(ended) = self.facts.placements.get(&placement) else { continue };
                let (workload, generation) = (ended.workload_id, ended.generation);
                self.facts.settle_time(placement, now);
                let why = EndReason::WorkerLost;
                decisions.push(Decision::EndPlacement { placement, generation, worker: id, why });
                self.forget_placement(placement, workload, id);
            }
        }
    }

    /// Makes as many workloads as each owner wants, if it may now, for at most
    /// `most` owners, and ends the rest. Returns whether any is to be created.
    pub(super) fn match_intents(
        &mut self,
        may_create: bool,
        most: usize,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let mut created = 0;
        let mut later = Vec::new();
        let mut owners = std::mem::take(&mut self.changed_owners);
        while created < most
            && let Some(owner) = owners.pop_first()
        {
            let intent = self.facts.intents.get(&owner);
            let wanted = intent.map_or(0, |intent| intent.count);
            let members = self.members.get(&owner);
            let existing = members.map_or(0, |members| u32::try_from(members.len()).unwrap_or(u32::MAX));
            let moving = self.moving(owner, wanted);
            let to_move = u32::try_from(moving.members.len()).unwrap_or(u32::MAX);
            let staying = existing - to_move;
            if let Some(intent) = intent
                && wanted > staying
            {
                if !may_create {
                    later.push(owner);
                    continue;
                }
                created += 1;
                decisions.push(Decision::CreateWorkloads {
                    owner,
                    tenant_id: intent.tenant_id,
                    version_id: intent.version_id,
                    resources: intent.resources.clone(),
                    priority: intent.priority,
                    existing,
                    count: wanted - staying,
                });
            }
            let (moved, surplus) = (to_move - moving.needed, staying.saturating_sub(wanted));
            if moved + surplus == 0 {
                continue;
            }
            let mut parting: Vec<&Workload> =
                members.into_iter().flatten().filter_map(|id| self.facts.workloads.get(id)).collect();
            parting.sort_by_cached_key(|workload| {
                let placement = self.placed.get(&workload.id).and_then(|id| self.facts.placements.get(id));
                parting_order(workload, placement)
            });
            let (on_cordoned, others): (Vec<&Workload>, Vec<&Workload>) =
                parting.into_iter().partition(|workload| moving.members.contains(&workload.id));
            let parting = (on_cordoned.into_iter().take(moved as usize))
                .chain(others.into_iter().take(surplus as usize))
                .map(|w| (w.id, w.generation));
            let parting: Vec<_> = parting.collect();
            // What is being placed ends as what it will be by then.
            if parting.iter().any(|(workload, _)| self.expected.contains_key(workload)) {
                later.push(owner);
                continue;
            }
            for (workload, generation) in parting {
                decisions.push(Decision::EndWorkload { workload, generation });
                self.facts.workloads.remove(&workload);
                self.forget_member(owner, workload);
                self.changed.insert(workload);
            }
            self.changed_owners.remove(&owner);
        }
        self.changed_owners = owners;
        self.changed_owners.extend(later);
        created > 0
    }
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
    (serving, Reverse((workload.created_at, workload.id)))
}
