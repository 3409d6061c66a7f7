//! Who is next by fair sharing: at each cohort the child that would have the
//! lowest dominant share with its best workload, down to a tenant.
//!
//! Kept as a set of children per cohort, ordered by that share. Admitting
//! changes shares only on the way from the winner to the root, so that a step
//! costs what its path costs.

use std::collections::{BTreeMap, BTreeSet};

use super::admission::Nomination;
use super::queue::Order;
use super::tree::Ix;
use super::{Share, Tree, View};

/// The share with the workload, what is remembered of its tenant, then the
/// order of queues.
type Rank = (Share, u128, Order);

pub(super) struct Tournament {
    root: Ix,
    entrants: BTreeMap<Ix, Nomination>,
    /// Children of each cohort that have entrants, the next one first.
    contests: BTreeMap<Ix, BTreeSet<(Rank, Ix)>>,
    ranks: BTreeMap<Ix, Rank>,
}

impl Tournament {
    /// All entrants are of one root; each is the only one of its tenant.
    pub fn new(tree: &mut Tree, root: Ix, nominations: Vec<Nomination>) -> Self {
        let mut new =
            Self { root, entrants: BTreeMap::new(), contests: BTreeMap::new(), ranks: BTreeMap::new() };
        for nomination in nominations {
            let node = tree.tenant_of(nomination.leaf);
            new.entrants.insert(node, nomination);
            new.refresh(tree, node);
        }
        new
    }

    /// The tenant at the end of the best way down from a node.
    fn winner(&self, mut node: Ix) -> Option<&Nomination> {
        while let Some(contest) = self.contests.get(&node) {
            node = contest.first()?.1;
        }
        self.entrants.get(&node)
    }

    /// Ranks a node and those above it anew.
    fn refresh(&mut self, tree: &mut Tree, node: Ix) {
        let mut node = node;
        while let Some(parent) = tree.parent(node) {
            let rank = self.winner(node).map(|n| {
                n.amounts.iter().for_each(|&(k, a)| tree.add(View::Promised, n.leaf, k, a));
                let share = tree.share(View::Promised, node);
                n.amounts.iter().for_each(|&(k, a)| tree.remove(View::Promised, n.leaf, k, a));
                (share, n.rank, n.order)
            });
            let contest = self.contests.entry(parent).or_default();
            if let Some(old) = self.ranks.remove(&node) {
                contest.remove(&(old, node));
            }
            if let Some(rank) = rank {
                contest.insert((rank, node));
                self.ranks.insert(node, rank);
            }
            node = parent;
        }
    }

    /// The next entrant.
    pub fn pop(&mut self) -> Option<Nomination> {
        let leaf = self.winner(self.root)?.tenant_node;
        self.entrants.remove(&leaf)
    }

    /// After the entrant of `node` was dealt with, which changed usage on its
    /// way up.
    pub fn done(&mut self, tree: &mut Tree, node: Ix) {
        self.refresh(tree, node);
    }

    /// Those that were not called.
    pub fn rest(self) -> impl Iterator<Item = Nomination> {
        self.entrants.into_values()
    }
}
