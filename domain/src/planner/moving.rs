//! Replicas on cordoned workers: each is replaced elsewhere first, and goes when
//! the replacement answers. Where nothing takes the replacement, it stays, and
//! the replacement says why it waits.

use std::collections::BTreeSet;

use super::Planner;
use crate::workloads::{PlacementState, WorkloadOwner};
use crate::{WorkerId, WorkloadId};

/// The workloads of an owner that stand on cordoned workers.
#[derive(Default)]
pub(super) struct Moving {
    /// Which.
    pub members: BTreeSet<WorkloadId>,
    /// How many of them are needed still, until others answer.
    pub needed: u32,
}

impl Planner {
    /// Whether a worker is cordoned; what stands there is to be looked at if that
    /// is news.
    pub(super) fn note_cordon(&mut self, worker: WorkerId, cordoned: bool) {
        let news = if cordoned { self.cordoned.insert(worker) } else { self.cordoned.remove(&worker) };
        if !news {
            return;
        }
        let there = self.on_worker.get(&worker).into_iter().flatten();
        let owners = there.filter_map(|id| self.facts.placements.get(id)).map(|placement| placement.owner);
        self.changed_owners.extend(owners);
    }

    /// How an owner's placements stand may decide what moves, as long as any
    /// worker is cordoned.
    pub(super) fn note_standing(&mut self, owner: WorkloadOwner) {
        if !self.cordoned.is_empty() && matches!(owner, WorkloadOwner::Endpoint(_)) {
            self.changed_owners.insert(owner);
        }
    }

    /// What of an endpoint that wants so many replicas is to move. Shares of jobs
    /// end by themselves.
    pub(super) fn moving(&self, owner: WorkloadOwner, wanted: u32) -> Moving {
        if self.cordoned.is_empty() || !matches!(owner, WorkloadOwner::Endpoint(_)) {
            return Moving::default();
        }
        let (mut members, mut answering) = (BTreeSet::new(), 0);
        for id in self.members.get(&owner).into_iter().flatten() {
            let Some(placement) = self.placed.get(id).and_then(|id| self.facts.placements.get(id)) else {
                continue;
            };
            match placement.state {
                PlacementState::Assigned | PlacementState::Ready
                    if self.cordoned.contains(&placement.worker_id) =>
                {
                    members.insert(*id);
                }
                PlacementState::Ready => answering += 1,
                _ => {}
            }
        }
        let needed = wanted.saturating_sub(answering).min(u32::try_from(members.len()).unwrap_or(u32::MAX));
        Moving { members, needed }
    }
}
