//! Quota that a tenant keeps for what it waits with: the own quota of one that
//! may not take it back is not lent while it waits for it.

use std::collections::BTreeMap;

use super::choices::times;
use super::entries::TenantIx;
use super::queue::Shape;
use super::tree::{Ix, KeyIx};
use super::{Admissions, Amount, Reclaim, View};

impl Admissions {
    /// Keeps a tenant's own quota for what it waits with and could not take
    /// back from those who would borrow it: a function of what waits and of what
    /// devices take, whether it was tried yet or not, so that a planner that starts
    /// anew keeps the same.
    pub(super) fn keep(&mut self, tenant: TenantIx) {
        self.lift(tenant);
        let state = &self.tenants[tenant as usize];
        let node = state.node;
        let root = self.tree.nodes[node as usize].root;
        if !state.kept_most.is_empty() {
            self.roots.entry(root).or_default().keeping.insert(tenant);
        }
        let reclaims = self.tree.nodes[node as usize].policies.reclaim == Reclaim::Any;
        if reclaims || self.tree.is_root(node) || state.queue.is_empty() {
            return;
        }
        let mut wanted: BTreeMap<KeyIx, Amount> = BTreeMap::new();
        for (_, lane) in state.queue.lanes() {
            let Some(option) = self.preferred(&lane.shape) else { continue };
            if self.is_for(node, &lane.shape, option) {
                for (key, amount) in times(option, lane.shape.count) {
                    let most = wanted.entry(key).or_default();
                    *most = amount.max(*most);
                }
            }
        }
        let state = &mut self.tenants[tenant as usize];
        for (key, asked) in wanted {
            let own = self.tree.nominal(node, key) - self.tree.usage(View::Promised, node, key);
            let amount = asked.min(own);
            if amount > 0 {
                self.tree.add(View::Kept, node, key, amount);
                state.kept.push((key, amount));
                self.roots.entry(root).or_default().keeping.insert(tenant);
                let usage = self.tree.usage(View::Kept, node, key);
                match state.kept_most.iter_mut().find(|k| k.0 == key) {
                    Some(most) => most.1 = usage.max(most.1),
                    None => state.kept_most.push((key, usage)),
                }
            }
        }
    }

    /// Whether quota of a tenant may be kept for what has this shape: it would
    /// be its own, and nothing else is in the way.
    fn is_for(&self, node: Ix, shape: &Shape, option: &[(KeyIx, Amount)]) -> bool {
        let own = |&(key, amount): &(KeyIx, Amount)| {
            amount <= self.tree.nominal(node, key)
                && self.tree.lists(node, key)
                && self.tree.project_room(View::Promised, shape.leaf, key).is_none_or(|room| amount <= room)
        };
        times(option, shape.count).iter().all(own)
    }

    /// Lifts what is kept, so that the tenant itself may use it.
    pub(super) fn lift(&mut self, tenant: TenantIx) {
        let state = &mut self.tenants[tenant as usize];
        for (key, amount) in state.kept.drain(..) {
            self.tree.remove(View::Kept, state.node, key, amount);
        }
    }

    /// Looks at the tree as the tenant may use it, and changes nothing.
    pub(super) fn open_to<T>(&mut self, tenant: TenantIx, look: impl FnOnce(&mut Self) -> T) -> T {
        let kept = std::mem::take(&mut self.tenants[tenant as usize].kept);
        let node = self.tenants[tenant as usize].node;
        for &(key, amount) in &kept {
            self.tree.remove(View::Kept, node, key, amount);
        }
        let seen = look(self);
        for &(key, amount) in &kept {
            self.tree.add(View::Kept, node, key, amount);
        }
        self.tenants[tenant as usize].kept = kept;
        seen
    }

    /// After everything was tried: whether a tenant keeps less than it did
    /// since this was last asked, so that others may have it.
    pub(super) fn keeps_less(&mut self, root: Ix) -> bool {
        let mut less = false;
        let keeping = std::mem::take(&mut self.roots.entry(root).or_default().keeping);
        for tenant in keeping {
            if !self.budgets.is_empty() {
                self.keep(tenant);
            }
            let state = &mut self.tenants[tenant as usize];
            let usage = |key| self.tree.usage(View::Kept, state.node, key);
            less |= state.kept_most.iter().any(|&(key, most)| usage(key) < most);
            state.kept_most = state.kept.iter().map(|k| (k.0, usage(k.0))).collect();
            // Budgets change from elsewhere too.
            if !state.kept.is_empty() && !self.budgets.is_empty() {
                self.roots.entry(root).or_default().keeping.insert(tenant);
            }
        }
        less
    }
}
