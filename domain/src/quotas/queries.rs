//! What can be asked: where workloads stand and why they wait.

use super::entries::State;
use super::{Admissions, Ask, BudgetKind, BudgetState, Hold, Level, NodeId, Standing, Waiting, WhyNot};
use crate::{TenantId, WorkloadId};

/// What stops a workload that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle<'a> {
    /// Something outside the quota keeps it.
    Hold(&'a Hold),
    /// Its kind is set aside.
    Aside,
    /// Quota.
    Quota(&'a WhyNot),
    /// Others are before it.
    Others,
}

impl Admissions {
    #[cfg(test)]
    pub(crate) fn queues_are_consistent(&self) -> bool {
        self.tenants.iter().all(|tenant| tenant.queue.is_consistent())
    }

    /// What may still be spent.
    pub fn budget(&self, node: NodeId, kind: &BudgetKind) -> Option<BudgetState> {
        self.budgets.get(self.tree.node(node)?, kind)
    }

    /// Where a workload stands.
    pub fn standing(&self, id: WorkloadId) -> Option<Standing> {
        Some(match self.entries.get(self.entries.find(id)?).state {
            State::Pending | State::OnHold => Standing::Pending,
            State::Claimed { .. } => Standing::Promised,
            State::Admitted(_) => Standing::Admitted,
            State::Leaving { .. } => Standing::Leaving,
        })
    }

    /// What it was told of a workload.
    pub fn ask(&self, id: WorkloadId) -> Option<&Ask> {
        Some(&self.entries.get(self.entries.find(id)?).ask)
    }

    /// In which of its options it was granted room, if it was.
    pub fn granted_option(&self, id: WorkloadId) -> Option<usize> {
        Some(self.entries.get(self.entries.find(id)?).granted()?.option)
    }

    /// What stops a workload that waits, if it does.
    pub fn obstacle(&self, id: WorkloadId) -> Option<Obstacle<'_>> {
        let entry = self.entries.get(self.entries.find(id)?);
        match &entry.state {
            State::OnHold => entry.ask.hold.as_ref().map(Obstacle::Hold),
            State::Pending => {
                let queue = &self.tenants[entry.tenant as usize].queue;
                Some(match &queue.lane(entry.lane).parked {
                    Some(parked) if parked.aside => Obstacle::Aside,
                    Some(parked) => Obstacle::Quota(&parked.why),
                    None => Obstacle::Others,
                })
            }
            _ => None,
        }
    }

    /// What was promised room in a tree in which nobody is leaving: the room
    /// went to a change from outside, and only a new look may help.
    pub fn promised_in_vain(&self) -> Vec<WorkloadId> {
        let idle = self.roots.values().filter(|root| root.leaving == 0);
        idle.flat_map(|root| &root.claims).map(|&(_, slot)| self.entries.get(slot).ask.id).collect()
    }

    /// Who is promised room, with its kind and the option in which.
    pub fn promised(&self) -> impl Iterator<Item = (WorkloadId, u32, usize)> {
        let claims = self.roots.values().flat_map(|root| &root.claims);
        claims.filter_map(|&(_, slot)| {
            let entry = self.entries.get(slot);
            Some((entry.ask.id, entry.ask.kind, entry.granted()?.option))
        })
    }

    /// Whether anybody is promised room.
    pub fn has_promised(&self) -> bool {
        self.roots.values().any(|root| !root.claims.is_empty())
    }

    /// Whether there is anything to decide.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// How many of a tenant's wait in its queue.
    pub fn queue_len(&self, tenant: TenantId) -> usize {
        self.tenant_index.get(&tenant).map_or(0, |&ix| self.tenants[ix as usize].queue.len())
    }

    /// Everything that waits in a tenant's queue, in order, with its reason.
    pub fn waiting(&self, tenant: TenantId) -> Vec<(WorkloadId, Waiting)> {
        let Some(&ix) = self.tenant_index.get(&tenant) else { return Vec::new() };
        let queue = &self.tenants[ix as usize].queue;
        let all = queue.in_order();
        let of = all.len() as u64;
        let strict = queue.blocked_lane();
        all.iter()
            .zip(1..)
            .map(|(&((_, _, id), lane, _), position)| {
                let parked = queue.lane(lane).parked.as_ref().map(|p| p.why.clone());
                let behind = || strict.map(|_| WhyNot::of(Level::Priority));
                (id, Waiting { position, of, why: parked.or_else(behind) })
            })
            .collect()
    }

    /// Why one workload waits; nothing if it does not.
    pub fn why(&self, id: WorkloadId) -> Option<Waiting> {
        let entry = self.entries.get(self.entries.find(id)?);
        match &entry.state {
            State::OnHold => {
                let hold = entry.ask.hold.as_ref()?;
                let why = WhyNot { detail: Some(hold.detail.clone()), ..WhyNot::of(hold.level) };
                Some(Waiting { position: 0, of: 0, why: Some(why) })
            }
            State::Pending => {
                self.waiting(entry.ask.tenant).into_iter().find(|(other, _)| *other == id).map(|(_, why)| why)
            }
            _ => None,
        }
    }
}
