//! Budgets: what may be spent in a period. Part of the same ledger as quota:
//! reserved at admission, settled at the end with what was truly used.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::queue::Shape;
use super::tree::{Ix, KeyIx};
use super::{Admissions, Amount, NodeId, NodeSpec};
use crate::WorkloadId;

/// What a budget counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// Tokens in and out.
    Tokens,
    /// Thousandths of an accelerator of a class, times seconds; 3.6 million
    /// make an accelerator-hour.
    AcceleratorMilliSeconds(#[serde(with = "super::snapshot::text")] Arc<str>),
}

/// What a node and those below it may spend in the current period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Most of it.
    pub limit: Amount,
    /// What was settled in this period.
    pub spent: Amount,
}

/// A budget with what is reserved of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BudgetState {
    /// Most of it.
    pub limit: Amount,
    /// Settled.
    pub spent: Amount,
    /// Of what is admitted and not settled.
    pub reserved: Amount,
}

impl BudgetState {
    /// What can still be reserved; negative after a cut.
    pub fn free(&self) -> Amount {
        self.limit.saturating_sub(self.spent).saturating_sub(self.reserved)
    }
}

/// Where a budget stops an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub node: Ix,
    pub kind: BudgetKind,
    pub asked: Amount,
    pub free: Amount,
}

/// Every budget, by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets(BTreeMap<(Ix, BudgetKind), BudgetState>);

impl Budgets {
    pub fn new(specs: &[NodeSpec]) -> Self {
        let mut all = BTreeMap::new();
        for (ix, spec) in specs.iter().enumerate() {
            for (kind, budget) in &spec.budgets {
                let state = BudgetState { limit: budget.limit, spent: budget.spent, reserved: 0 };
                all.insert((ix as Ix, kind.clone()), state);
            }
        }
        Self(all)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, node: Ix, kind: &BudgetKind) -> Option<BudgetState> {
        self.0.get(&(node, kind.clone())).copied()
    }

    /// The first budget on the path that has too little.
    pub fn short(&self, path: &[Ix], ask: &[(BudgetKind, Amount)]) -> Option<Short> {
        if self.0.is_empty() {
            return None;
        }
        path.iter().find_map(|&node| {
            ask.iter().find_map(|(kind, asked)| {
                let free = self.get(node, kind)?.free();
                let short = *asked > free && *asked > 0;
                short.then(|| Short { node, kind: kind.clone(), asked: *asked, free })
            })
        })
    }

    fn each(&mut self, path: &[Ix], kind: &BudgetKind, mut change: impl FnMut(&mut BudgetState)) {
        for &node in path {
            if let Some(state) = self.0.get_mut(&(node, kind.clone())) {
                change(state);
            }
        }
    }

    pub fn reserve(&mut self, path: &[Ix], ask: &[(BudgetKind, Amount)]) {
        for (kind, amount) in ask {
            self.each(path, kind, |state| state.reserved = state.reserved.saturating_add(*amount));
        }
    }

    pub fn free(&mut self, path: &[Ix], ask: &[(BudgetKind, Amount)]) {
        for (kind, amount) in ask {
            self.each(path, kind, |state| state.reserved = state.reserved.saturating_sub(*amount));
        }
    }

    pub fn spend(&mut self, path: &[Ix], used: &[(BudgetKind, Amount)]) {
        for (kind, amount) in used {
            self.each(path, kind, |state| state.spent = state.spent.saturating_add(*amount));
        }
    }

    /// A new period: nothing is spent, reservations go on. Returns whether the
    /// budget is there.
    pub fn begin_period(&mut self, node: Ix, kind: &BudgetKind) -> bool {
        match self.0.get_mut(&(node, kind.clone())) {
            Some(state) => {
                state.spent = 0;
                true
            }
            None => false,
        }
    }

    /// What is spent is this; returns whether that is less than it was, or nothing
    /// if the budget is not there.
    fn set_spent(&mut self, node: Ix, kind: &BudgetKind, spent: Amount) -> Option<bool> {
        let state = self.0.get_mut(&(node, kind.clone()))?;
        let before = std::mem::replace(&mut state.spent, spent);
        Some(spent < before)
    }

    /// What the specification of a node would be with what is spent now.
    pub fn spent_into(&self, specs: &mut [NodeSpec], index: impl Fn(NodeId) -> Option<Ix>) {
        for spec in specs {
            let Some(ix) = index(spec.id) else { continue };
            for (kind, budget) in &mut spec.budgets {
                if let Some(state) = self.get(ix, kind) {
                    budget.spent = state.spent;
                }
            }
        }
    }
}

impl Admissions {
    /// What of the budgets that an ask names is spent where it is granted these
    /// amounts: time of accelerators of the class that it gets, and tokens.
    pub(super) fn spends(
        &self,
        amounts: &[(KeyIx, Amount)],
        budget: &[(BudgetKind, Amount)],
    ) -> Vec<(BudgetKind, Amount)> {
        if self.budgets.is_empty() {
            return Vec::new();
        }
        let is_spent = |kind: &BudgetKind| match kind {
            BudgetKind::Tokens => true,
            BudgetKind::AcceleratorMilliSeconds(class) => {
                amounts.iter().any(|&(key, _)| self.tree.key(key).class == *class)
            }
        };
        budget.iter().filter(|(kind, _)| is_spent(kind)).cloned().collect()
    }

    /// The first budget that has too little for a shape in one of its options.
    pub(super) fn short_of_budget(&self, shape: &Shape, option: usize) -> Option<Short> {
        if self.budgets.is_empty() {
            return None;
        }
        let spends = self.spends(&shape.options[option], &shape.budget);
        self.budgets.short(&self.path(shape.leaf), &spends)
    }

    /// The last that was promised room and whose budget is overdrawn by now, for
    /// what runs has run on, or less may be spent than when it was promised.
    pub fn promised_beyond_budget(&self) -> Option<WorkloadId> {
        if self.budgets.is_empty() {
            return None;
        }
        let claims = self.roots.values().flat_map(|root| &root.claims);
        let overdrawn = claims.filter(|(_, slot)| {
            let entry = self.entries.get(*slot);
            let Some(grant) = entry.granted() else { return false };
            let spends = self.spends(&grant.amounts, &entry.ask.budget);
            let is_overdrawn = |&node: &Ix| {
                let of = |kind| self.budgets.get(node, kind);
                spends.iter().any(|(kind, asked)| *asked > 0 && of(kind).is_some_and(|b| b.free() < 0))
            };
            self.path(entry.leaf).iter().any(is_overdrawn)
        });
        overdrawn.max().map(|&(_, slot)| self.entries.get(slot).ask.id)
    }

    /// What is spent of a budget by now is this, told as a whole by who counts it.
    /// Returns whether the budget is there.
    pub fn set_spent(&mut self, node: NodeId, kind: &BudgetKind, spent: Amount) -> bool {
        let Some(ix) = self.tree.node(node) else { return false };
        let Some(less) = self.budgets.set_spent(ix, kind, spent) else { return false };
        if less {
            let root = self.tree.nodes[ix as usize].root;
            self.roots.entry(root).or_default().released = true;
            self.dirty.insert(root);
        }
        true
    }
}
