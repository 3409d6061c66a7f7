//! The quota tree: what each node may use, and what it uses.
//!
//! Nodes are cohorts, tenants (which may stand alone) and, below a tenant,
//! projects. Quota is held per [`Key`]. A node's `local` part cannot be lent;
//! use above it counts at its parent too. Projects hold limits only: they
//! neither add to their tenant's quota nor lend to each other.
//!
//! Usage is kept in three views. [`View::Held`] is what is truly held, by what
//! was admitted and by victims that have not left. [`View::Promised`] is how it
//! will be once they have: without victims, with the preemptors that wait for
//! their room. Whatever is admitted fits in both, so that nothing takes the
//! room that a preemptor waits for. [`View::Kept`] is what is promised and what
//! tenants keep of their own for what waits: what is to be borrowed fits in it
//! too ([`Tree::view_for`]).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Amount, Budget, BudgetKind, Key, MAX_AMOUNT, MAX_TOTAL, Policies, Share, sum};
use crate::{CohortId, ProjectId, TenantId};

/// Deepest tree.
pub const MAX_DEPTH: u32 = 32;

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeId {
    /// Lets those below it lend and borrow.
    Cohort(CohortId),
    /// Has a queue.
    Tenant(TenantId),
    /// Limits part of a tenant.
    Project(ProjectId),
}

/// What a node may use of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Its own; of a project, its limit.
    pub nominal: Amount,
    /// Most that others may use of it; nothing for all.
    pub lending_limit: Option<Amount>,
    /// Most that it may use of others'; nothing for all.
    pub borrowing_limit: Option<Amount>,
}

/// A node as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Which.
    pub id: NodeId,
    /// A cohort, or of a project its tenant.
    pub parent: Option<NodeId>,
    /// Share of what is lent, in thousandths; 1000 is one.
    pub weight_milli: u32,
    /// Quota per key. A tenant uses only what it lists, be it with 0.
    #[serde(with = "crate::pairs")]
    pub quotas: BTreeMap<Key, Quota>,
    /// Budgets per kind.
    #[serde(with = "crate::pairs")]
    pub budgets: BTreeMap<BudgetKind, Budget>,
    /// A tenant's policies.
    pub policies: Policies,
}

impl NodeSpec {
    /// A node without quota.
    pub fn new(id: NodeId, parent: Option<NodeId>) -> Self {
        Self {
            id,
            parent,
            weight_milli: 1000,
            quotas: BTreeMap::new(),
            budgets: BTreeMap::new(),
            policies: Policies::default(),
        }
    }
}

/// Nodes that make no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Named twice.
    #[error("{0:?} is named twice")]
    Twice(NodeId),
    /// The parent is missing or of the wrong kind.
    #[error("{0:?} needs a parent that is there: a cohort, or for a project its tenant")]
    Parent(NodeId),
    /// A cycle, or too deep.
    #[error("{0:?} is below itself, or more than {MAX_DEPTH} levels deep")]
    Depth(NodeId),
    /// A quantity is out of bounds.
    #[error("{0:?} has a quantity that is not 0 to {MAX_AMOUNT}")]
    Amount(NodeId),
}

/// Which usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What is held now.
    Held = 0,
    /// What will be held once victims have left.
    Promised = 1,
    /// The same, and what is kept for what waits.
    Kept = 2,
}

pub(super) type Ix = u32;
pub(super) type KeyIx = u16;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub id: NodeId,
    pub parent: Option<Ix>,
    pub root: Ix,
    /// Longest way down to a tenant.
    pub height: u32,
    pub weight_milli: u32,
    /// Cohorts and tenants below; not projects.
    pub children: Vec<Ix>,
    pub policies: Policies,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    listed: bool,
    nominal: Amount,
    lending: Option<Amount>,
    borrowing: Option<Amount>,
    subtree: Amount,
    local: Amount,
    /// The most that could ever be available here.
    potential: Amount,
    usage: [Amount; 3],
}

/// What a node has and uses of one key, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// As configured.
    pub quota: Quota,
    /// Its own and what those below it would lend.
    pub subtree: Amount,
    /// Used by it and those below it, as far as it counts here.
    pub used: Amount,
    /// Used above its own.
    pub borrowed: Amount,
    /// What it could still use; negative after a cut.
    pub available: Amount,
    /// What waits for victims to leave, less what they hold.
    pub promised: Amount,
}

/// The tree.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    index: HashMap<NodeId, Ix>,
    cells: Vec<Cell>,
    keys: Vec<Key>,
    key_index: HashMap<Key, KeyIx>,
}

impl Tree {
    /// Builds a tree in which nothing is used.
    pub fn new(specs: &[NodeSpec]) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        for spec in specs {
            let ix = tree.nodes.len() as Ix;
            if tree.index.insert(spec.id, ix).is_some() {
                return Err(TreeError::Twice(spec.id));
            }
            tree.nodes.push(Node {
                id: spec.id,
                parent: None,
                root: ix,
                height: 0,
                weight_milli: spec.weight_milli,
                children: Vec::new(),
                policies: spec.policies,
            });
            for key in spec.quotas.keys() {
                tree.intern(key);
            }
        }
        tree.link(specs)?;
        tree.cells = vec![Cell::default(); tree.nodes.len() * tree.keys.len()];
        for (ix, spec) in specs.iter().enumerate() {
            for (key, quota) in &spec.quotas {
                let fine = |a: Amount| (0..=MAX_AMOUNT).contains(&a);
                let limits = [Some(quota.nominal), quota.lending_limit, quota.borrowing_limit];
                if !limits.into_iter().flatten().all(fine) {
                    return Err(TreeError::Amount(spec.id));
                }
                let at = tree.at(ix as Ix, tree.key_index[key]);
                let cell = &mut tree.cells[at];
                cell.listed = true;
                cell.nominal = quota.nominal;
                cell.lending = quota.lending_limit;
                cell.borrowing = quota.borrowing_limit;
            }
        }
        let roots: Vec<Ix> = (0..tree.nodes.len() as Ix).filter(|&n| tree.is_root(n)).collect();
        for root in roots {
            for key in 0..tree.keys.len() as KeyIx {
                tree.sum_up(root, key);
                tree.spread_potential(root, key, None);
            }
        }
        Ok(tree)
    }

    fn link(&mut self, specs: &[NodeSpec]) -> Result<(), TreeError> {
        for (ix, spec) in specs.iter().enumerate() {
            let fits = match (spec.id, spec.parent) {
                (NodeId::Project(_), parent) => matches!(parent, Some(NodeId::Tenant(_))),
                (_, parent) => matches!(parent, None | Some(NodeId::Cohort(_))),
            };
            let parent = spec.parent.and_then(|p| self.index.get(&p).copied());
            if !fits || parent.is_some() != spec.parent.is_some() {
                return Err(TreeError::Parent(spec.id));
            }
            self.nodes[ix].parent = parent;
            if let (Some(parent), false) = (parent, matches!(spec.id, NodeId::Project(_))) {
                self.nodes[parent as usize].children.push(ix as Ix);
            }
        }
        for ix in 0..self.nodes.len() {
            let (mut node, mut depth) = (ix as Ix, 0);
            while let Some(parent) = self.parent(node) {
                (node, depth) = (parent, depth + 1);
                if depth > MAX_DEPTH {
                    return Err(TreeError::Depth(self.nodes[ix].id));
                }
            }
            self.nodes[ix].root = node;
            if matches!(self.nodes[ix].id, NodeId::Tenant(_)) {
                let (mut node, mut height) = (ix as Ix, 0);
                while let Some(parent) = self.parent(node) {
                    (node, height) = (parent, height + 1);
                    let above = &mut self.nodes[node as usize].height;
                    *above = height.max(*above);
                }
            }
        }
        Ok(())
    }

    /// Subtree and local quota, from the leaves up.
    fn sum_up(&mut self, node: Ix, key: KeyIx) {
        let mut subtree = self.cell(node, key).nominal;
        for child in self.nodes[node as usize].children.clone() {
            self.sum_up(child, key);
            let child = self.cell(child, key);
            subtree = sum(subtree, child.subtree - child.local);
        }
        let cell = self.cell_mut(node, key);
        cell.subtree = subtree;
        cell.local = cell.lending.map_or(0, |limit| (subtree - limit).max(0));
    }

    fn spread_potential(&mut self, node: Ix, key: KeyIx, above: Option<Amount>) {
        let cell = self.cell_mut(node, key);
        cell.potential = match above {
            None => cell.subtree,
            Some(above) => {
                let all = sum(cell.local, above);
                cell.borrowing.map_or(all, |limit| all.min(sum(cell.subtree, limit)))
            }
        };
        let potential = cell.potential;
        for child in self.nodes[node as usize].children.clone() {
            self.spread_potential(child, key, Some(potential));
        }
    }

    /// The number of a key, given one if it has none.
    pub(super) fn intern(&mut self, key: &Key) -> KeyIx {
        if let Some(&ix) = self.key_index.get(key) {
            return ix;
        }
        let old = self.keys.len();
        let ix = old as KeyIx;
        self.key_index.insert(key.clone(), ix);
        self.keys.push(key.clone());
        // Nobody lists it; the columns move.
        if !self.cells.is_empty() || !self.nodes.is_empty() && old > 0 {
            let mut cells = vec![Cell::default(); self.nodes.len() * (old + 1)];
            for (to, from) in cells.chunks_mut(old + 1).zip(self.cells.chunks(old.max(1))) {
                to[..old].copy_from_slice(&from[..old]);
            }
            self.cells = cells;
        } else {
            self.cells = vec![Cell::default(); self.nodes.len()];
        }
        ix
    }

    pub(super) fn key(&self, ix: KeyIx) -> &Key {
        &self.keys[ix as usize]
    }

    pub(super) fn node(&self, id: NodeId) -> Option<Ix> {
        self.index.get(&id).copied()
    }

    pub(super) fn parent(&self, node: Ix) -> Option<Ix> {
        self.nodes[node as usize].parent
    }

    pub(super) fn is_root(&self, node: Ix) -> bool {
        self.parent(node).is_none()
    }

    pub(super) fn is_project(&self, node: Ix) -> bool {
        matches!(self.nodes[node as usize].id, NodeId::Project(_))
    }

    /// The tenant of a leaf, which is one or a project of one.
    pub(super) fn tenant_of(&self, leaf: Ix) -> Ix {
        if self.is_project(leaf) { self.parent(leaf).unwrap_or(leaf) } else { leaf }
    }

    fn at(&self, node: Ix, key: KeyIx) -> usize {
        node as usize * self.keys.len() + key as usize
    }

    fn cell(&self, node: Ix, key: KeyIx) -> &Cell {
        &self.cells[self.at(node, key)]
    }

    fn cell_mut(&mut self, node: Ix, key: KeyIx) -> &mut Cell {
        let at = self.at(node, key);
        &mut self.cells[at]
    }

    pub(super) fn lists(&self, node: Ix, key: KeyIx) -> bool {
        self.cell(node, key).listed
    }

    pub(super) fn nominal(&self, node: Ix, key: KeyIx) -> Amount {
        self.cell(node, key).nominal
    }

    pub(super) fn subtree(&self, node: Ix, key: KeyIx) -> Amount {
        self.cell(node, key).subtree
    }

    pub(super) fn potential(&self, node: Ix, key: KeyIx) -> Amount {
        self.cell(node, key).potential
    }

    pub(super) fn usage(&self, view: View, node: Ix, key: KeyIx) -> Amount {
        self.cell(node, key).usage[view as usize]
    }

    /// What is left of a project's limit; nothing where it has none.
    pub(super) fn project_room(&self, view: View, leaf: Ix, key: KeyIx) -> Option<Amount> {
        let cell = self.cell(leaf, key);
        (self.is_project(leaf) && cell.listed).then(|| cell.nominal - cell.usage[view as usize])
    }

    /// In which view `amount` more of a tenant's has to fit: what others keep
    /// does not stand against what is the tenant's own.
    pub(super) fn view_for(&self, tenant: Ix, key: KeyIx, amount: Amount) -> View {
        if self.borrows_with(View::Promised, tenant, key, amount) { View::Kept } else { View::Promised }
    }

    /// Adds usage of a project or tenant, along the path as far as it counts.
    pub(super) fn add(&mut self, view: View, leaf: Ix, key: KeyIx, amount: Amount) {
        self.add_in(view, leaf, key, amount);
        if view == View::Promised {
            self.add_in(View::Kept, leaf, key, amount);
        }
    }

    fn add_in(&mut self, view: View, leaf: Ix, key: KeyIx, amount: Amount) {
        let (mut node, mut amount) = (Some(leaf), amount);
        while let Some(n) = node {
            let project = self.is_project(n);
            let cell = self.cell_mut(n, key);
            let usage = &mut cell.usage[view as usize];
            let own = if project { 0 } else { (cell.local - *usage).max(0) };
            *usage = usage.saturating_add(amount);
            amount -= own;
            if amount <= 0 {
                return;
            }
            node = self.parent(n);
        }
    }

    /// Takes away what [`Self::add`] added.
    pub(super) fn remove(&mut self, view: View, leaf: Ix, key: KeyIx, amount: Amount) {
        self.remove_in(view, leaf, key, amount);
        if view == View::Promised {
            self.remove_in(View::Kept, leaf, key, amount);
        }
    }

    fn remove_in(&mut self, view: View, leaf: Ix, key: KeyIx, amount: Amount) {
        let (mut node, mut amount) = (Some(leaf), amount);
        while let Some(n) = node {
            let project = self.is_project(n);
            let cell = self.cell_mut(n, key);
            let usage = &mut cell.usage[view as usize];
            let above = if project { amount } else { (*usage - cell.local).max(0) };
            *usage -= amount;
            amount = amount.min(above);
            if amount <= 0 {
                return;
            }
            node = self.parent(n);
        }
    }

    /// Counts what a tenant or project uses; nothing if it is no node.
    pub fn count(&mut self, leaf: NodeId, key: &Key, amount: Amount) {
        if let Some(leaf) = self.node(leaf) {
            let key = self.intern(key);
            self.add(View::Held, leaf, key, amount);
        }
    }

    /// What a cohort or tenant could use more; negative after a cut.
    pub(super) fn available(&self, view: View, node: Ix, key: KeyIx) -> Amount {
        let cell = self.cell(node, key);
        let usage = cell.usage[view as usize];
        match self.parent(node) {
            None => cell.subtree - usage,
            Some(parent) => {
                let own = (cell.local - usage).max(0);
                own + self.available(view, parent, key).min(self.borrowing_room(view, node, key))
            }
        }
    }

    /// How much more a node may take from above.
    pub(super) fn borrowing_room(&self, view: View, node: Ix, key: KeyIx) -> Amount {
        let cell = self.cell(node, key);
        let stored = cell.subtree - cell.local;
        let taken = (cell.usage[view as usize] - cell.local).max(0);
        cell.borrowing.map_or(MAX_TOTAL, |limit| stored - taken + limit)
    }

    /// What a node has left of what it does not lend.
    pub(super) fn own_room(&self, view: View, node: Ix, key: KeyIx) -> Amount {
        let cell = self.cell(node, key);
        (cell.local - cell.usage[view as usize]).max(0)
    }

    /// Whether a node would use more than is its own with `amount` more.
    pub(super) fn borrows_with(&self, view: View, node: Ix, key: KeyIx, amount: Amount) -> bool {
        let cell = self.cell(node, key);
        cell.usage[view as usize].saturating_add(amount) > cell.subtree
    }

    /// How far up room has to be borrowed for `amount`: 0 where it is the
    /// tenant's own, else the height of the lowest cohort whose quota it fits.
    pub(super) fn borrowing_level(&self, view: View, tenant: Ix, key: KeyIx, amount: Amount) -> u32 {
        let (mut node, mut rest) = (tenant, amount);
        while self.borrows_with(view, node, key, rest) {
            rest -= self.own_room(view, node, key);
            let Some(parent) = self.parent(node) else { break };
            node = parent;
        }
        if node == tenant { 0 } else { self.nodes[node as usize].height }
    }

    /// Dominant share of a node.
    pub(super) fn share(&self, view: View, node: Ix) -> Share {
        let Some(parent) = self.parent(node) else { return Share::NONE };
        let weight = self.nodes[node as usize].weight_milli;
        let mut share = Share::NONE;
        for key in 0..self.keys.len() as KeyIx {
            let cell = self.cell(node, key);
            let borrowed = cell.usage[view as usize] - cell.subtree;
            if borrowed > 0 {
                share = share.max(Share::new(borrowed, self.potential(parent, key), weight));
            }
        }
        share
    }

    /// Every node, in the order in which they were given.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().map(|n| n.id)
    }

    /// Every key.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// What a node has and uses, or nothing if either is unknown.
    pub fn figures(&self, node: NodeId, key: &Key) -> Option<Figures> {
        let (node, key) = (self.node(node)?, *self.key_index.get(key)?);
        let cell = self.cell(node, key);
        let used = self.usage(View::Held, node, key);
        let available = match self.project_room(View::Held, node, key) {
            Some(room) => room.min(self.available(View::Held, self.tenant_of(node), key)),
            None => self.available(View::Held, self.tenant_of(node), key),
        };
        Some(Figures {
            quota: Quota {
                nominal: cell.nominal,
                lending_limit: cell.lending,
                borrowing_limit: cell.borrowing,
            },
            subtree: cell.subtree,
            used,
            borrowed: (used - cell.subtree).max(0),
            available,
            promised: self.usage(View::Promised, node, key) - used,
        })
    }

    /// Dominant share of a node by what is held.
    pub fn dominant_share(&self, node: NodeId) -> Option<Share> {
        self.node(node).map(|n| self.share(View::Held, n))
    }
}
