//! What preemption is for, and what it looks for when.

use serde::{Deserialize, Serialize};

use super::Admissions;
use super::entries::{Slot, State, TenantIx};
use super::tree::KeyIx;
use super::victims::{Search, Shares, Victim, Wish};
use super::{Amount, View};

/// Which rule let a workload preempt another.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Of the same tenant, and less important.
    WithinTenant,
    /// Its tenant used more than its own, and the preemptor's did not.
    Reclaim,
    /// Its tenant used more than its own and it is less important, though the
    /// preemptor's borrows too.
    ReclaimWhileBorrowing,
    /// Its tenant's share was larger.
    FairShare,
}

impl Rule {
    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WithinTenant => "within_tenant",
            Self::Reclaim => "reclaim",
            Self::ReclaimWhileBorrowing => "reclaim_while_borrowing",
            Self::FairShare => "fair_share",
        }
    }
}

impl std::str::FromStr for Rule {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let all = [Self::WithinTenant, Self::Reclaim, Self::ReclaimWhileBorrowing, Self::FairShare];
        all.into_iter().find(|rule| rule.as_str() == s).ok_or_else(|| format!("{s:?} is no rule"))
    }
}

impl Admissions {
    /// Runs a search of victims for a waiting workload.
    pub(super) fn search<T>(
        &mut self,
        slot: Slot,
        amounts: &[(KeyIx, Amount)],
        search: impl FnOnce(&mut Search<'_>, Wish<'_>) -> T,
    ) -> T {
        let entry = self.entries.get(slot);
        let wish = Wish {
            tenant: entry.tenant,
            leaf: entry.leaf,
            priority: entry.ask.priority,
            queued_us: entry.queued_us,
            amounts,
        };
        let mut with = Search {
            tree: &mut self.tree,
            entries: &self.entries,
            tenants: &self.tenants,
            tenant_at: &self.tenant_at,
        };
        search(&mut with, wish)
    }

    /// Whether work may be preempted that could not be, once a tenant is granted
    /// this: a node begins to borrow, or by shares, borrows more.
    pub(super) fn exposes(&self, tenant: TenantIx, amounts: &[(KeyIx, Amount)]) -> bool {
        let borrows = |node, key, amount| self.tree.borrows_with(View::Promised, node, key, amount);
        let fair = self.settings.fair_sharing;
        let node = self.tenants[tenant as usize].node;
        std::iter::successors(Some(node), |&node| self.tree.parent(node)).any(|node| {
            let exposes = |&(key, amount): &(KeyIx, Amount)| {
                borrows(node, key, amount) && (fair || !borrows(node, key, 0))
            };
            amounts.iter().any(exposes)
        })
    }

    /// The victims that would make room for a workload, or nothing if no
    /// allowed set does.
    pub(super) fn victims(&mut self, slot: Slot, amounts: &[(KeyIx, Amount)]) -> Option<Vec<Victim>> {
        let entry = self.entries.get(slot);
        let tenant = self.tenants[entry.tenant as usize].node;
        let possible = amounts.iter().all(|&(key, amount)| {
            let limit = self
                .tree
                .project_room(View::Held, entry.leaf, key)
                .map(|_| self.tree.nominal(entry.leaf, key));
            amount == 0
                || self.tree.lists(tenant, key)
                    && amount <= self.tree.potential(tenant, key)
                    && limit.is_none_or(|limit| amount <= limit)
        });
        let fair = self.settings.fair_sharing;
        if !possible {
            return None;
        }
        let may_recall = !self.recalled.contains(&entry.ask.id);
        let victims = self.search(slot, amounts, |search, wish| match fair {
            true => {
                let root = search.tree.nodes[wish.leaf as usize].root;
                let shares = Shares::new(search.tree, root);
                if search.fair_could_help(wish, &shares) { search.fair(wish) } else { None }
            }
            false if search.could_help(wish) => search.classical(wish),
            false => None,
        })?;
        let recalls = |(victim, _): &Victim| matches!(self.entries.get(*victim).state, State::Claimed { .. });
        (may_recall || !victims.iter().any(recalls)).then_some(victims)
    }
}
