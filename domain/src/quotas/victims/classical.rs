//! Victims by priority and by the shape of the tree.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::super::entries::{Slot, TenantIx};
use super::super::preemption::Rule;
use super::super::tree::{Ix, KeyIx};
use super::super::{BorrowWhilePreempting, Reclaim, WithinTenant};
use super::{Search, VIEW, Victim, Wish};
use crate::WorkloadId;

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
                _ => self.is_borrowed(victim, ways[source].1, keys),
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
}
