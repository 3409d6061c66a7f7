//! What is remembered of a tenant's use, and where that puts it in the order.

use super::entries::{TenantIx, micros};
use super::tree::{Ix, KeyIx};
use super::{Admissions, Amount, View};
use crate::Timestamp;

impl Admissions {
    /// Notes what a tenant and its project use from now on; `admitted` of the
    /// same measure was just admitted.
    pub(super) fn remember(&mut self, tenant: TenantIx, leaf: Ix, now: Timestamp, admitted: u64) {
        let Some(history) = self.settings.history else { return };
        let node = self.tenants[tenant as usize].node;
        let mut nodes = vec![node];
        if leaf != node {
            nodes.push(leaf);
        }
        for node in nodes {
            let used = self.measure(node, |key| self.tree.usage(View::Promised, node, key));
            let remembered = self.tenants[tenant as usize].remembered.entry(node).or_default();
            remembered.change(micros(now), history, used);
            remembered.penalize(history, admitted);
        }
    }

    /// Quantities as parts in 2³⁰ of what the tree has of each key, added up.
    pub(super) fn measure(&self, node: Ix, amount: impl Fn(KeyIx) -> Amount) -> u64 {
        let root = self.tree.nodes[node as usize].root;
        let mut total = 0u64;
        for key in 0..self.tree.keys().len() as KeyIx {
            let (used, all) = (amount(key).max(0), self.tree.subtree(root, key));
            if all > 0 {
                let part = (used as u128 * (1 << 30)) / all as u128;
                total = total.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
            }
        }
        total
    }

    /// What is remembered of a tenant or project, by its weight.
    pub(super) fn rank(&self, tenant: TenantIx, node: Ix, now: Timestamp) -> u128 {
        let Some(history) = self.settings.history else { return 0 };
        let remembered = self.tenants[tenant as usize].remembered.get(&node);
        let value = remembered.map_or(0, |r| r.read(micros(now), history));
        match self.tree.nodes[node as usize].weight_milli {
            0 if value > 0 => u128::MAX,
            weight => value.saturating_mul(1000) / u128::from(weight.max(1)),
        }
    }
}
