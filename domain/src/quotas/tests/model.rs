//! The quota tree as its definition says it, computed anew from who holds what
//! every time: slow, and obviously right.

use std::collections::BTreeMap;

use crate::quotas::*;
use crate::{TenantId, WorkloadId};

/// What the model knows of one workload.
#[derive(Clone, Debug)]
pub struct Work {
    pub ask: Ask,
    pub standing: Standing,
    pub option: usize,
    pub count: u32,
}

impl Work {
    /// What it asks for, or holds, of a key.
    pub fn amounts(&self) -> Vec<(Key, Amount)> {
        times(&self.ask, self.option, self.count)
    }

    pub fn amount(&self, key: &Key) -> Amount {
        self.amounts().iter().find(|a| a.0 == *key).map_or(0, |a| a.1)
    }

    fn counts(&self, view: View) -> bool {
        match view {
            View::Held => matches!(self.standing, Standing::Admitted | Standing::Leaving),
            View::Promised | View::Kept => matches!(self.standing, Standing::Admitted | Standing::Promised),
        }
    }
}

pub fn times(ask: &Ask, option: usize, count: u32) -> Vec<(Key, Amount)> {
    ask.options[option].iter().map(|(k, a)| (k.clone(), a * Amount::from(count))).collect()
}

/// What a tenant keeps of its own quota for what it waits with.
pub type Kept = BTreeMap<(NodeId, Key), Amount>;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub specs: BTreeMap<NodeId, NodeSpec>,
    pub work: BTreeMap<WorkloadId, Work>,
    pub kept: Kept,
    /// What was settled of each budget.
    pub spent: BTreeMap<(NodeId, BudgetKind), Amount>,
}

impl Model {
    pub fn quota(&self, node: NodeId, key: &Key) -> Option<Quota> {
        self.specs[&node].quotas.get(key).copied()
    }

    pub fn nominal(&self, node: NodeId, key: &Key) -> Amount {
        self.quota(node, key).map_or(0, |q| q.nominal)
    }

    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.specs[&node].parent
    }

    fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        self.specs
            .values()
            .filter(move |s| s.parent == Some(node) && !matches!(s.id, NodeId::Project(_)))
            .map(|s| s.id)
    }

    /// Where a workload's use is counted first.
    pub fn leaf(&self, ask: &Ask) -> NodeId {
        let tenant = NodeId::Tenant(ask.tenant);
        let project = ask.project.map(NodeId::Project);
        project.filter(|p| self.specs.get(p).is_some_and(|s| s.parent == Some(tenant))).unwrap_or(tenant)
    }

    /// From a node to its root, itself included.
    pub fn path(&self, node: NodeId) -> Vec<NodeId> {
        std::iter::successors(Some(node), |n| self.parent(*n)).collect()
    }

    pub fn subtree(&self, node: NodeId, key: &Key) -> Amount {
        let lent: Amount = self.children(node).map(|c| self.subtree(c, key) - self.local(c, key)).sum();
        self.nominal(node, key) + lent
    }

    pub fn local(&self, node: NodeId, key: &Key) -> Amount {
        let lending = self.quota(node, key).and_then(|q| q.lending_limit);
        lending.map_or(0, |limit| (self.subtree(node, key) - limit).max(0))
    }

    pub fn usage(&self, view: View, node: NodeId, key: &Key) -> Amount {
        let of = |mine: &dyn Fn(&Ask) -> bool| -> Amount {
            self.work.values().filter(|w| w.counts(view) && mine(&w.ask)).map(|w| w.amount(key)).sum()
        };
        match node {
            NodeId::Project(_) => of(&|ask| self.leaf(ask) == node),
            NodeId::Tenant(tenant) => {
                let kept = self.kept.get(&(node, key.clone())).copied().unwrap_or(0);
                of(&|ask| ask.tenant == tenant) + if view == View::Kept { kept } else { 0 }
            }
            NodeId::Cohort(_) => {
                self.children(node).map(|c| (self.usage(view, c, key) - self.local(c, key)).max(0)).sum()
            }
        }
    }

    pub fn available(&self, view: View, node: NodeId, key: &Key) -> Amount {
        let (subtree, usage) = (self.subtree(node, key), self.usage(view, node, key));
        let Some(parent) = self.parent(node) else { return subtree - usage };
        let local = self.local(node, key);
        let above = self.available(view, parent, key);
        let above = match self.quota(node, key).and_then(|q| q.borrowing_limit) {
            Some(limit) => above.min(subtree - local - (usage - local).max(0) + limit),
            None => above,
        };
        (local - usage).max(0) + above
    }

    /// Whether it fits what is promised, and what it would borrow also what is
    /// kept.
    pub fn may_have(&self, ask: &Ask, amounts: &[(Key, Amount)]) -> bool {
        amounts.iter().all(|(key, amount)| {
            let borrows = *amount
                > self.nominal(NodeId::Tenant(ask.tenant), key)
                    - self.usage(View::Promised, NodeId::Tenant(ask.tenant), key);
            let view = if borrows { View::Kept } else { View::Promised };
            self.fits(view, ask, &[(key.clone(), *amount)])
        })
    }

    pub fn fits(&self, view: View, ask: &Ask, amounts: &[(Key, Amount)]) -> bool {
        let (tenant, leaf) = (NodeId::Tenant(ask.tenant), self.leaf(ask));
        amounts.iter().filter(|a| a.1 > 0).all(|(key, amount)| {
            let project_fits = leaf == tenant
                || self.quota(leaf, key).is_none_or(|q| q.nominal - self.usage(view, leaf, key) >= *amount);
            project_fits && self.quota(tenant, key).is_some() && self.available(view, tenant, key) >= *amount
        })
    }

    /// Used above what is its own.
    pub fn borrowed(&self, view: View, node: NodeId, key: &Key) -> Amount {
        (self.usage(view, node, key) - self.subtree(node, key)).max(0)
    }

    /// How far a limit is exceeded at each node that has one.
    pub fn overruns(&self, view: View, keys: &[Key]) -> BTreeMap<(NodeId, Key), Amount> {
        let mut overruns = BTreeMap::new();
        for (&node, spec) in &self.specs {
            for key in keys {
                let usage = self.usage(view, node, key);
                let quota = spec.quotas.get(key);
                let most = match (node, spec.parent) {
                    (NodeId::Project(_), _) => quota.map(|q| q.nominal),
                    (NodeId::Tenant(_), _) if quota.is_none() => Some(0),
                    (_, None) => Some(self.subtree(node, key)),
                    _ => quota.and_then(|q| q.borrowing_limit).map(|b| self.subtree(node, key) + b),
                };
                if let Some(most) = most.filter(|most| usage > *most) {
                    overruns.insert((node, key.clone()), usage - most);
                }
            }
        }
        overruns
    }

    /// The nodes just below the lowest cohort that two tenants share.
    pub fn apart(&self, a: TenantId, b: TenantId) -> (Vec<NodeId>, Vec<NodeId>) {
        let (a, b) = (self.path(NodeId::Tenant(a)), self.path(NodeId::Tenant(b)));
        let own = |x: &[NodeId], y: &[NodeId]| x.iter().copied().filter(|n| !y.contains(n)).collect();
        (own(&a, &b), own(&b, &a))
    }

    /// Replicas of an endpoint in a standing that counts as running, or as
    /// running soon.
    pub fn replicas(&self, ask: &Ask, standings: &[Standing]) -> usize {
        let endpoint = |ask: &Ask| ask.group.map(|g| g.endpoint);
        self.work
            .values()
            .filter(|w| w.ask.tenant == ask.tenant && endpoint(&w.ask) == endpoint(ask))
            .filter(|w| standings.contains(&w.standing))
            .count()
    }

    pub fn reserved(&self, node: NodeId, kind: &BudgetKind) -> Amount {
        self.work
            .values()
            .filter(|w| w.standing != Standing::Pending && self.path(self.leaf(&w.ask)).contains(&node))
            .flat_map(|w| w.ask.budget.iter().filter(|b| b.0 == *kind).map(|b| b.1))
            .sum()
    }

    /// Whether every budget on its path has room for it.
    pub fn affords(&self, ask: &Ask) -> bool {
        self.path(self.leaf(ask)).iter().all(|node| {
            ask.budget.iter().filter(|b| b.1 > 0).all(|(kind, asked)| {
                let Some(budget) = self.specs[node].budgets.get(kind) else { return true };
                let spent = self.spent.get(&(*node, kind.clone())).copied().unwrap_or(0);
                budget.limit - spent - self.reserved(*node, kind) >= *asked
            })
        })
    }
}
