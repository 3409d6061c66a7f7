//! Victims by dominant share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::super::entries::{Slot, TenantIx};
use super::super::preemption::Rule;
use super::super::tree::{Ix, KeyIx};
use super::super::{Amount, Reclaim, Share, Tree};
use super::{Search, VIEW, Victim, Wish, may_have, uses};
use crate::WorkloadId;

/// The two highest shares among the children of each cohort.
pub(in super::super) struct Shares(BTreeMap<Ix, [(Share, Ix); 2]>);

impl Shares {
    /// Of the cohorts of one tree.
    pub fn new(tree: &Tree, root: Ix) -> Self {
        let mut highest = BTreeMap::new();
        let mut open = vec![root];
        while let Some(node) = open.pop() {
            let mut two = [(Share::NONE, node); 2];
            for &child in &tree.nodes[node as usize].children {
                open.push(child);
                let share = tree.share(VIEW, child);
                if share > two[0].0 {
                    two = [(share, child), two[0]];
                } else if share > two[1].0 {
                    two[1] = (share, child);
                }
            }
            highest.insert(node, two);
        }
        Self(highest)
    }

    /// The highest in a cohort, but for one child's.
    fn beside(&self, cohort: Ix, child: Ix) -> Share {
        let two = self.0.get(&cohort);
        two.and_then(|two| two.iter().find(|s| s.1 != child)).map_or(Share::NONE, |s| s.0)
    }
}

impl Search<'_> {
    /// Whether preempting by shares could help at all: never wrong when it
    /// says no. The first victim is its tenant's own, or of a node whose share
    /// is no smaller than that of the wish's, on some level.
    pub fn fair_could_help(&mut self, wish: Wish<'_>, shares: &Shares) -> bool {
        let node = self.node(wish);
        self.without_own(wish, |search| {
            if may_have(search.tree, node, wish.amounts) {
                return true;
            }
            if !search.reclaims(wish) {
                return false;
            }
            search.with_wish(wish, true);
            let mut ours = node;
            let mut helps = false;
            while let (false, Some(cohort)) = (helps, search.tree.parent(ours)) {
                let theirs = shares.beside(cohort, ours);
                let own = |&(key, amount): &(KeyIx, Amount)| {
                    amount > 0 && !search.tree.borrows_with(VIEW, ours, key, 0)
                };
                // With one resource a victim's leaving lowers its tenant's share.
                let share = search.tree.share(VIEW, ours);
                let lower = share < theirs || share == theirs && search.tree.keys().len() > 1;
                helps = !theirs.is_none() && (lower || wish.amounts.iter().any(own));
                ours = cohort;
            }
            search.with_wish(wish, false);
            helps
        })
    }

    /// Victims by dominant share: from the node with the highest share down,
    /// while the preemptor's share after is no larger than the target's after,
    /// else while it is smaller than the target's before.
    pub fn fair(&mut self, wish: Wish<'_>) -> Option<Vec<Victim>> {
        let keys = self.contended(wish);
        let node = self.node(wish);
        let reclaim = self.tree.nodes[node as usize].policies.reclaim;
        let project_only = self.is_projects_matter(wish);
        let rule = if self.would_borrow(wish) { Rule::FairShare } else { Rule::Reclaim };
        let mut candidates: BTreeMap<TenantIx, Vec<Slot>> = BTreeMap::new();
        let own = self.tenants[wish.tenant as usize].granted.victims(self.entries, false);
        let own: Vec<Slot> = own
            .map(|v| v.3)
            .filter(|&slot| self.may_take_own(wish, self.entries.get(slot), &keys, project_only))
            .collect();
        candidates.insert(wish.tenant, own);
        if reclaim != Reclaim::Never && !project_only {
            let mut open = vec![self.tree.nodes[node as usize].root];
            while let Some(n) = open.pop() {
                open.extend(&self.tree.nodes[n as usize].children);
                let Some(tenant) = self.tenant_at[n as usize].filter(|t| *t != wish.tenant) else { continue };
                if self.within_nominal(n, &keys) {
                    continue;
                }
                let theirs = self.tenants[tenant as usize].granted.victims(self.entries, true);
                let allowed = |v: &(i32, Reverse<i64>, WorkloadId, Slot)| {
                    (reclaim == Reclaim::Any || v.0 < wish.priority) && uses(self.entries.get(v.3), &keys)
                };
                candidates.insert(tenant, theirs.filter(allowed).map(|v| v.3).collect());
            }
        }
        candidates.values_mut().for_each(|c| c.reverse());
        candidates.retain(|_, c| !c.is_empty());

        self.with_wish(wish, true);
        let mut victims = Vec::new();
        let mut again: BTreeMap<TenantIx, Vec<Slot>> = BTreeMap::new();
        let mut found = self.by_final_share(wish, (rule, &keys), candidates, &mut victims, &mut again);
        if !found {
            again.values_mut().for_each(|c| c.reverse());
            found = self.by_initial_share(wish, (rule, &keys), again, &mut victims);
        }
        self.with_wish(wish, false);
        if found {
            return Some(self.spare(wish, victims, true));
        }
        victims.iter().for_each(|v| self.give_back(v.0));
        None
    }

    /// Counts the wish as used, or no more.
    fn with_wish(&mut self, wish: Wish<'_>, add: bool) {
        for &(key, amount) in wish.amounts {
            if add {
                self.tree.add(VIEW, wish.leaf, key, amount);
            } else {
                self.tree.remove(VIEW, wish.leaf, key, amount);
            }
        }
    }

    fn fits_once_added(&mut self, wish: Wish<'_>) -> bool {
        self.with_wish(wish, false);
        let fits = may_have(self.tree, wish.leaf, wish.amounts);
        self.with_wish(wish, true);
        fits
    }

    fn by_final_share(
        &mut self,
        wish: Wish<'_>,
        (rule, keys): (Rule, &[KeyIx]),
        mut candidates: BTreeMap<TenantIx, Vec<Slot>>,
        victims: &mut Vec<Victim>,
        again: &mut BTreeMap<TenantIx, Vec<Slot>>,
    ) -> bool {
        while let Some(target) = self.highest(wish, &mut candidates) {
            let own = target == wish.tenant;
            let (cohort, ours, theirs) = self.apart(wish.tenant, target);
            let share = self.tree.share(VIEW, ours);
            // What is within the quota of its subtree goes before any borrower
            // from that subtree, whatever else either borrows.
            let reclaims = self.within_nominal(ours, keys);
            while let Some(slot) = candidates.get_mut(&target).and_then(Vec::pop) {
                if !own && !self.is_borrowed(self.entries.get(slot), cohort, keys) {
                    continue;
                }
                self.take(slot);
                if own || reclaims || share <= self.tree.share(VIEW, theirs) {
                    victims.push((slot, if own { Rule::WithinTenant } else { rule }));
                    if self.fits_once_added(wish) {
                        return true;
                    }
                    // Another may have the highest share now.
                    break;
                }
                self.give_back(slot);
                again.entry(target).or_default().push(slot);
            }
            candidates.retain(|_, c| !c.is_empty());
        }
        false
    }

    fn by_initial_share(
        &mut self,
        wish: Wish<'_>,
        (rule, keys): (Rule, &[KeyIx]),
        mut candidates: BTreeMap<TenantIx, Vec<Slot>>,
        victims: &mut Vec<Victim>,
    ) -> bool {
        while let Some(target) = self.highest(wish, &mut candidates) {
            let (cohort, ours, theirs) = self.apart(wish.tenant, target);
            let borrowed = |slot: &Slot| self.is_borrowed(self.entries.get(*slot), cohort, keys);
            let slots = candidates.remove(&target).unwrap_or_default();
            if self.tree.share(VIEW, ours) < self.tree.share(VIEW, theirs)
                && let Some(slot) = slots.into_iter().rev().find(borrowed)
            {
                self.take(slot);
                victims.push((slot, rule));
                if self.fits_once_added(wish) {
                    return true;
                }
            }
        }
        false
    }

    /// The lowest cohort that two tenants share, and the two nodes just below
    /// it.
    fn apart(&self, a: TenantIx, b: TenantIx) -> (Ix, Ix, Ix) {
        let path = |t: TenantIx| -> Vec<Ix> {
            let node = self.tenants[t as usize].node;
            let mut path: Vec<Ix> = std::iter::successors(Some(node), |&n| self.tree.parent(n)).collect();
            path.reverse();
            path
        };
        let (a, b) = (path(a), path(b));
        let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let below = |path: &[Ix]| path[same.min(path.len() - 1)];
        (a[same - 1], below(&a), below(&b))
    }

    /// The tenant to take from next: at each cohort the way of the highest
    /// share. Whoever does not borrow is left alone, but for the preemptor's
    /// own and the cohorts above it.
    fn highest(&self, wish: Wish<'_>, candidates: &mut BTreeMap<TenantIx, Vec<Slot>>) -> Option<TenantIx> {
        let node = self.node(wish);
        let ours: Vec<Ix> = std::iter::successors(Some(node), |&n| self.tree.parent(n)).collect();
        let mut ways: BTreeMap<Ix, BTreeSet<Ix>> = BTreeMap::new();
        candidates.retain(|&tenant, _| {
            let mut node = self.tenants[tenant as usize].node;
            let path: Vec<Ix> = std::iter::successors(Some(node), |&n| self.tree.parent(n)).collect();
            let protects = |n: &Ix| !ours.contains(n) && self.tree.share(VIEW, *n).is_none();
            if path.iter().any(protects) {
                return false;
            }
            for &parent in &path[1..] {
                ways.entry(parent).or_default().insert(node);
                node = parent;
            }
            true
        });
        if candidates.is_empty() {
            return None;
        }
        let mut at = self.tree.nodes[node as usize].root;
        while self.tenant_at[at as usize].is_none() {
            let rank = |&n: &Ix| {
                (
                    self.tree.share(VIEW, n),
                    self.tenant_at[n as usize].is_none(),
                    self.tree.nodes[n as usize].id,
                )
            };
            at = ways.get(&at)?.iter().copied().max_by_key(|n| rank(n))?;
        }
        self.tenant_at[at as usize]
    }
}
