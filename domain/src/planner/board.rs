//! The planner's memory: what is known of intent and fleet, and what follows
//! from it, kept up with changes, so that a plan costs what changed and not
//! what there is.
//!
//! Facts are as the database has them, or as a decision will make them: a
//! decision counts as done when it is made. What the database then says
//! replaces it, be it the same or not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::devices::{Devices, Kind};
use super::quota::Listed;
use super::telling::Judged;
use super::{Decision, DrainReason, Hold, Intent, LivePlacement, Snapshot, TenantBounds, budgets, quota};
use crate::budgets::TimeBudget;
use crate::placing::Demand;
use crate::quotas::{Admissions, Ask, HoldingStanding, NodeSpec, Rule};
use crate::workers::Worker;
use crate::workloads::{PlacementState, Workload, WorkloadOwner, WorkloadState};
use crate::{PlacementId, TenantId, Timestamp, WorkerId, WorkloadId};

/// Something is as it is now, or (`None`) no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// What bounds a tenant's work.
    Tenant(TenantId, Option<TenantBounds>),
    /// The quota tree, as in [`Snapshot::quotas`].
    Quotas(Vec<NodeSpec>),
    /// What a tenant and its projects may spend, as in [`Snapshot::budgets`].
    Budgets(TenantId, Vec<TimeBudget>),
    /// A worker with its devices.
    Worker(WorkerId, Option<Worker>),
    /// What an owner wants.
    Intent(WorkloadOwner, Option<Intent>),
    /// A workload that has not ended.
    Workload(WorkloadId, Option<Workload>),
    /// A placement that has not ended.
    Placement(PlacementId, Option<LivePlacement>),
}

/// What a workload is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits, or its tenant may begin nothing.
    Waits,
    /// Room is being made for it.
    Promised,
    /// It is there.
    Placed(Seat),
    /// It is there, and is to leave.
    Leaves(Seat),
}

/// Where something is, and what it holds there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub worker: WorkerId,
    pub class: String,
    pub holds: Vec<Hold>,
}

impl Standing {
    pub fn seat(&self) -> Option<&Seat> {
        match self {
            Self::Placed(seat) | Self::Leaves(seat) => Some(seat),
            Self::Waits | Self::Promised => None,
        }
    }
}

/// What queues and devices were told of a workload.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub standing: Standing,
    pub kind: u32,
    pub owner: WorkloadOwner,
    pub version: crate::VersionId,
}

/// A kind of request: its number is its place in [`Planner::kinds`].
pub(super) struct KindState {
    pub kind: Kind,
    /// The places of classes of which no device takes it, a bit each.
    pub refused: u16,
    /// Why nothing takes it, by class.
    pub reasons: Vec<Option<Judged>>,
    /// The revisions of its classes when it was last looked for one that takes it.
    pub looked: Vec<u64>,
}

impl KindState {
    fn new(kind: Kind) -> Self {
        let reasons = kind.classes.iter().map(|_| None).collect();
        Self { kind, refused: 0, reasons, looked: Vec::new() }
    }

    pub fn is_refused(&self, option: usize) -> bool {
        self.refused & (1 << option) != 0
    }

    /// Whether no device of any class takes it.
    pub fn is_refused_everywhere(&self) -> bool {
        (0..self.kind.classes.len()).all(|option| self.is_refused(option))
    }
}

/// Plans, and remembers what it knows from one plan to the next.
pub struct Planner {
    pub(super) facts: Snapshot,
    pub(super) members: BTreeMap<WorkloadOwner, BTreeSet<WorkloadId>>,
    pub(super) placed: BTreeMap<WorkloadId, PlacementId>,
    pub(super) on_worker: BTreeMap<WorkerId, BTreeSet<PlacementId>>,
    /// Placements that were decided and are not told of yet, and the generations
    /// of their workloads before.
    pub(super) expected: BTreeMap<WorkloadId, (i64, Seat)>,
    /// Victims whose placements are not told of yet: they leave when they are.
    pub(super) evicting: BTreeMap<WorkloadId, (WorkloadId, Rule)>,
    pub(super) known: BTreeMap<WorkloadId, Known>,
    pub(super) devices: Devices,
    pub(super) kinds: Vec<KindState>,
    kind_ids: BTreeMap<Kind, u32>,
    pub(super) admissions: Admissions,
    /// What the tree lists.
    pub(super) listed: Listed,
    /// What is to be looked at.
    pub(super) changed_owners: BTreeSet<WorkloadOwner>,
    pub(super) changed: BTreeSet<WorkloadId>,
    pub(super) lost: BTreeSet<WorkerId>,
    pub(super) cordoned: BTreeSet<WorkerId>,
    /// Workers to be judged by their silence.
    pub(super) changed_workers: BTreeSet<WorkerId>,
    pub(super) requote: bool,
    /// Something was placed or promised room, is to leave, or joined them, since
    /// those were looked at that no device takes.
    pub(super) crowded: bool,
    /// What is on its way out.
    pub(super) leaving: BTreeSet<WorkloadId>,
    /// Kinds that devices of some of their classes do not take, or of all.
    pub(super) refused: BTreeSet<u32>,
    /// What waits and was not told why.
    pub(super) untold: BTreeSet<WorkloadId>,
    /// What was promised room in this plan, or is so no more.
    pub(super) urgent: BTreeSet<WorkloadId>,
    /// What was to give its promise up, in this plan, for others that no device
    /// took: that it is promised again is nothing new.
    pub(super) recalled_in_vain: BTreeSet<WorkloadId>,
    /// What fails where it is.
    pub(super) failing: BTreeSet<WorkloadId>,
    /// The last plan left admission to this one.
    pub(super) deferred: bool,
}

impl Planner {
    /// Knows what a snapshot says.
    pub fn new(snapshot: Snapshot) -> Self {
        Self::knowing(snapshot, BTreeMap::new())
    }

    /// The same, and what was learned before of the requests that arrive, by
    /// class.
    pub fn knowing(snapshot: Snapshot, demand: BTreeMap<String, Demand>) -> Self {
        let listed = Listed::of(&snapshot);
        let admissions = quota::admissions(&snapshot, &listed);
        let mut new = Self {
            facts: Snapshot {
                fair_sharing: snapshot.fair_sharing,
                ..Snapshot::empty(snapshot.leading_since)
            },
            members: BTreeMap::new(),
            placed: BTreeMap::new(),
            on_worker: BTreeMap::new(),
            expected: BTreeMap::new(),
            evicting: BTreeMap::new(),
            known: BTreeMap::new(),
            devices: Devices::new(demand),
            kinds: Vec::new(),
            kind_ids: BTreeMap::new(),
            admissions,
            listed,
            changed_owners: BTreeSet::new(),
            changed: BTreeSet::new(),
            lost: BTreeSet::new(),
            cordoned: BTreeSet::new(),
            changed_workers: BTreeSet::new(),
            requote: false,
            crowded: false,
            leaving: BTreeSet::new(),
            refused: BTreeSet::new(),
            untold: BTreeSet::new(),
            urgent: BTreeSet::new(),
            recalled_in_vain: BTreeSet::new(),
            failing: BTreeSet::new(),
            deferred: false,
        };
        new.facts.quotas = snapshot.quotas;
        new.facts.budgets = snapshot.budgets;
        new.facts.tenants = snapshot.tenants;
        let all = (snapshot.workers.into_iter().map(|(id, worker)| Change::Worker(id, Some(worker))))
            .chain(snapshot.intents.into_iter().map(|(owner, intent)| Change::Intent(owner, Some(intent))))
            .chain(snapshot.workloads.into_iter().map(|(id, workload)| Change::Workload(id, Some(workload))))
            .chain(snapshot.placements.into_iter().map(|(id, placed)| Change::Placement(id, Some(placed))));
        all.for_each(|change| new.tell(change));
        new
    }

    /// What it has learned of the requests that arrive, by class.
    pub fn demand(&self) -> BTreeMap<String, Demand> {
        self.devices.demand()
    }

    /// What it takes for true: what it was told, and what it decided since.
    pub fn facts(&self) -> &Snapshot {
        &self.facts
    }

    /// Whose last report is so old that it should be asked anew before the next
    /// plan, lest they be declared lost by mistake.
    pub fn silent(&self, now: Timestamp) -> Vec<WorkerId> {
        let silent = self.facts.workers.values().filter(|w| w.live && self.facts.is_silent(w, now));
        silent.map(|worker| worker.id).collect()
    }

    /// Learns of a change. Telling what is known already changes nothing.
    pub fn tell(&mut self, change: Change) {
        match change {
            Change::Tenant(id, bounds) => {
                if self.facts.tenants.get(&id) == bounds.as_ref() {
                    return;
                }
                match bounds {
                    Some(bounds) => self.facts.tenants.insert(id, bounds),
                    None => self.facts.tenants.remove(&id),
                };
                let all = self.facts.workloads.values();
                self.changed.extend(all.filter(|w| w.tenant_id == id).map(|w| w.id));
            }
            Change::Quotas(nodes) => {
                if self.facts.quotas != nodes {
                    self.facts.quotas = nodes;
                    self.listed = Listed::of(&self.facts);
                    self.requote = true;
                }
            }
            Change::Budgets(tenant, budgets) => self.tell_budgets(tenant, budgets),
            Change::Worker(id, worker) => self.tell_worker(id, worker),
            Change::Intent(owner, intent) => {
                let floors = [self.facts.intents.get(&owner), intent.as_ref()].map(quota::floor);
                if floors[0] != floors[1] {
                    self.changed.extend(self.members.get(&owner).into_iter().flatten());
                }
                match intent {
                    Some(intent) => self.facts.intents.insert(owner, intent),
                    None => self.facts.intents.remove(&owner),
                };
                self.changed_owners.insert(owner);
            }
            Change::Workload(id, workload) => self.tell_workload(id, workload),
            Change::Placement(id, placement) => self.tell_placement(id, placement),
        }
    }

    fn tell_worker(&mut self, id: WorkerId, worker: Option<Worker>) {
        self.changed_workers.insert(id);
        self.note_cordon(id, worker.as_ref().is_some_and(|worker| worker.cordoned));
        let Some(worker) = worker else {
            self.facts.workers.remove(&id);
            self.lost.remove(&id);
            self.devices.remove(id);
            return;
        };
        if self.facts.workers.get(&id).is_some_and(|known| known.clearance != worker.clearance) {
            let there = self.on_worker.get(&id).into_iter().flatten();
            let workloads = there.filter_map(|id| self.facts.placements.get(id)).map(|p| p.workload_id);
            self.changed.extend(workloads);
        }
        if worker.live {
            self.lost.remove(&id);
        } else {
            self.lost.insert(id);
        }
        self.devices.put(&worker, !worker.live);
        self.facts.workers.insert(id, worker);
    }

    fn tell_workload(&mut self, id: WorkloadId, workload: Option<Workload>) {
        if let Some(old) = self.facts.workloads.remove(&id) {
            self.forget_member(old.owner, id);
        }
        let workload = workload.filter(|w| w.state != WorkloadState::Ended);
        // A placement that ended before anybody told of it.
        let waits = |before| {
            workload.as_ref().is_none_or(|w| w.state == WorkloadState::Pending && w.generation > before)
        };
        if self.expected.get(&id).is_some_and(|(before, _)| waits(*before)) {
            self.expected.remove(&id);
            self.evicting.remove(&id);
        }
        if let Some(workload) = workload {
            self.members.entry(workload.owner).or_default().insert(id);
            self.changed_owners.insert(workload.owner);
            self.listed.want(workload.tenant_id, &workload.resources, &mut self.requote);
            self.facts.workloads.insert(id, workload);
        }
        self.changed.insert(id);
    }

    pub(super) fn forget_member(&mut self, owner: WorkloadOwner, id: WorkloadId) {
        self.changed_owners.insert(owner);
        if let Some(members) = self.members.get_mut(&owner) {
            members.remove(&id);
            if members.is_empty() {
                self.members.remove(&owner);
            }
        }
    }

    fn tell_placement(&mut self, id: PlacementId, placement: Option<LivePlacement>) {
        if let Some(old) = self.facts.placements.get(&id) {
            let (workload, worker) = (old.workload_id, old.worker_id);
            self.forget_placement(id, workload, worker);
        }
        if let Some(placement) = placement.filter(|p| p.state != PlacementState::Ended) {
            let workload = placement.workload_id;
            self.expected.remove(&workload);
            self.placed.insert(workload, id);
            self.on_worker.entry(placement.worker_id).or_default().insert(id);
            self.changed_workers.insert(placement.worker_id);
            self.note_standing(placement.owner);
            self.listed.want(placement.tenant_id, &placement.resources, &mut self.requote);
            self.facts.placements.insert(id, placement);
            self.note_failing(workload);
            self.changed.insert(workload);
        }
    }

    pub(super) fn forget_placement(&mut self, id: PlacementId, workload: WorkloadId, worker: WorkerId) {
        if let Some(placement) = self.facts.placements.remove(&id) {
            self.note_standing(placement.owner);
        }
        if self.placed.get(&workload) == Some(&id) {
            self.placed.remove(&workload);
        }
        self.note_failing(workload);
        if let Some(others) = self.on_worker.get_mut(&worker) {
            others.remove(&id);
            if others.is_empty() {
                self.on_worker.remove(&worker);
            }
        }
        self.changed.insert(workload);
    }

    /// The database refused to place a workload. It is to be told anew.
    pub fn refused(&mut self, workload: WorkloadId) {
        self.expected.remove(&workload);
        self.evicting.remove(&workload);
        self.changed.insert(workload);
    }

    pub(super) fn kind(&mut self, kind: Kind) -> u32 {
        if let Some(id) = self.kind_ids.get(&kind) {
            return *id;
        }
        let id = u32::try_from(self.kinds.len()).expect("kinds of requests are far fewer than requests");
        self.kind_ids.insert(kind.clone(), id);
        self.kinds.push(KindState::new(kind));
        id
    }

    /// Makes queues and devices agree with the facts.
    pub(super) fn catch_up(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        if std::mem::take(&mut self.requote) {
            let nodes = quota::nodes(&self.facts, &self.listed);
            let settings = quota::settings(&self.facts);
            self.crowded = true;
            self.admissions.reconfigure(settings, nodes).expect("a tree is checked when it is stored");
            // Which resources are counted may be others.
            self.changed.extend(self.known.keys().copied());
        }
        let (mut promised, mut others) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.changed) {
            self.let_go(id, decisions);
            match self.facts.workloads.get(&id).and_then(|w| w.promised_at) {
                Some(since) => promised.push((since, id)),
                None => others.push(id),
            }
        }
        // What is held comes first: it is so, whatever else is wanted.
        others.sort_by_key(|id| !self.placed.contains_key(id));
        promised.sort_unstable();
        for id in others.into_iter().chain(promised.into_iter().map(|(_, id)| id)) {
            self.reconcile(id, now);
        }
    }

    /// Tells the worker of a placement that nobody wants any more, or that is not
    /// to be there.
    fn let_go(&mut self, id: WorkloadId, decisions: &mut Vec<Decision>) {
        let Some(placement) = self.placed.get(&id).and_then(|p| self.facts.placements.get(p)) else {
            return;
        };
        let not_cleared = !self.facts.is_cleared(placement.tenant_id, placement.worker_id);
        let Some(placement) = self.placed.get(&id).and_then(|p| self.facts.placements.get_mut(p)) else {
            return;
        };
        if placement.state == PlacementState::Draining || self.lost.contains(&placement.worker_id) {
            self.evicting.remove(&id);
            return;
        }
        let (placement_id, generation) = (placement.id, placement.generation);
        let why = if !self.facts.workloads.contains_key(&id) {
            Some(DrainReason::Unwanted)
        } else if not_cleared {
            Some(DrainReason::NotCleared)
        } else {
            None
        };
        if let Some(why) = why {
            placement.state = PlacementState::Draining;
            self.evicting.remove(&id);
            decisions.push(Decision::Drain { placement: placement_id, generation, why });
        } else if let Some((preemptor, rule)) = self.evicting.remove(&id) {
            placement.state = PlacementState::Draining;
            decisions.push(Decision::Evict { placement: placement_id, generation, preemptor, rule });
        }
    }

    pub(super) fn reconcile(&mut self, id: WorkloadId, now: Timestamp) {
        let target = self.target(id);
        let known = self.known.get(&id);
        let same = match (&target, known) {
            (None, None) => return,
            (Some((standing, ask, _)), Some(known)) => {
                known.standing == *standing
                    && self.admissions.ask(id).is_some_and(|told| match standing {
                        Standing::Waits | Standing::Promised => told == ask,
                        _ => {
                            (&told.options, told.project, told.group, &told.budget)
                                == (&ask.options, ask.project, ask.group, &ask.budget)
                        }
                    })
            }
            _ => false,
        };
        if same {
            return;
        }
        if let Some(known) = self.known.remove(&id) {
            self.leaving.remove(&id);
            self.stand_up(&known, target.is_none());
            match (&known.standing, &target) {
                // It goes on holding what it holds, for a while.
                (Standing::Placed(seat), Some((Standing::Leaves(other), ..))) if seat == other => {
                    self.admissions.evict(id, now);
                }
                _ => {
                    self.admissions.release(id, &[], now);
                }
            }
        }
        self.untold.remove(&id);
        let Some((standing, ask, known)) = target else { return };
        if self.admissions.ask(id).is_none() {
            // It refuses only what the database does not let be.
            let _ = match &standing {
                Standing::Waits => {
                    self.untold.insert(id);
                    self.admissions.enqueue(ask)
                }
                Standing::Promised => {
                    let workload = self.facts.workloads.get(&id);
                    let since = workload.and_then(|w| w.promised_at).unwrap_or(now);
                    let class = workload.and_then(|w| w.promised_class.as_deref());
                    let option = class.and_then(|class| self.kinds[known.kind as usize].kind.option(class));
                    let standing = HoldingStanding::Promised;
                    self.admissions.restore(quota::held(ask, option.unwrap_or(0), since, standing))
                }
                Standing::Placed(seat) => {
                    let (option, since) = (self.option(known.kind, seat), self.placed_at(id, now));
                    self.admissions.restore(quota::held(ask, option, since, HoldingStanding::Admitted))
                }
                Standing::Leaves(seat) => {
                    let (option, since) = (self.option(known.kind, seat), self.placed_at(id, now));
                    self.admissions.restore(quota::held(ask, option, since, HoldingStanding::Leaving(None)))
                }
            };
        }
        self.sit_down(id, Known { standing, ..known });
    }

    /// Which of the classes of its kind something is on.
    pub(super) fn option(&self, kind: u32, seat: &Seat) -> usize {
        self.kinds[kind as usize].kind.option(&seat.class).unwrap_or(0)
    }

    pub(super) fn placed_at(&self, id: WorkloadId, now: Timestamp) -> Timestamp {
        self.placed.get(&id).and_then(|p| self.facts.placements.get(p)).map_or(now, |p| p.since)
    }

    /// Takes what it holds.
    pub(super) fn sit_down(&mut self, id: WorkloadId, known: Known) {
        if let Some(seat) = known.standing.seat() {
            self.devices.take(seat);
        }
        match &known.standing {
            Standing::Placed(seat) => {
                self.crowded = true;
                self.devices.settle(seat.worker, known.owner, known.version);
            }
            Standing::Leaves(_) => {
                self.crowded = true;
                self.leaving.insert(id);
            }
            // It may preempt, whatever stands in line with it.
            Standing::Waits => self.crowded |= self.refused.contains(&known.kind),
            Standing::Promised => self.crowded = true,
        }
        self.known.insert(id, known);
    }

    /// Gives back what it held.
    fn stand_up(&mut self, known: &Known, over: bool) {
        let kind = &self.kinds[known.kind as usize].kind;
        if let Some(seat) = known.standing.seat() {
            self.devices.free(seat);
            if over {
                self.devices.end(kind);
            }
        }
        if let Standing::Placed(seat) = &known.standing {
            self.devices.part(seat.worker, known.owner, known.version);
        }
    }

    /// What the facts say of a workload.
    fn target(&mut self, id: WorkloadId) -> Option<(Standing, Ask, Known)> {
        let placement = self.placed.get(&id).and_then(|p| self.facts.placements.get(p));
        let workload = self.facts.workloads.get(&id);
        let bounds = |tenant| self.facts.tenants.get(&tenant);
        let (standing, wanted, owner, version) = if let Some(placement) = placement {
            let (worker, class) = (placement.worker_id, placement.class.clone());
            let seat = Seat { worker, class, holds: placement.holds.clone() };
            let stays = workload.is_some()
                && placement.state != PlacementState::Draining
                && !self.evicting.contains_key(&id);
            let standing = if stays { Standing::Placed(seat) } else { Standing::Leaves(seat) };
            let queued_at = workload.map_or(placement.since, |workload| workload.queued_at);
            let intent = self.facts.intents.get(&placement.owner);
            let wanted = quota::Wanted::of_placement(placement, intent, queued_at);
            (standing, wanted, placement.owner, placement.version_id)
        } else {
            let workload = workload?;
            let intent = self.facts.intents.get(&workload.owner);
            let standing = if let Some((_, seat)) = self.expected.get(&id) {
                let leaves = self.evicting.contains_key(&id);
                if leaves { Standing::Leaves(seat.clone()) } else { Standing::Placed(seat.clone()) }
            } else if workload.state != WorkloadState::Pending {
                return None;
            } else if workload.promised_at.is_some()
                && bounds(workload.tenant_id).is_none_or(|bounds| bounds.closed.is_none())
            {
                Standing::Promised
            } else {
                Standing::Waits
            };
            let wanted = quota::Wanted::of_workload(workload, intent);
            (standing, wanted, workload.owner, workload.version_id)
        };
        let bounds = bounds(wanted.tenant);
        let kind = Kind::of(wanted.resources, bounds);
        let mut ask = wanted.ask(&self.listed);
        ask.budget = budgets::asked(self.facts.budgets.get(&wanted.tenant), wanted.resources);
        ask.hold = bounds.and_then(|bounds| bounds.closed).map(quota::hold);
        let fresh = !self.known.contains_key(&id);
        if fresh && standing == Standing::Waits {
            self.devices.observe(&kind);
        }
        let kind = self.kind(kind);
        ask.kind = kind;
        Some((standing.clone(), ask, Known { standing, kind, owner, version }))
    }
}
