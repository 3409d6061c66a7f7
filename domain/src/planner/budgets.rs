//! Budgets of accelerators' time: what is spent by now, when a period is over,
//! and what is told of one that is exhausted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reasons::Reason;
use super::{Planner, Snapshot};
use crate::accelerators::ResourceRequest;
use crate::budgets::{RESERVE_SECS, TimeBudget, in_words, whole};
use crate::quotas::{Amount, Budget, BudgetKind, BudgetState, Level, NodeId, NodeSpec, WhyNot};
use crate::workloads::WorkloadState;
use crate::{PlacementId, TenantId, Timestamp, WorkloadId};

fn kind(class: &str) -> BudgetKind {
    BudgetKind::AcceleratorMilliSeconds(Arc::from(class))
}

/// Puts budgets on the nodes that they are of. A project that has a budget and no
/// limit gets a node.
pub(super) fn add(budgets: &BTreeMap<TenantId, Vec<TimeBudget>>, nodes: &mut Vec<NodeSpec>) {
    if budgets.is_empty() {
        return;
    }
    let mut places: BTreeMap<NodeId, usize> =
        nodes.iter().enumerate().map(|(n, spec)| (spec.id, n)).collect();
    for (tenant, budgets) in budgets {
        // One that asks for nothing and has no quota is not in the tree.
        if !places.contains_key(&NodeId::Tenant(*tenant)) {
            continue;
        }
        for budget in budgets {
            let id = budget.node(*tenant);
            let place = *places.entry(id).or_insert_with(|| {
                nodes.push(NodeSpec::new(id, Some(NodeId::Tenant(*tenant))));
                nodes.len() - 1
            });
            nodes[place].budgets.insert(kind(&budget.class), Budget { limit: budget.limit, spent: 0 });
        }
    }
}

/// What a workload reserves, in each class that it would do with and of which its
/// tenant has a budget.
pub(super) fn asked(
    budgets: Option<&Vec<TimeBudget>>,
    resources: &ResourceRequest,
) -> Vec<(BudgetKind, Amount)> {
    let Some(budgets) = budgets else { return Vec::new() };
    let classes = resources.classes().filter(|class| budgets.iter().any(|budget| budget.class == *class));
    classes.map(|class| (kind(class), Amount::from(resources.milli) * RESERVE_SECS)).collect()
}

impl Snapshot {
    /// A placement ends now: the budgets that cover it have spent what it held.
    pub fn settle_time(&mut self, id: PlacementId, now: Timestamp) {
        let Some(placement) = self.placements.get(&id) else { return };
        for budget in self.budgets.get_mut(&placement.tenant_id).into_iter().flatten() {
            if budget.covers(placement.project_id, &placement.class) {
                budget.settle(placement.resources.milli, placement.since, now);
            }
        }
    }

    /// The budgets that are of a tenant, as the ledger counts them by now: what is
    /// spent beyond what is reserved.
    fn spent(
        &self,
        tenant: TenantId,
        budgets: &[TimeBudget],
        running: &[&super::LivePlacement],
        now: Timestamp,
    ) -> Vec<(NodeId, BudgetKind, Amount)> {
        let spent = |budget: &TimeBudget| {
            let covered = running.iter().filter(|p| budget.covers(p.project_id, &p.class));
            let beyond = covered.map(|p| budget.beyond_reserve(p.resources.milli, p.since, now));
            whole(beyond.fold(budget.settled(now), Amount::saturating_add))
        };
        budgets.iter().map(|b| (b.node(tenant), kind(&b.class), spent(b))).collect()
    }
}

impl Planner {
    /// Whose budgets are of a period that is over, and should be asked anew before
    /// the next plan: something may have ended since.
    pub fn turned(&self, now: Timestamp) -> Vec<TenantId> {
        let over = |budgets: &[TimeBudget]| budgets.iter().any(|budget| budget.is_over(now));
        self.facts.budgets.iter().filter(|(_, all)| over(all)).map(|(tenant, _)| *tenant).collect()
    }

    pub(super) fn tell_budgets(&mut self, tenant: TenantId, budgets: Vec<TimeBudget>) {
        let before = self.facts.budgets.get(&tenant).map_or(&[][..], Vec::as_slice);
        if before == budgets {
            return;
        }
        let alike = before.len() == budgets.len() && before.iter().zip(&budgets).all(|(a, b)| a.is_alike(b));
        let turned = !alike || before.iter().zip(&budgets).any(|(a, b)| a.began != b.began);
        if turned {
            // When its period ends is told with why something waits.
            let all = self.facts.workloads.values();
            let waits = all.filter(|w| w.tenant_id == tenant && w.state == WorkloadState::Pending);
            self.untold.extend(waits.map(|w| w.id));
        }
        self.requote |= !alike;
        if budgets.is_empty() {
            self.facts.budgets.remove(&tenant);
        } else {
            self.facts.budgets.insert(tenant, budgets);
        }
    }

    /// Tells quota what is spent by now. What runs spends more the longer it does.
    pub(super) fn spend(&mut self, now: Timestamp) {
        if self.facts.budgets.is_empty() {
            return;
        }
        let mut running: BTreeMap<TenantId, Vec<&super::LivePlacement>> = BTreeMap::new();
        for placement in self.facts.placements.values() {
            if self.facts.budgets.contains_key(&placement.tenant_id) {
                running.entry(placement.tenant_id).or_default().push(placement);
            }
        }
        let none = Vec::new();
        let mut spent = Vec::new();
        for (tenant, budgets) in &self.facts.budgets {
            spent.extend(self.facts.spent(*tenant, budgets, running.get(tenant).unwrap_or(&none), now));
        }
        for (node, kind, spent) in spent {
            self.admissions.set_spent(node, &kind, spent);
        }
    }

    /// Why a budget does not let a workload begin, with the figures of now.
    pub(super) fn of_budget(&self, id: WorkloadId, why: &WhyNot, now: Timestamp) -> Reason {
        let (Some(BudgetKind::AcceleratorMilliSeconds(class)), Some(node)) = (&why.budget, why.node) else {
            return Reason {
                level: Some(Level::Budget),
                text: "a budget has too little left for it".to_owned(),
            };
        };
        let tenant = self.facts.workloads.get(&id).map(|workload| workload.tenant_id);
        let all = tenant.and_then(|tenant| self.facts.budgets.get(&tenant));
        let budget = all.and_then(|all| {
            all.iter().find(|b| *b.class == **class && tenant.is_some_and(|t| b.node(t) == node))
        });
        let state = self.admissions.budget(node, &kind(class)).unwrap_or_default();
        let whose = if matches!(node, NodeId::Project(_)) { "its project" } else { "its tenant" };
        Reason { level: Some(Level::Budget), text: told(whose, class, budget, state, why.asked, now) }
    }
}

fn told(
    whose: &str,
    class: &str,
    budget: Option<&TimeBudget>,
    state: BudgetState,
    asked: Amount,
    now: Timestamp,
) -> String {
    let most = in_words(state.limit);
    let period = budget.map_or("period", |budget| budget.period.as_str());
    if asked > state.limit {
        return format!(
            "it would reserve {} of class {class}, which is more than {whose}'s budget of {most} a {period}",
            in_words(asked)
        );
    }
    let left = in_words(state.free().max(0));
    let ends = budget.map_or_else(String::new, |b| format!("; its period ends at {}", b.period.ends(now)));
    format!(
        "{whose}'s budget of {most} of class {class} a {period} is spent or reserved but for {left}, and it would reserve {}{ends}",
        in_words(asked)
    )
}
