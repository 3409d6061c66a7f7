//! Whom to preempt.
//!
//! Both searches work on the promised view and leave it as they found it. They
//! take victims in order until the wish fits, then give back in reverse
//! whomever they can: no victim of the answer could be spared.

mod classical;
mod fair;

pub(super) use fair::Shares;

use super::entries::{Entries, Entry, Slot, TenantIx};
use super::preemption::Rule;
use super::state::Tenant;
use super::tree::{Ix, KeyIx};
use super::{Amount, BorrowWhilePreempting, Reclaim, Tree, View, WithinTenant};

/// In which victims are looked for: what others keep makes nobody a borrower.
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

/// Whether `amount` fits in a view.
fn fits(tree: &Tree, view: View, leaf: Ix, key: KeyIx, amount: Amount) -> bool {
    let tenant = tree.tenant_of(leaf);
    amount == 0
        || tree.lists(tenant, key)
            && tree.project_room(view, leaf, key).is_none_or(|room| room >= amount)
            && tree.available(view, tenant, key) >= amount
}

/// Whether `amounts` fit beside what is held now.
pub(super) fn are_free(tree: &Tree, leaf: Ix, amounts: &[(KeyIx, Amount)]) -> bool {
    amounts.iter().all(|&(key, amount)| fits(tree, View::Held, leaf, key, amount))
}

/// Whether `amounts` fit beside what is promised, and where they would be
/// borrowed beside what is kept.
pub(super) fn may_have(tree: &Tree, leaf: Ix, amounts: &[(KeyIx, Amount)]) -> bool {
    let tenant = tree.tenant_of(leaf);
    amounts.iter().all(|&(key, amount)| fits(tree, tree.view_for(tenant, key, amount), leaf, key, amount))
}

impl<'a> Search<'a> {
    fn node(&self, wish: Wish<'_>) -> Ix {
        self.tenants[wish.tenant as usize].node
    }

    /// What has too little room.
    fn contended(&self, wish: Wish<'_>) -> Vec<KeyIx> {
        let short = |&(key, amount): &(KeyIx, Amount)| !may_have(self.tree, wish.leaf, &[(key, amount)]);
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
        may_have(self.tree, self.node(wish), wish.amounts)
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
        let policies = self.tree.nodes[node as usize].policies;
        self.without_own(wish, |search| {
            may_have(search.tree, node, wish.amounts)
                || search.reclaims(wish)
                    && (policies.borrow != BorrowWhilePreempting::Never
                        || !search.would_borrow(wish)
                        || search.advantage(wish).is_some())
        })
    }

    /// Looks at the tree as if all were gone that the wish may preempt of its
    /// own tenant's.
    fn without_own(&mut self, wish: Wish<'_>, look: impl FnOnce(&mut Self) -> bool) -> bool {
        let node = self.node(wish);
        let below = match self.tree.nodes[node as usize].policies.within {
            WithinTenant::Never => None,
            WithinTenant::LowerPriority => wish.priority.checked_sub(1),
            WithinTenant::LowerOrNewerEqualPriority => Some(wish.priority),
        };
        let granted = &self.tenants[wish.tenant as usize].granted;
        let own = below.map(|highest| granted.total(highest)).unwrap_or_default();
        for &(key, amount) in &own {
            self.tree.remove(VIEW, node, key, amount);
        }
        let seen = look(self);
        for &(key, amount) in &own {
            self.tree.add(VIEW, node, key, amount);
        }
        seen
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

    /// Whether a tenant and every cohort between it and `up_to` still borrow
    /// one of these.
    fn still_borrows(&self, tenant: TenantIx, up_to: Ix, keys: &[KeyIx]) -> bool {
        keys.iter().any(|&key| {
            let mut node = self.tenants[tenant as usize].node;
            loop {
                if !self.tree.borrows_with(VIEW, node, key, 0) {
                    return false;
                }
                match self.tree.parent(node) {
                    Some(parent) if parent != up_to => node = parent,
                    _ => return true,
                }
            }
        })
    }

    /// Whether a victim of another tenant has something contended that its
    /// tenant, and every cohort between it and `up_to`, borrow.
    fn is_borrowed(&self, victim: &Entry, up_to: Ix, keys: &[KeyIx]) -> bool {
        let amounts = victim.granted().map(|g| &g.amounts[..]).unwrap_or_default();
        amounts.iter().any(|&(key, amount)| {
            amount > 0 && keys.contains(&key) && self.still_borrows(victim.tenant, up_to, &[key])
        })
    }

    fn would_fit(&self, wish: Wish<'_>, borrow: bool) -> bool {
        may_have(self.tree, wish.leaf, wish.amounts) && (borrow || !self.would_borrow(wish))
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
}

fn uses(entry: &Entry, keys: &[KeyIx]) -> bool {
    let amounts = entry.granted().map(|g| &g.amounts[..]).unwrap_or_default();
    amounts.iter().any(|(key, amount)| *amount > 0 && keys.contains(key))
}
