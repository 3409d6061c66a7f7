//! Whom to preempt.
//!
//! Both searches work on the promised view and leave it as they found it. They
//! take victims in order until the wish fits, then give back in reverse
//! whomever they can: no victim of the answer could be spared.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::entries::{Entries, Entry, Slot, TenantIx};
use super::preemption::Rule;
use super::state::Tenant;
use super::tree::{Ix, KeyIx};
use super::{Amount, BorrowWhilePreempting, Reclaim, Tree, View, WithinTenant};
use crate::WorkloadId;

const VIEW: View = View::Promised;

/// What a workload wants.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub tenant: TenantIx,
    pub leaf: Ix,
    pub priority: i32,
    pub queued_us: i64,
    pub amounts: &'a [(KeyIx, Amount)],
}

/// A victim and the rule that allows it.
pub(super) type Victim = (Slot, Rule);

pub(super) struct Search<'a> {
    pub tree: &'a mut Tree,
    pub entries: &'a Entries,
    pub tenants: &'a [Tenant],
    pub tenant_at: &'a [Option<TenantIx>],
}

/// Whether `amounts` fit in a view.
pub(super) fn fits(tree: &Tree, view: View, leaf: Ix, amounts: &[(KeyIx, Amount)]) -> bool {
    let tenant = tree.tenant_of(leaf);
    amounts.iter().all(|&(key, amount)| {
        amount == 0
            || tree.lists(tenant, key)
                && tree.project_room(view, leaf, key).is_none_or(|room| room >= amount)
                && tree.available(view, tenant, key) >= amount
    })
}

/// A source of victims, merged with others by [`Order`].
type Source<'a> = Box<dyn Iterator<Item = (i32, Reverse<i64>, WorkloadId, Slot)> + 'a>;
/// Where victims come from goes before what they are.
type Order = (Standpoint, i32, Reverse<i64>, WorkloadId);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standpoint {
    /// Borrows from a subtree whose quota the wish fits.
    Beneath,
    /// Borrows from elsewhere.
    Beside,
    /// The tenant's own.
    Own,
}

impl<'a> Search<'a> {
    fn node(&self, wish: Wish<'_>) -> Ix {
        self.tenants[wish.tenant as usize].node
    }

    /// What has too little room.
    fn contended(&self, wish: Wish<'_>) -> Vec<KeyIx> {
        let short = |(key, amount): &(KeyIx, Amount)| !fits(self.tree, VIEW, wish.leaf, &[(*key, *amount)]);
        wish.amounts.iter().filter(|a| short(a)).map(|a| a.0).collect()
    }

    fn within_nominal(&self, node: Ix, keys: &[KeyIx]) -> bool {
        keys.iter().all(|&key| !self.tree.borrows_with(VIEW, node, key, 0))
    }

    /// Whether the wish's tenant would borrow with it.
    fn would_borrow(&self, wish: Wish<'_>) -> bool {
        let node = self.node(wish);
        wish.amounts
            .iter()
            .any(|&(key, amount)| amount > 0 && self.tree.borrows_with(VIEW, node, key, amount))
    }

    /// Whether it would borrow with it even without those victims.
    pub fn borrows_without(&mut self, wish: Wish<'_>, victims: &[Victim]) -> bool {
        victims.iter().for_each(|v| self.take(v.0));
        let borrows = self.would_borrow(wish);
        victims.iter().for_each(|v| self.give_back(v.0));
        borrows
    }

    fn take(&mut self, slot: Slot) {
        let entry = self.entries.get(slot);
        for &(key, amount) in entry.granted().map(|g| &g.amounts[..]).unwrap_or_default() {
            self.tree.remove(VIEW, entry.leaf, key, amount);
        }
    }

    fn give_back(&mut self, slot: Slot) {
        let entry = self.entries.get(slot);
        for &(key, amount) in entry.granted().map(|g| &g.amounts[..]).unwrap_or_default() {
            self.tree.add(VIEW, entry.leaf, key, amount);
        }
    }

    /// Only its project's limit is in the way, so that other tenants' victims
    /// are of no use.
    fn is_projects_matter(&self, wish: Wish<'_>) -> bool {
        fits(self.tree, VIEW, self.node(wish), wish.amounts)
    }

    fn may_take_own(&self, wish: Wish<'_>, victim: &Entry, keys: &[KeyIx], project_only: bool) -> bool {
        let priority = victim.ask.priority;
        let allowed = match self.tree.nodes[self.node(wish) as usize].policies.within {
            WithinTenant::Never => false,
            WithinTenant::LowerPriority => priority < wish.priority,
            WithinTenant::LowerOrNewerEqualPriority => {
                priority < wish.priority || priority == wish.priority && victim.queued_us > wish.queued_us
            }
        };
        allowed && uses(victim, keys) && (!project_only || victim.leaf == wish.leaf)
    }

    /// Whether the wish's tenant may preempt others at all.
    pub fn reclaims(&self, wish: Wish<'_>) -> bool {
        let node = self.node(wish);
        self.tree.nodes[node as usize].policies.reclaim != Reclaim::Never && !self.tree.is_root(node)
    }

    /// Whether preempting could help at all: cheap, and never wrong when it
    /// says no.
    pub fn could_help(&mut self, wish: Wish<'_>) -> bool {
        let node = self.node(wish);
        let tenant = &self.tenants[wish.tenant as usize];
        let policies = self.tree.nodes[node as usize].policies;
        let below = match policies.within {
            WithinTenant::Never => None,
            WithinTenant::LowerPriority => wish.priority.checked_sub(1),
            WithinTenant::LowerOrNewerEqualPriority => Some(wish.priority),
        };
        let own = below.map(|highest| tenant.granted.total(highest)).unwrap_or_default();
        for &(key, amount) in &own {
            self.tree.remove(VIEW, node, key, amount);
        }
        let own_helps = fits(self.tree, VIEW, node, wish.amounts);
        let others_help = self.reclaims(wish)
            && (policies.borrow != BorrowWhilePreempting::Never
                || !self.would_borrow(wish)
                || self.advantage(wish).is_some());
        for &(key, amount) in &own {
            self.tree.add(VIEW, node, key, amount);
        }
        own_helps || others_help
    }

    /// The lowest node whose quota the wish fits.
    fn advantage(&self, wish: Wish<'_>) -> Option<Ix> {
        let mut rest = wish.amounts.to_vec();
        let mut node = Some(self.node(wish));
        while let Some(n) = node {
            if self.fit_in_quota(n, &mut rest) {
                return Some(n);
            }
            node = self.tree.parent(n);
        }
        None
    }

    /// Whether `rest` fits the quota of a node; what the node keeps for itself
    /// is taken off.
    fn fit_in_quota(&self, node: Ix, rest: &mut [(KeyIx, Amount)]) -> bool {
        let mut all = true;
        for (key, amount) in rest {
            all &= *amount == 0 || !self.tree.borrows_with(VIEW, node, *key, *amount);
            *amount = (*amount - self.tree.own_room(VIEW, node, *key)).max(0);
        }
        all
    }

    /// Victims by priority and by the shape of the tree.
    pub fn classical(&mut self, wish: Wish<'_>) -> Option<Vec<Victim>> {
        let keys = self.contended(wish);
        let node = self.node(wish);
        let policies = self.tree.nodes[node as usize].policies;
        let project_only = self.is_projects_matter(wish);
        let others = if project_only { Vec::new() } else { self.borrowers(wish, &keys) };
        let may_borrow = policies.borrow != BorrowWhilePreempting::Never;
        let under_nominal = keys.iter().all(|&k| self.tree.usage(VIEW, node, k) < self.tree.subtree(node, k));
        let attempts: &[bool] = if others.is_empty() || (!may_borrow && !under_nominal) {
            &[true]
        } else if !may_borrow && others.iter().all(|o| o.0 != Standpoint::Beneath) {
            &[false, true]
        } else {
            &[true, false]
        };
        attempts.iter().find_map(|&borrow| self.attempt(wish, &keys, &others, project_only, borrow))
    }

    /// Tenants that use more than their own of what is contended, each with
    /// the lowest cohort that it shares with the wish's tenant.
    fn borrowers(&self, wish: Wish<'_>, keys: &[KeyIx]) -> Vec<(Standpoint, TenantIx, Ix)> {
        let mut found = Vec::new();
        let mut below = self.node(wish);
        if self.tree.nodes[below as usize].policies.reclaim == Reclaim::Never {
            return found;
        }
        let mut rest = wish.amounts.to_vec();
        let mut advantage = self.fit_in_quota(below, &mut rest);
        while let Some(cohort) = self.tree.parent(below) {
            let standpoint = if advantage { Standpoint::Beneath } else { Standpoint::Beside };
            let mut open = vec![cohort];
            while let Some(node) = open.pop() {
                for &child in &self.tree.nodes[node as usize].children {
                    if child == below || self.within_nominal(child, keys) {
                        continue;
                    }
                    match self.tenant_at[child as usize] {
                        Some(tenant) => found.push((standpoint, tenant, cohort)),
                        None => open.push(child),
                    }
                }
            }
            advantage |= self.fit_in_quota(cohort, &mut rest);
            below = cohort;
        }
        found
    }

    /// Whether a tenant and every cohort between it and `up_to` still borrow.
    fn still_borrows(&self, tenant: TenantIx, up_to: Ix, keys: &[KeyIx]) -> bool {
        let mut node = self.tenants[tenant as usize].node;
        loop {
            if self.within_nominal(node, keys) {
                return false;
            }
            match self.tree.parent(node) {
                Some(parent) if parent != up_to => node = parent,
                _ => return true,
            }
        }
    }

    fn attempt(
        &mut self,
        wish: Wish<'_>,
        keys: &[KeyIx],
        others: &[(Standpoint, TenantIx, Ix)],
        project_only: bool,
        borrow: bool,
    ) -> Option<Vec<Victim>> {
        let policies = self.tree.nodes[self.node(wish) as usize].policies;
        let (tenants, entries) = (self.tenants, self.entries);
        let mut sources: Vec<(Standpoint, TenantIx, Ix, Source<'a>)> = Vec::new();
        for &(standpoint, tenant, up_to) in others {
            let victims = tenants[tenant as usize].granted.victims(entries, true);
            sources.push((standpoint, tenant, up_to, Box::new(victims)));
        }
        if policies.within != WithinTenant::Never {
            let own = tenants[wish.tenant as usize].granted.victims(entries, false);
            sources.push((Standpoint::Own, wish.tenant, 0, Box::new(own)));
        }
        let mut next: BTreeSet<(Order, usize, Slot)> = BTreeSet::new();
        let mut advance = |next: &mut BTreeSet<_>, source: usize| {
            let (standpoint, _, _, victims) = &mut sources[source];
            if let Some((priority, at, id, slot)) = victims.next() {
                next.insert(((*standpoint, priority, at, id), source, slot));
            }
        };
        let ways: Vec<_> = others.iter().map(|o| (o.1, o.2)).chain([(wish.tenant, 0)]).collect();
        for source in 0..others.len() + usize::from(policies.within != WithinTenant::Never) {
            advance(&mut next, source);
        }

        let mut victims: Vec<Victim> = Vec::new();
        while let Some(((standpoint, priority, ..), source, slot)) = next.pop_first() {
            let lower = priority < wish.priority;
            let rule = match standpoint {
                Standpoint::Own => Rule::WithinTenant,
                // A source that yields none of these will not later either:
                // priorities rise, and a tenant that has stopped borrowing
                // does not begin again.
                _ if policies.reclaim == Reclaim::LowerPriority && !lower => continue,
                _ if !self.still_borrows(ways[source].0, ways[source].1, keys) => continue,
                Standpoint::Beneath => Rule::Reclaim,
                Standpoint::Beside if borrow => match policies.borrow {
                    BorrowWhilePreempting::LowerPriority { max_priority }
                        if lower && max_priority.is_none_or(|most| priority <= most) =>
                    {
                        Rule::ReclaimWhileBorrowing
                    }
                    _ => continue,
                },
                Standpoint::Beside => Rule::Reclaim,
            };
            advance(&mut next, source);
            let victim = self.entries.get(slot);
            let taken = match standpoint {
                Standpoint::Own => self.may_take_own(wish, victim, keys, project_only),
                _ => uses(victim, keys),
            };
            if !taken {
                continue;
            }
            self.take(slot);
            victims.push((slot, rule));
            if self.would_fit(wish, borrow) {
                return Some(self.spare(wish, victims, borrow));
            }
        }
        victims.iter().for_each(|v| self.give_back(v.0));
        None
    }

    fn would_fit(&self, wish: Wish<'_>, borrow: bool) -> bool {
        fits(self.tree, VIEW, wish.leaf, wish.amounts) && (borrow || !self.would_borrow(wish))
    }

    /// Gives back in reverse whomever the wish can do without.
    fn spare(&mut self, wish: Wish<'_>, victims: Vec<Victim>, borrow: bool) -> Vec<Victim> {
        let mut kept = Vec::with_capacity(victims.len());
        for victim in victims.into_iter().rev() {
            self.give_back(victim.0);
            if !self.would_fit(wish, borrow) {
                self.take(victim.0);
                kept.push(victim);
            }
        }
        kept.reverse();
        kept.iter().for_each(|v| self.give_back(v.0));
        kept
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
        let mut found = self.by_final_share(wish, rule, candidates, &mut victims, &mut again);
        if !found {
            again.values_mut().for_each(|c| c.reverse());
            found = self.by_initial_share(wish, rule, again, &mut victims);
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
        let fits = fits(self.tree, VIEW, wish.leaf, wish.amounts);
        self.with_wish(wish, true);
        fits
    }

    fn by_final_share(
        &mut self,
        wish: Wish<'_>,
        rule: Rule,
        mut candidates: BTreeMap<TenantIx, Vec<Slot>>,
        victims: &mut Vec<Victim>,
        again: &mut BTreeMap<TenantIx, Vec<Slot>>,
    ) -> bool {
        while let Some(target) = self.highest(wish, &mut candidates) {
            let own = target == wish.tenant;
            let (ours, theirs) = self.apart(wish.tenant, target);
            let share = self.tree.share(VIEW, ours);
            while let Some(slot) = candidates.get_mut(&target).and_then(Vec::pop) {
                self.take(slot);
                if own || share <= self.tree.share(VIEW, theirs) {
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
        rule: Rule,
        mut candidates: BTreeMap<TenantIx, Vec<Slot>>,
        victims: &mut Vec<Victim>,
    ) -> bool {
        while let Some(target) = self.highest(wish, &mut candidates) {
            let (ours, theirs) = self.apart(wish.tenant, target);
            if self.tree.share(VIEW, ours) < self.tree.share(VIEW, theirs)
                && let Some(slot) = candidates.get_mut(&target).and_then(Vec::pop)
            {
                self.take(slot);
                victims.push((slot, rule));
                if self.fits_once_added(wish) {
                    return true;
                }
            }
            candidates.remove(&target);
        }
        false
    }

    /// The two nodes just below the lowest cohort that two tenants share.
    fn apart(&self, a: TenantIx, b: TenantIx) -> (Ix, Ix) {
        let path = |t: TenantIx| -> Vec<Ix> {
            let node = self.tenants[t as usize].node;
            let mut path: Vec<Ix> = std::iter::successors(Some(node), |&n| self.tree.parent(n)).collect();
            path.reverse();
            path
        };
        let (a, b) = (path(a), path(b));
        let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let below = |path: &[Ix]| path[same.min(path.len() - 1)];
        (below(&a), below(&b))
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

fn uses(entry: &Entry, keys: &[KeyIx]) -> bool {
    let amounts = entry.granted().map(|g| &g.amounts[..]).unwrap_or_default();
    amounts.iter().any(|(key, amount)| *amount > 0 && keys.contains(key))
}
