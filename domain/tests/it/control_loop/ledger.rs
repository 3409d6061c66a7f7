//! What is used of quotas, counted placement by placement as `use_quota` in the
//! database counts it. The checks compare it with a tree that is made anew.

use std::collections::BTreeMap;

use domain::planner::LivePlacement;
use domain::quotas::{Amount, Key, NodeId, NodeSpec, Tree};

#[derive(Clone)]
struct Cell {
    parent: Option<NodeId>,
    listed: bool,
    subtree: Amount,
    local: Amount,
    borrowing_limit: Option<Amount>,
    used: Amount,
}

/// By node; only thousandths of the class `cpu` are counted.
#[derive(Clone, Default)]
pub struct Ledger(BTreeMap<NodeId, Cell>);

pub fn key() -> Key {
    Key::milli("cpu")
}

/// The tree with everything that is placed.
pub fn tree<'a>(quotas: &[NodeSpec], placements: impl Iterator<Item = &'a LivePlacement>) -> Tree {
    let mut tree = Tree::new(quotas).expect("the schedule makes only trees");
    for placement in placements {
        tree.count(NodeId::Tenant(placement.tenant_id), &key(), placement.resources.milli.into());
    }
    tree
}

impl Ledger {
    /// Derived anew, as when the tree is changed.
    pub fn new<'a>(quotas: &[NodeSpec], placements: impl Iterator<Item = &'a LivePlacement>) -> Self {
        let tree = tree(quotas, placements);
        let cell = |spec: &NodeSpec| {
            let figures = tree.figures(spec.id, &key());
            let subtree = figures.map_or(0, |f| f.subtree);
            let quota = spec.quotas.get(&key());
            Cell {
                parent: spec.parent,
                listed: quota.is_some(),
                subtree,
                local: quota.and_then(|q| q.lending_limit).map_or(0, |limit| (subtree - limit).max(0)),
                borrowing_limit: quota.and_then(|q| q.borrowing_limit),
                used: figures.map_or(0, |f| f.used),
            }
        };
        Self(quotas.iter().map(|spec| (spec.id, cell(spec))).collect())
    }

    /// Uses more, or, negative, less; whether the quotas allow it.
    pub fn count(&mut self, tenant: NodeId, amount: Amount) -> bool {
        let (mut node, mut rest) = (Some(tenant), amount);
        while let Some(id) = node
            && rest != 0
        {
            let Some(cell) = self.0.get_mut(&id) else { return true };
            let before = cell.used;
            cell.used += rest;
            let beyond = cell.borrowing_limit.is_some_and(|limit| cell.used > cell.subtree + limit)
                || cell.parent.is_none() && cell.used > cell.subtree
                || matches!(id, NodeId::Tenant(_)) && !cell.listed;
            if rest > 0 && beyond {
                return false;
            }
            rest = (cell.used - cell.local).max(0) - (before - cell.local).max(0);
            node = cell.parent;
        }
        true
    }

    /// What each node uses.
    pub fn used(&self) -> impl Iterator<Item = (NodeId, Amount)> {
        self.0.iter().map(|(id, cell)| (*id, cell.used))
    }
}
