//! What happens to workloads and budgets from outside: they end, are sent away,
//! are kept back; a period begins.

use super::entries::{Grant, Slot, State};
use super::{Admissions, Amount, BudgetKind, Hold, NodeId, Standing, View};
use crate::{Timestamp, WorkloadId};

impl Admissions {
    /// A workload is gone: withdrawn, ended, or left after it was told to.
    /// `spent` is what it truly spent of its budgets. Returns where it stood,
    /// or nothing if it is unknown.
    pub fn release(
        &mut self,
        id: WorkloadId,
        spent: &[(BudgetKind, Amount)],
        now: Timestamp,
    ) -> Option<Standing> {
        let slot = self.entries.find(id)?;
        self.recalled.clear();
        let entry = self.entries.get(slot);
        let (tenant, leaf) = (entry.tenant, entry.leaf);
        let reserved = match &entry.state {
            State::Admitted(grant) | State::Leaving { grant, .. } => {
                self.spends(&grant.amounts, &entry.ask.budget)
            }
            _ => Vec::new(),
        };
        let standing = match entry.state.clone() {
            State::Pending => {
                self.step_out(slot);
                Standing::Pending
            }
            State::OnHold => Standing::Pending,
            State::Claimed { grant, .. } => {
                self.unpromise(slot, &grant, now);
                Standing::Promised
            }
            State::Admitted(grant) => {
                self.unpromise(slot, &grant, now);
                self.leave(slot, &grant);
                Standing::Admitted
            }
            State::Leaving { grant, .. } => {
                self.leave(slot, &grant);
                let root = self.root_of(tenant);
                self.roots.entry(root).or_default().leaving -= 1;
                Standing::Leaving
            }
        };
        let path = self.path(leaf);
        if matches!(standing, Standing::Admitted | Standing::Leaving) {
            self.budgets.free(&path, &reserved);
            self.budgets.spend(&path, spent);
            self.freed(tenant);
        }
        // What was granted in vain has not used up its tenant's turn: what the
        // tenant has next comes before those who would borrow.
        let root = self.root_of(tenant);
        self.roots.entry(root).or_default().active.insert(tenant);
        self.dirty.insert(root);
        self.entries.remove(slot);
        Some(standing)
    }

    /// A workload must leave for another reason than preemption, as when its
    /// worker is drained. Its room is promised to nobody.
    pub fn evict(&mut self, id: WorkloadId, now: Timestamp) -> bool {
        self.recalled.clear();
        let Some(slot) = self.entries.find(id) else { return false };
        let State::Admitted(grant) = self.entries.get(slot).state.clone() else { return false };
        self.send_away(slot, &grant, None, now);
        true
    }

    /// Marks a victim: it holds its room until it has left, but not for long.
    pub(super) fn send_away(
        &mut self,
        slot: Slot,
        grant: &Grant,
        preemptor: Option<WorkloadId>,
        now: Timestamp,
    ) {
        self.unpromise(slot, grant, now);
        let root = self.root_of(self.entries.get(slot).tenant);
        self.roots.entry(root).or_default().leaving += 1;
        self.entries.get_mut(slot).state = State::Leaving { grant: grant.clone(), preemptor };
    }

    /// Takes a grant out of the promised view.
    pub(super) fn unpromise(&mut self, slot: Slot, grant: &Grant, now: Timestamp) {
        let entry = self.entries.get(slot);
        let (tenant, leaf) = (entry.tenant, entry.leaf);
        for &(key, amount) in &grant.amounts {
            self.tree.remove(View::Promised, leaf, key, amount);
        }
        self.tenants[tenant as usize].granted.remove(
            slot,
            &entry.ask,
            grant,
            matches!(entry.state, State::Admitted(_)),
        );
        if let State::Claimed { order, .. } = entry.state {
            let (reserved, root) = (self.spends(&grant.amounts, &entry.ask.budget), self.root_of(tenant));
            self.budgets.free(&self.path(leaf), &reserved);
            self.roots.entry(root).or_default().claims.remove(&(order, slot));
        }
        self.keep(tenant);
        self.remember(tenant, leaf, now, 0);
        self.freed(tenant);
    }

    /// Takes a grant out of the held view.
    fn leave(&mut self, slot: Slot, grant: &Grant) {
        let entry = self.entries.get(slot);
        let (tenant, leaf) = (entry.tenant, entry.leaf);
        for &(key, amount) in &grant.amounts {
            self.tree.remove(View::Held, leaf, key, amount);
        }
        let root = self.root_of(tenant);
        self.roots.entry(root).or_default().left = true;
        self.dirty.insert(root);
    }

    /// Something outside the quota keeps a waiting workload, or (`None`) does
    /// no more. Returns whether it is one that waits.
    pub fn set_hold(&mut self, id: WorkloadId, hold: Option<Hold>) -> bool {
        let Some(slot) = self.entries.find(id) else { return false };
        match (&self.entries.get(slot).state, hold.is_some()) {
            (State::Pending, true) => {
                self.step_out(slot);
                let entry = self.entries.get_mut(slot);
                entry.state = State::OnHold;
                let (tenant, root) = (entry.tenant, self.root_of(self.entries.get(slot).tenant));
                self.roots.entry(root).or_default().active.insert(tenant);
                self.dirty.insert(root);
            }
            (State::OnHold, false) => self.line_up(slot),
            (State::Pending | State::OnHold, _) => {}
            _ => return false,
        }
        self.entries.get_mut(slot).ask.hold = hold;
        true
    }

    /// A period of a budget begins: nothing is spent yet, reservations go on.
    pub fn begin_period(&mut self, node: NodeId, kind: &BudgetKind) -> bool {
        let Some(ix) = self.tree.node(node) else { return false };
        let root = self.tree.nodes[self.tree.tenant_of(ix) as usize].root;
        self.roots.entry(root).or_default().released = true;
        self.dirty.insert(root);
        self.budgets.begin_period(ix, kind)
    }
}
