//! What the planner knows, and how it is told of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::budgets::Budgets;
use super::entries::{Entries, Entry, Grant, Granted, LaneIx, Slot, State, TenantIx, micros};
use super::history::Remembered;
use super::queue::{Queue, Shape};
use super::tree::{Ix, KeyIx};
use super::{
    Amount, Ask, AskError, Holding, HoldingStanding, NodeId, NodeSpec, Settings, Tree, TreeError, View,
};
use crate::{TenantId, WorkloadId};

/// A change that cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The nodes make no tree.
    #[error("the quota tree is wrong")]
    Tree(#[from] TreeError),
    /// The ask is wrong.
    #[error("the request is wrong")]
    Ask(#[from] AskError),
    /// It is known already.
    #[error("workload {0} is known already; release it before it is given again")]
    Known(WorkloadId),
    /// The holding names an option that the ask does not have.
    #[error("workload {0} holds what it did not ask for")]
    Holding(WorkloadId),
}

/// Where a workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits.
    Pending,
    /// Its room is promised; victims are leaving.
    Promised,
    /// It holds its room.
    Admitted,
    /// It is to leave.
    Leaving,
}

#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub node: Ix,
    pub queue: Queue,
    pub granted: Granted,
    /// Of its own quota, what is kept for what it waits with.
    pub kept: Vec<(KeyIx, Amount)>,
    /// Of what was kept since its tree was last settled, the largest usage with
    /// it.
    pub kept_most: Vec<(KeyIx, Amount)>,
    pub remembered: BTreeMap<Ix, Remembered>,
}

/// A tree of cohorts, or a tenant that stands alone: nothing that happens in
/// one concerns another.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    /// Tenants that have something to try in this round.
    pub active: BTreeSet<TenantIx>,
    /// Tenants that had their turn in this round.
    pub later: BTreeSet<TenantIx>,
    pub parked: BTreeSet<(TenantIx, LaneIx)>,
    /// Promised, in the order in which they were.
    pub claims: BTreeSet<(u64, Slot)>,
    /// Something was freed since parked lanes were looked at.
    pub released: bool,
    /// Something may be preempted that could not be when parked lanes were looked
    /// at.
    pub exposed: bool,
    /// Lanes' firsts that were woken for room that would do for them, while
    /// others were not.
    pub woken: Vec<(Slot, WorkloadId)>,
    /// Something that was held is not any more.
    pub left: bool,
    /// Tenants that keep something, or did when this was last settled.
    pub keeping: BTreeSet<TenantIx>,
    /// How many hold something and are to leave.
    pub leaving: usize,
}

/// The planner: the tree, the queues, and what is admitted.
///
/// Tell it what happens ([`enqueue`](Self::enqueue), [`release`](Self::release),
/// [`reconfigure`](Self::reconfigure) …), then ask what to do
/// ([`cycle`](Self::cycle)). A decision counts as done as soon as it is
/// returned: if it cannot be carried out, take it back with `release` and, if
/// the workload still wants, `enqueue`.
#[derive(Clone, Debug)]
pub struct Admissions {
    pub(super) settings: Settings,
    specs: Vec<NodeSpec>,
    pub(super) tree: Tree,
    pub(super) budgets: Budgets,
    pub(super) entries: Entries,
    pub(super) tenants: Vec<Tenant>,
    pub(super) tenant_index: HashMap<TenantId, TenantIx>,
    /// By node.
    pub(super) tenant_at: Vec<Option<TenantIx>>,
    pub(super) roots: BTreeMap<Ix, Root>,
    pub(super) dirty: BTreeSet<Ix>,
    pub(super) claimed: u64,
    /// Whose turn it is, so that no tree waits for ever behind another.
    pub(super) turn: Ix,
    /// Lanes of each kind, and the kinds that are set aside.
    pub(super) kinds: BTreeMap<u32, BTreeSet<(TenantIx, LaneIx)>>,
    pub(super) aside: BTreeSet<u32>,
    /// Of kinds that are not set aside: options that are passed over, a bit each.
    pub(super) passed_over: BTreeMap<u32, u16>,
    /// In which options devices would take each kind now, a bit each.
    pub(super) takers: BTreeMap<u32, u16>,
    pub(super) lanes_aside: BTreeSet<(TenantIx, LaneIx)>,
    /// Whose promises were recalled since anything was told. They recall nobody's
    /// before: what is preferred to what may go round in circles, and promises cost
    /// nothing that would end it.
    pub(super) recalled: BTreeSet<WorkloadId>,
    /// Lanes that wait for another reason than was last asked.
    pub(super) news: BTreeSet<(TenantIx, LaneIx)>,
}

/// By which subqueue a leaf's lanes are told apart.
pub(super) fn by(settings: &Settings, leaf: Ix) -> Ix {
    if settings.history.is_some() { leaf } else { 0 }
}

impl Admissions {
    /// With a tree, and nothing in it.
    pub fn new(settings: Settings, nodes: Vec<NodeSpec>) -> Result<Self, QuotaError> {
        let tree = Tree::new(&nodes)?;
        let mut new = Self {
            settings,
            budgets: Budgets::new(&nodes),
            tenant_at: vec![None; nodes.len()],
            specs: nodes,
            tree,
            entries: Entries::default(),
            tenants: Vec::new(),
            tenant_index: HashMap::new(),
            roots: BTreeMap::new(),
            dirty: BTreeSet::new(),
            claimed: 0,
            turn: 0,
            kinds: BTreeMap::new(),
            aside: BTreeSet::new(),
            passed_over: BTreeMap::new(),
            takers: BTreeMap::new(),
            lanes_aside: BTreeSet::new(),
            recalled: BTreeSet::new(),
            news: BTreeSet::new(),
        };
        for ix in 0..new.specs.len() {
            if let NodeId::Tenant(id) = new.specs[ix].id {
                new.add_tenant(id, ix as Ix);
            }
        }
        Ok(new)
    }

    fn add_tenant(&mut self, id: TenantId, node: Ix) -> TenantIx {
        let ix = self.tenants.len() as TenantIx;
        self.tenants.push(Tenant {
            node,
            queue: Queue::default(),
            granted: Granted::default(),
            kept: Vec::new(),
            kept_most: Vec::new(),
            remembered: BTreeMap::new(),
        });
        self.tenant_index.insert(id, ix);
        self.tenant_at[node as usize] = Some(ix);
        ix
    }

    /// The tree with its usage.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The nodes as configured, with what is spent of their budgets.
    pub fn specs(&self) -> Vec<NodeSpec> {
        let mut specs = self.specs.clone();
        self.budgets.spent_into(&mut specs, |id| self.tree.node(id));
        specs
    }

    /// Takes a new tree. What is held stays held, even beyond what the new
    /// quotas allow, and everything that waits is tried again. What was only
    /// promised is still promised. Costs as much as telling everything anew.
    ///
    /// A tenant that is gone from the tree but not from the queues gets a node
    /// without quota.
    pub fn reconfigure(&mut self, settings: Settings, mut nodes: Vec<NodeSpec>) -> Result<(), QuotaError> {
        self.recalled.clear();
        let named: BTreeSet<NodeId> = nodes.iter().map(|n| n.id).collect();
        let orphans: BTreeSet<NodeId> = self
            .entries
            .iter()
            .map(|(_, e)| NodeId::Tenant(e.ask.tenant))
            .filter(|id| !named.contains(id))
            .collect();
        nodes.extend(orphans.into_iter().map(|id| NodeSpec::new(id, None)));
        let mut new = Self::new(settings, nodes)?;
        new.aside.clone_from(&self.aside);
        new.passed_over.clone_from(&self.passed_over);
        new.takers.clone_from(&self.takers);
        let mut holdings = Vec::new();
        let mut pending = Vec::new();
        for (_, entry) in self.entries.iter() {
            match &entry.state {
                State::Pending | State::OnHold => pending.push(entry.ask.clone()),
                State::Admitted(grant) => holdings.push((0, entry, grant, HoldingStanding::Admitted)),
                State::Leaving { grant, preemptor } => {
                    holdings.push((0, entry, grant, HoldingStanding::Leaving(*preemptor)));
                }
                State::Claimed { grant, order, .. } => {
                    holdings.push((*order, entry, grant, HoldingStanding::Promised));
                }
            }
        }
        holdings.sort_by_key(|h| (h.0, h.1.ask.id));
        for (_, entry, grant, standing) in holdings {
            new.hold(entry.ask.clone(), grant.option, grant.count, grant.at_us, standing)?;
        }
        pending.sort_by_key(|ask| ask.id);
        for ask in pending {
            new.enqueue(ask)?;
        }
        for (id, &old) in &self.tenant_index {
            let Some(&ix) = new.tenant_index.get(id) else { continue };
            for (&node, remembered) in &self.tenants[old as usize].remembered {
                if let Some(node) = new.tree.node(self.tree.nodes[node as usize].id) {
                    new.tenants[ix as usize].remembered.insert(node, *remembered);
                }
            }
        }
        *self = new;
        Ok(())
    }

    /// Takes what was granted before, as it was recorded; quota does not stop
    /// it, since it is so.
    pub fn restore(&mut self, holding: Holding) -> Result<(), QuotaError> {
        self.recalled.clear();
        let at_us = micros(holding.reserved_at);
        self.hold(holding.ask, holding.option, holding.count, at_us, holding.standing)
    }

    fn hold(
        &mut self,
        ask: Ask,
        option: usize,
        count: u32,
        at_us: i64,
        standing: HoldingStanding,
    ) -> Result<(), QuotaError> {
        if option >= ask.options.len() || !(1..=ask.count).contains(&count) {
            return Err(QuotaError::Holding(ask.id));
        }
        let slot = self.add_entry(ask)?;
        let amounts = self.amounts(slot, option, count);
        let grant = Grant { option, count, amounts, at_us };
        let (leaf, tenant) = (self.entries.get(slot).leaf, self.entries.get(slot).tenant);
        let ask = self.entries.get(slot).ask.clone();
        self.budgets.reserve(&self.path(leaf), &self.spends(&grant.amounts, &ask.budget));
        let mut views = vec![View::Held, View::Promised];
        match standing {
            HoldingStanding::Promised => drop(views.remove(0)),
            HoldingStanding::Leaving(_) => drop(views.pop()),
            HoldingStanding::Admitted => {}
        }
        for &(key, amount) in &grant.amounts {
            views.iter().for_each(|&view| self.tree.add(view, leaf, key, amount));
        }
        let root = self.root_of(tenant);
        if !matches!(standing, HoldingStanding::Leaving(_)) {
            self.tenants[tenant as usize].granted.insert(
                slot,
                &ask,
                &grant,
                standing == HoldingStanding::Admitted,
            );
        }
        self.entries.get_mut(slot).state = match standing {
            HoldingStanding::Admitted => State::Admitted(grant),
            HoldingStanding::Leaving(preemptor) => State::Leaving { grant, preemptor },
            HoldingStanding::Promised => {
                self.claimed += 1;
                let order = self.claimed;
                self.roots.entry(root).or_default().claims.insert((order, slot));
                State::Claimed { grant, order }
            }
        };
        let root_state = self.roots.entry(root).or_default();
        root_state.leaving += usize::from(matches!(standing, HoldingStanding::Leaving(_)));
        (root_state.released, root_state.left) = (true, true);
        self.dirty.insert(root);
        Ok(())
    }

    /// Puts a workload in its tenant's queue.
    pub fn enqueue(&mut self, ask: Ask) -> Result<(), QuotaError> {
        let slot = self.add_entry(ask)?;
        self.recalled.clear();
        if self.entries.get(slot).ask.hold.is_some() {
            self.entries.get_mut(slot).state = State::OnHold;
        } else {
            self.line_up(slot);
        }
        Ok(())
    }

    fn add_entry(&mut self, ask: Ask) -> Result<Slot, QuotaError> {
        ask.check()?;
        if self.entries.find(ask.id).is_some() {
            return Err(QuotaError::Known(ask.id));
        }
        for (key, _) in ask.options.iter().flatten() {
            self.tree.intern(key);
        }
        let tenant = match self.tenant_index.get(&ask.tenant) {
            Some(&tenant) => tenant,
            None => {
                // Unknown to the tree: it waits, and says why.
                let mut specs = self.specs();
                specs.push(NodeSpec::new(NodeId::Tenant(ask.tenant), None));
                self.reconfigure(self.settings, specs)?;
                self.tenant_index[&ask.tenant]
            }
        };
        let node = self.tenants[tenant as usize].node;
        let leaf = ask
            .project
            .and_then(|project| self.tree.node(NodeId::Project(project)))
            .filter(|&project| self.tree.tenant_of(project) == node)
            .unwrap_or(node);
        let queued_us = micros(ask.queued_at);
        Ok(self.entries.insert(Entry { ask, tenant, leaf, queued_us, lane: 0, state: State::Pending }))
    }

    /// Puts an entry in its lane.
    pub(super) fn line_up(&mut self, slot: Slot) {
        let entry = self.entries.get_mut(slot);
        entry.state = State::Pending;
        let shape = Shape {
            leaf: entry.leaf,
            priority: entry.ask.priority,
            options: entry
                .ask
                .options
                .iter()
                .map(|option| option.iter().map(|(k, a)| (self.tree.intern(k), *a)).collect())
                .collect(),
            count: entry.ask.count,
            min_count: entry.ask.min_count.unwrap_or(entry.ask.count),
            budget: entry.ask.budget.clone(),
            kind: entry.ask.kind,
        };
        let by = by(&self.settings, entry.leaf);
        let tenant = &mut self.tenants[entry.tenant as usize];
        entry.lane = tenant.queue.insert(shape, entry.queued_us, entry.ask.id, slot, by);
        let (ix, lane, kind) = (entry.tenant, entry.lane, entry.ask.kind);
        let root = self.tree.nodes[tenant.node as usize].root;
        self.kinds.entry(kind).or_default().insert((ix, lane));
        match tenant.queue.lane(lane).parked.as_ref().map(|parked| parked.aside) {
            None if self.aside.contains(&kind) && self.has_room(ix, lane) => self.park_aside(ix, lane),
            // One that is older than those behind which a lane was parked may
            // preempt what they could not.
            Some(false) if self.is_first(slot) => self.wake_lane(ix, lane),
            _ => {}
        }
        self.roots.entry(root).or_default().active.insert(ix);
        self.dirty.insert(root);
        self.keep(ix);
    }

    fn is_first(&self, slot: Slot) -> bool {
        let entry = self.entries.get(slot);
        let lane = self.tenants[entry.tenant as usize].queue.lane(entry.lane);
        lane.items.first().is_some_and(|i| i.2 == slot)
    }

    /// Takes an entry out of its lane.
    pub(super) fn step_out(&mut self, slot: Slot) {
        let entry = self.entries.get(slot);
        let (tenant, lane, at, id, leaf) =
            (entry.tenant, entry.lane, entry.queued_us, entry.ask.id, entry.leaf);
        let by = by(&self.settings, leaf);
        let queue = &mut self.tenants[tenant as usize].queue;
        queue.remove(lane, at, id, slot, by);
        let emptied = queue.lane(lane);
        if emptied.items.is_empty()
            && let Some(lanes) = self.kinds.get_mut(&emptied.shape.kind)
        {
            lanes.remove(&(tenant, lane));
        }
        if emptied.parked.is_none() {
            let root = self.root_of(tenant);
            self.roots.entry(root).or_default().parked.remove(&(tenant, lane));
        }
        self.keep(tenant);
    }

    pub(super) fn root_of(&self, tenant: TenantIx) -> Ix {
        self.tree.nodes[self.tenants[tenant as usize].node as usize].root
    }

    /// Something is free that was not: those who wait look again.
    pub(super) fn freed(&mut self, tenant: TenantIx) {
        let root = self.root_of(tenant);
        self.roots.entry(root).or_default().released = true;
        self.dirty.insert(root);
    }

    pub(super) fn wake_lane(&mut self, tenant: TenantIx, lane: LaneIx) {
        let root = self.root_of(tenant);
        let state = &mut self.tenants[tenant as usize];
        let shape = state.queue.lane(lane).shape.clone();
        let by = by(&self.settings, shape.leaf);
        state.queue.wake(lane, by);
        let root = self.roots.entry(root).or_default();
        root.parked.remove(&(tenant, lane));
        root.active.insert(tenant);
    }

    /// From a leaf to the root, for budgets.
    pub(super) fn path(&self, leaf: Ix) -> Vec<Ix> {
        if self.budgets.is_empty() {
            return Vec::new();
        }
        std::iter::successors(Some(leaf), |&node| self.tree.parent(node)).collect()
    }

    /// What an option comes to for `count` members.
    pub(super) fn amounts(&mut self, slot: Slot, option: usize, count: u32) -> Vec<(KeyIx, Amount)> {
        let ask = &self.entries.get(slot).ask;
        ask.options[option]
            .iter()
            .map(|(key, amount)| (self.tree.intern(key), amount * Amount::from(count)))
            .collect()
    }
}
