//! A fleet and its intents that a seed makes and changes, and what applying a
//! plan means in it. For tests only; the store does the same in SQL.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::accelerators::Device;
use crate::budgets::{Period, RESERVE_SECS, TimeBudget, whole};
use crate::quotas::{
    BorrowWhilePreempting, Key, NodeId, NodeSpec, Quota, Reclaim, Resource, Strategy, Tree, WithinTenant,
};
use crate::tenants::Classification;
use crate::workers::{WORKER_LOST_SECS, Worker};
use crate::workloads::{ENDPOINT_PRIORITY, JOB_PRIORITY};
use crate::workloads::{PlacementState, Workload, WorkloadState};
use crate::{CohortId, EndpointId, JobId, ProjectId};

pub(super) const START: Timestamp = Timestamp::UNIX_EPOCH;
/// Plans until nothing is left to decide: end, create, place, nothing.
const MOST_ROUNDS: usize = 3;
/// Zones that workers are in, in turns.
pub(super) const ZONES: [&str; 3] = ["north", "south", "west"];

/// Pools that workers are in, in turns.
const POOLS: [&str; 3] = ["blue", "red", "green"];

/// Cohorts of a world that has some.
const COHORTS: [NodeId; 2] = [
    NodeId::Cohort(CohortId(uuid::Uuid::from_u128(1 << 64))),
    NodeId::Cohort(CohortId(uuid::Uuid::from_u128(2 << 64))),
];

/// SplitMix64, so that a run can be repeated from its seed.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[usize::try_from(self.below(from.len() as u64)).unwrap()])
    }
}

fn differences<K: Copy + Ord, V: Clone + PartialEq>(
    told: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    random: &mut Random,
    mut tell: impl FnMut(K, Option<V>),
) {
    for (id, value) in now {
        if told.get(id) != Some(value) || random.below(8) == 0 {
            tell(*id, Some(value.clone()));
        }
    }
    told.keys().filter(|id| !now.contains_key(id)).for_each(|id| tell(*id, None));
}

pub(super) struct World {
    pub snapshot: Snapshot,
    pub now: Timestamp,
    pub random: Random,
    /// Whether one tenant may have several endpoints and jobs.
    pub shared_tenants: bool,
    /// Whether some will do with devices of another class.
    pub several_classes: bool,
    /// Whether what tenants and projects may spend is limited.
    pub budgets: bool,
    /// Whether work and workers differ in how secret they may be.
    pub classified: bool,
    /// Which pools are dedicated; some are, to some, where work is classified.
    dedicated: [bool; POOLS.len()],
    /// One planner that is told of changes, and what it was told.
    kept: Option<(Recorder, Snapshot)>,
    epoch: i64,
    overlaps: bool,
    /// What was recorded of it.
    pub pages: Vec<Recorded>,
    ids: u128,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            snapshot: Snapshot::empty(START),
            now: START,
            random: Random(seed),
            shared_tenants: false,
            several_classes: false,
            budgets: false,
            classified: false,
            dedicated: [false; POOLS.len()],
            kept: None,
            epoch: 0,
            overlaps: false,
            pages: Vec::new(),
            ids: 0,
        }
    }

    pub fn id<T: From<uuid::Uuid>>(&mut self) -> T {
        self.ids += 1;
        uuid::Uuid::from_u128(self.ids).into()
    }

    pub fn add_worker(&mut self, class: &str, devices: u32, memory_bytes: u64, milli: u32) -> WorkerId {
        let id: WorkerId = self.id();
        let device = |world: &mut Self, ordinal| Device {
            id: world.id(),
            worker_id: id,
            ordinal,
            class: class.to_owned(),
            memory_bytes,
            milli,
            available_memory_bytes: None,
            used_memory_bytes: 0,
            used_milli: 0,
        };
        let worker = Worker {
            id,
            name: format!("node-{}", self.snapshot.workers.len()).parse().unwrap(),
            pool: POOLS[self.snapshot.workers.len() / 2 % POOLS.len()].parse().unwrap(),
            dedicated: self.dedicated[self.snapshot.workers.len() / 2 % POOLS.len()],
            zone: ZONES[self.snapshot.workers.len() % ZONES.len()].parse().unwrap(),
            address: "http://127.0.0.1:1".to_owned(),
            cordoned: false,
            clearance: self.some_clearance(),
            live: true,
            devices: (0..devices).map(|ordinal| device(self, ordinal)).collect(),
            seen_at: self.now,
            revision: 1,
            created_at: self.now,
        };
        self.snapshot.workers.insert(id, worker);
        id
    }

    pub fn add_intent(
        &mut self,
        owner: WorkloadOwner,
        memory_bytes: u64,
        milli: u32,
        count: u32,
    ) -> WorkloadOwner {
        let (mut tenant_id, project_id, version_id) = (self.id(), self.id(), self.id());
        let owners: Vec<_> = self.snapshot.intents.keys().copied().collect();
        if self.shared_tenants
            && self.random.below(2) == 0
            && let Some(other) = self.random.pick(&owners)
        {
            tenant_id = self.snapshot.intents[&other].tenant_id;
        }
        let mut classes = vec!["cpu".to_owned()];
        if self.several_classes && self.random.below(2) == 0 {
            classes.push("other".to_owned());
            if self.random.below(2) == 0 {
                classes.reverse();
            }
        }
        let alternatives = classes.split_off(1);
        let class = classes.remove(0);
        let resources = ResourceRequest { class, alternatives, memory_bytes, milli };
        let priority = match owner {
            WorkloadOwner::Endpoint(_) => ENDPOINT_PRIORITY,
            WorkloadOwner::Job(_) => JOB_PRIORITY,
        };
        let intent = Intent { tenant_id, project_id, priority, version_id, resources, count, floor: 1 };
        self.snapshot.intents.insert(owner, intent);
        owner
    }

    pub fn add_endpoint(&mut self, memory_bytes: u64, milli: u32, replicas: u32) -> WorkloadOwner {
        let id: EndpointId = self.id();
        self.add_intent(WorkloadOwner::Endpoint(id), memory_bytes, milli, replicas)
    }

    pub fn add_job(&mut self, memory_bytes: u64, milli: u32) -> WorkloadOwner {
        let id: JobId = self.id();
        self.add_intent(WorkloadOwner::Job(id), memory_bytes, milli, 1)
    }

    /// A world in which tenants share, lend and borrow, in two cohorts.
    pub fn with_cohorts(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.shared_tenants = true;
        world.snapshot.fair_sharing = world.random.below(2) == 0;
        for cohort in COHORTS {
            world.snapshot.quotas.push(NodeSpec::new(cohort, None));
        }
        world
    }

    /// A tenant gets other quota, or its first.
    fn change_quota(&mut self, tenant: TenantId) {
        let mut node = NodeSpec::new(NodeId::Tenant(tenant), self.random.pick(&COHORTS));
        let amount = |world: &mut Self| i64::try_from(world.random.below(5)).unwrap() * 1000;
        let maybe = |world: &mut Self| (world.random.below(3) == 0).then(|| amount(world));
        let (lending_limit, borrowing_limit) = (maybe(self), maybe(self));
        let nominal = i64::try_from(self.random.below(5)).unwrap() * 1000;
        node.quotas.insert(Key::milli("cpu"), Quota { nominal, lending_limit, borrowing_limit });
        if self.random.below(4) == 0 {
            let memory = Key { class: "cpu".into(), resource: Resource::MemoryBytes };
            node.quotas.insert(memory, Quota { nominal: 4 << 30, ..Quota::default() });
        }
        if self.several_classes && self.random.below(3) > 0 {
            let nominal = i64::try_from(self.random.below(4)).unwrap() * 1000;
            let quota = Quota { nominal, lending_limit: maybe(self), borrowing_limit: maybe(self) };
            node.quotas.insert(Key::milli("other"), quota);
        }
        let within =
            [WithinTenant::Never, WithinTenant::LowerPriority, WithinTenant::LowerOrNewerEqualPriority];
        node.policies.within = self.random.pick(&within).unwrap();
        node.policies.reclaim =
            self.random.pick(&[Reclaim::Never, Reclaim::LowerPriority, Reclaim::Any]).unwrap();
        node.policies.strategy = self.random.pick(&[Strategy::BestEffortFifo, Strategy::StrictFifo]).unwrap();
        if self.random.below(3) == 0 {
            node.policies.borrow = BorrowWhilePreempting::LowerPriority { max_priority: None };
        }
        self.snapshot.quotas.retain(|other| other.id != node.id);
        self.snapshot.quotas.push(node);
    }

    /// The quota tree with what is placed, as the database counts it.
    fn ledger(&self) -> Tree {
        let mut tree = Tree::new(&self.snapshot.quotas).unwrap();
        for placement in self.snapshot.placements.values() {
            for (key, amount) in self.amounts(placement.tenant_id, &placement.class, &placement.resources) {
                tree.count(NodeId::Tenant(placement.tenant_id), &key, amount);
            }
        }
        tree
    }

    fn amounts(&self, tenant: TenantId, class: &str, resources: &ResourceRequest) -> Vec<(Key, i64)> {
        let memory = Key { class: class.into(), resource: Resource::MemoryBytes };
        let mut amounts = vec![(Key::milli(class), resources.milli.into())];
        let node = self.snapshot.quotas.iter().find(|node| node.id == NodeId::Tenant(tenant));
        if node.is_some_and(|node| node.quotas.contains_key(&memory)) {
            amounts.push((memory, resources.memory_bytes.try_into().unwrap()));
        }
        amounts
    }

    /// Whether the ledger has room for it; a tenant outside of the tree has.
    fn quota_fits(&self, tenant: TenantId, class: &str, resources: &ResourceRequest) -> bool {
        let Some(node) = self.snapshot.quotas.iter().find(|node| node.id == NodeId::Tenant(tenant)) else {
            return true;
        };
        let tree = self.ledger();
        self.amounts(tenant, class, resources).iter().all(|(key, amount)| {
            node.quotas.contains_key(key)
                && tree.figures(node.id, key).is_some_and(|figures| figures.available >= *amount)
        })
    }

    /// Budgets are of the periods of now: who reads them is told so.
    fn turn(&mut self) {
        for budget in self.snapshot.budgets.values_mut().flatten() {
            if budget.is_over(self.now) {
                (budget.began, budget.settled_ms) = (budget.period.begins(self.now), 0);
            }
        }
    }

    /// A tenant gets other budgets, or none. What was spent before is forgotten.
    fn change_budgets(&mut self, owner: WorkloadOwner) {
        let (tenant, project) =
            (self.snapshot.intents[&owner].tenant_id, self.snapshot.intents[&owner].project_id);
        let mut budgets = Vec::new();
        for project in [None, Some(project)] {
            for class in ["cpu", "other"] {
                if self.random.below(2) == 0 {
                    continue;
                }
                let period = self.random.pick(&[Period::Day, Period::Month]).unwrap();
                budgets.push(TimeBudget {
                    project,
                    class: class.to_owned(),
                    period,
                    limit: i64::try_from(self.random.below(60)).unwrap() * 10_000,
                    settled_ms: 0,
                    began: period.begins(self.now),
                });
            }
        }
        if budgets.is_empty() {
            self.snapshot.budgets.remove(&tenant);
        } else {
            self.snapshot.budgets.insert(tenant, budgets);
        }
    }

    /// Whether all budgets that cover it have room for one more, as the database
    /// counts it.
    fn budget_fits(&self, tenant: TenantId, project: Option<ProjectId>, class: &str, milli: u32) -> bool {
        let Some(project) = project else { return true };
        let budgets = self.snapshot.budgets.get(&tenant).map_or(&[][..], Vec::as_slice);
        budgets.iter().filter(|budget| budget.covers(project, class)).all(|budget| {
            let live = self.snapshot.placements.values();
            let live = live.filter(|p| p.tenant_id == tenant && budget.covers(p.project_id, &p.class));
            let held = live.map(|p| {
                let ran = self.now.since(p.since.max(budget.period.begins(self.now))).as_millis();
                i64::try_from(ran).unwrap().max(RESERVE_SECS * 1000) * i64::from(p.resources.milli)
            });
            let all = budget.settled(self.now) + held.sum::<i64>();
            whole(all + RESERVE_SECS * 1000 * i64::from(milli)) <= budget.limit
        })
    }

    pub fn pass(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    /// Workers that are alive say so.
    pub fn report(&mut self) {
        let now = self.now;
        for worker in self.snapshot.workers.values_mut().filter(|w| w.live) {
            worker.seen_at = now;
        }
    }

    /// Draining ends and starting succeeds.
    pub fn make_true(&mut self) {
        let ids: Vec<_> = self.snapshot.placements.keys().copied().collect();
        for id in ids {
            let placement = self.snapshot.placements.get_mut(&id).unwrap();
            match placement.state {
                PlacementState::Assigned => placement.state = PlacementState::Ready,
                PlacementState::Draining => self.end(id),
                _ => {}
            }
        }
    }

    /// The same; whether anything was draining or starting.
    pub fn make_true_if_any(&mut self) -> bool {
        let any = self.snapshot.placements.values().any(|p| p.state != PlacementState::Ready);
        self.make_true();
        any
    }

    /// Plans and applies until nothing is decided; returns all that was.
    pub fn settle(&mut self) -> Vec<Decision> {
        self.turn();
        let mut all = Vec::new();
        for _ in 0..=MOST_ROUNDS {
            let decisions = plan(&self.snapshot, self.now);
            assert_eq!(decisions, plan(&self.snapshot.clone(), self.now), "the same snapshot, another plan");
            if decisions.is_empty() {
                return all;
            }
            for decision in &decisions {
                self.apply(decision);
            }
            self.check();
            all.extend(decisions);
        }
        panic!("not settled after {MOST_ROUNDS} plans: {:#?}", plan(&self.snapshot, self.now));
    }

    /// The same with one planner that is kept and told what changed.
    pub fn settle_kept(&mut self) -> Vec<Decision> {
        self.turn();
        let mut all = Vec::new();
        let (mut recorder, mut told) = self.kept.take().unwrap_or_else(|| {
            self.epoch += 1;
            let first = PlanId { epoch: self.epoch, number: 0 };
            (Recorder::new(first, "1", self.snapshot.clone()), self.snapshot.clone())
        });
        // While a plan becomes true, the next is made.
        let overlaps = self.random.below(2) == 0;
        self.overlaps = overlaps;
        let mut under_way = Vec::new();
        // Little is done at a time.
        for _ in 0..=MOST_ROUNDS + self.snapshot.workloads.len() + 40 {
            self.tell(&mut recorder, &mut told, &under_way);
            let (decisions, page) = recorder.plan(self.now, 2);
            self.pages.extend(page);
            let planner = recorder.planner();
            assert!(planner.admissions.queues_are_consistent());
            if decisions.is_empty() && under_way.is_empty() && planner.is_settled() {
                assert!(
                    planner.facts().agrees(&self.snapshot),
                    "{:#?} is not {:#?}",
                    planner.facts(),
                    self.snapshot
                );
                // One that knows nothing else finds nothing else to do; at most
                // it puts in other words why something waits.
                let rest = plan(&self.snapshot, self.now);
                let fine = |d: &Decision| matches!(d, Decision::Wait { .. });
                assert!(rest.iter().all(fine), "left undone: {rest:#?}");
                self.kept = Some((recorder, told));
                return all;
            }
            let made = decisions.iter().any(|d| matches!(d, Decision::CreateWorkloads { .. }));
            let mut due = std::mem::replace(&mut under_way, decisions);
            if made || !overlaps {
                due.append(&mut under_way);
            }
            for decision in &due {
                self.apply(decision);
            }
            self.check();
            all.extend(due);
        }
        panic!("not settled: {:#?}", &all[all.len() - 6..]);
    }

    /// Tells what changed, and some of what did not, but nothing of what is under way.
    fn tell(&mut self, recorder: &mut Recorder, told: &mut Snapshot, under_way: &[Decision]) {
        let now = &self.snapshot;
        if told.quotas != now.quotas {
            recorder.tell(Change::Quotas(now.quotas.clone()));
        }
        let mut changes = Vec::new();
        let mut later = BTreeMap::new();
        // What ends was counted as spent when that was decided.
        let ends = under_way.iter().any(|d| matches!(d, Decision::EndPlacement { .. }));
        if ends {
            later = told.budgets.clone();
        } else {
            differences(&told.budgets, &now.budgets, &mut self.random, |tenant, v| {
                changes.push(Change::Budgets(tenant, v.unwrap_or_default()));
            });
        }
        differences(&told.tenants, &now.tenants, &mut self.random, |id, v| {
            changes.push(Change::Tenant(id, v));
        });
        differences(&told.workers, &now.workers, &mut self.random, |id, v| {
            changes.push(Change::Worker(id, v));
        });
        differences(&told.intents, &now.intents, &mut self.random, |id, v| {
            changes.push(Change::Intent(id, v));
        });
        differences(&told.workloads, &now.workloads, &mut self.random, |id, v| {
            changes.push(Change::Workload(id, v));
        });
        differences(&told.placements, &now.placements, &mut self.random, |id, v| {
            changes.push(Change::Placement(id, v));
        });
        let is_changing = |change: &Change| match change {
            Change::Workload(id, _) => under_way.iter().any(|d| d.workload() == Some(*id)),
            Change::Placement(id, _) => under_way.iter().any(|d| d.placement() == Some(*id)),
            Change::Worker(id, _) => {
                under_way.iter().any(|d| matches!(d, Decision::DeclareLost { worker, .. } if worker == id))
            }
            _ => false,
        };
        changes.retain(|change| !is_changing(change));
        changes.into_iter().for_each(|change| recorder.tell(change));
        *told = self.snapshot.clone();
        if ends {
            told.budgets = later;
        }
    }

    /// A scheduler that leads from now on knows what the database says.
    pub fn fail_over(&mut self) {
        self.kept = None;
    }

    /// A part of a plan, as when the scheduler dies on the way.
    pub fn apply_some(&mut self) {
        let decisions = plan(&self.snapshot, self.now);
        let some = self.random.below(decisions.len() as u64 + 1);
        for decision in decisions.iter().take(usize::try_from(some).unwrap()) {
            self.apply(decision);
        }
    }

    /// What the store does, with what it checks.
    fn apply(&mut self, decision: &Decision) {
        match decision {
            Decision::CreateWorkloads { owner, existing, .. } => {
                let open = self.snapshot.workloads.values().filter(|w| w.owner == *owner).count();
                assert_eq!(u32::try_from(open).unwrap(), *existing);
            }
            Decision::EndWorkload { workload: id, .. } => {
                let workload = self.snapshot.workloads.get(id).expect("ended twice");
                if let Some(intent) = self.snapshot.intents.get(&workload.owner) {
                    let left = self.answering(workload.owner).filter(|p| p.workload_id != *id).count();
                    let placed = self.snapshot.placements.values().find(|p| p.workload_id == *id);
                    let lost = placed.is_some_and(|placed| placed.state == PlacementState::Ready);
                    let wanted = usize::try_from(intent.count).unwrap();
                    assert!(!lost || left >= wanted, "{workload:?} ended, though it answered and was needed");
                }
            }
            Decision::Drain { placement, why: DrainReason::Failing, .. } => {
                let placement = &self.snapshot.placements[placement];
                let workload = &self.snapshot.workloads[&placement.workload_id];
                let now = self.now;
                assert!(placement.failures >= FAILURES_BEFORE_MOVE, "{placement:?} is moved for nothing");
                let avoided = |id| {
                    id == placement.worker_id
                        || workload
                            .failed_on
                            .iter()
                            .any(|f| f.worker_id == id && now.since(f.at).as_secs() <= 3600)
                };
                let mut others = self.snapshot.workers.values().filter(|w| !avoided(w.id));
                let taken = others.any(|w| !self.is_closed_to(w, workload));
                // While a plan becomes true, the next goes by what it will have freed.
                assert!(taken || self.overlaps, "{placement:?} is moved, and nowhere else is room");
            }
            Decision::Place { workload, worker, class, holds, .. } => {
                self.may_be_placed(*workload, *worker, class);
                let of_class = |hold: &Hold| {
                    let found = self.snapshot.workers[worker].devices.iter().find(|d| d.id == hold.device_id);
                    found.is_some_and(|device| device.class == *class)
                };
                assert!(holds.iter().all(of_class), "placed on a device of another class");
                for hold in holds {
                    let mut devices = self.snapshot.workers[worker].devices.iter();
                    let device = devices.find(|d| d.id == hold.device_id).unwrap();
                    let fits = device.used_memory_bytes + hold.memory_bytes <= device.usable_memory_bytes();
                    assert!(fits, "placed on memory of {device:?} that others use");
                }
            }
            Decision::Wait { workload, reason, promised, .. } => {
                let workload = &self.snapshot.workloads[workload];
                let known = (workload.reason.as_ref(), &workload.promised_class);
                assert_ne!(known, (Some(reason), promised), "said again");
            }
            _ => {}
        }
        let ids = &mut self.ids;
        let mut id = || {
            *ids += 1;
            uuid::Uuid::from_u128(*ids)
        };
        self.snapshot.apply(decision, self.now, &mut id).unwrap();
    }

    /// Placements of an owner's workloads that answer.
    fn answering(&self, owner: WorkloadOwner) -> impl Iterator<Item = &LivePlacement> {
        let all = self.snapshot.placements.values();
        all.filter(move |p| {
            p.owner == owner
                && p.state == PlacementState::Ready
                && self.snapshot.workloads.contains_key(&p.workload_id)
        })
    }

    /// How many more workloads an endpoint has, because some are to leave cordoned
    /// workers.
    fn moving(&self, owner: WorkloadOwner, wanted: u32) -> u32 {
        if matches!(owner, WorkloadOwner::Job(_)) {
            return 0;
        }
        let on_cordoned = |p: &LivePlacement| self.snapshot.workers[&p.worker_id].cordoned;
        let to_move = self.snapshot.placements.values().filter(|p| {
            p.owner == owner
                && p.state != PlacementState::Draining
                && self.snapshot.workloads.contains_key(&p.workload_id)
                && on_cordoned(p)
        });
        let others = self.answering(owner).filter(|p| !on_cordoned(p)).count();
        let needed = wanted.saturating_sub(u32::try_from(others).unwrap());
        needed.min(u32::try_from(to_move.count()).unwrap())
    }

    fn may_be_placed(&self, id: WorkloadId, worker: WorkerId, class: &str) {
        let worker = &self.snapshot.workers[&worker];
        assert!(worker.live && !worker.cordoned, "placed on a worker that takes nothing");
        let asking = &self.snapshot.workloads[&id];
        if let Some(bounds) = self.snapshot.tenants.get(&asking.tenant_id) {
            assert_eq!(bounds.closed, None, "placed for a tenant that begins nothing");
            let zone = worker.zone.as_str();
            let inside = bounds.zones.is_empty() || bounds.zones.iter().any(|z| z == zone);
            assert!(inside, "placed in {zone}, outside of {:?}", bounds.zones);
        }
        let secrecy = self.secrecy(asking.tenant_id);
        assert!(worker.clearance >= secrecy, "{secrecy:?} work is placed on {worker:?}");
        assert!(self.is_for(asking.tenant_id, worker), "{asking:?} is placed on {worker:?}");
        assert!(asking.resources.option(class).is_some(), "placed on {class}: {asking:?}");
        assert!(
            self.quota_fits(asking.tenant_id, class, &asking.resources),
            "placed beyond quota: {asking:?}"
        );
        let project = self.snapshot.intents.get(&asking.owner).map(|intent| intent.project_id);
        assert!(
            self.budget_fits(asking.tenant_id, project, class, asking.resources.milli),
            "placed beyond a budget: {asking:?} of {:#?}",
            self.snapshot.budgets
        );
    }

    fn end(&mut self, id: PlacementId) {
        let now = self.now;
        self.snapshot.settle_time(id, now);
        assert!(!self.snapshot.end_placement(id).is_empty(), "ended twice");
    }

    /// Whether a worker is not dedicated to others, nor the tenant to other pools.
    fn is_for(&self, tenant: TenantId, worker: &Worker) -> bool {
        let own: &[String] = self.snapshot.tenants.get(&tenant).map_or(&[], |bounds| &bounds.pools);
        if own.is_empty() {
            !worker.dedicated
        } else {
            own.contains(&worker.pool.to_string()) && worker.dedicated
        }
    }

    fn secrecy(&self, tenant: TenantId) -> Classification {
        self.snapshot.tenants.get(&tenant).map_or(Classification::Internal, |bounds| bounds.classification)
    }

    /// Of a new worker: some are cleared for less than most work, some for more.
    fn some_clearance(&mut self) -> Classification {
        if !self.classified {
            return Classification::Internal;
        }
        let levels = [Classification::Public, Classification::Internal, Classification::Secret];
        self.random.pick(&levels).unwrap()
    }

    /// What must hold at every moment.
    pub fn check(&self) {
        for device in self.snapshot.workers.values().flat_map(|w| &w.devices) {
            assert!(device.used_memory_bytes <= device.memory_bytes, "memory of {device:?} exceeded");
            assert!(device.used_milli <= device.milli, "compute of {device:?} exceeded");
        }
        let mut live: BTreeMap<WorkloadId, u32> = BTreeMap::new();
        for placement in self.snapshot.placements.values() {
            *live.entry(placement.workload_id).or_default() += 1;
        }
        assert!(live.values().all(|n| *n == 1), "two live placements of one workload");
        for workload in self.snapshot.workloads.values() {
            assert_eq!(
                workload.state == WorkloadState::Placed,
                live.contains_key(&workload.id),
                "{workload:?}"
            );
        }
    }

    /// What must hold once settled.
    pub fn check_settled(&self) {
        for placement in self.snapshot.placements.values() {
            assert!(self.snapshot.workers[&placement.worker_id].live, "{placement:?} is on a lost worker");
            let cleared =
                self.snapshot.workers[&placement.worker_id].clearance >= self.secrecy(placement.tenant_id);
            assert!(cleared || placement.state == PlacementState::Draining, "{placement:?} stays");
            if !self.snapshot.workloads.contains_key(&placement.workload_id) {
                assert_eq!(placement.state, PlacementState::Draining, "{placement:?} serves nobody");
            }
        }
        for (owner, intent) in &self.snapshot.intents {
            let have = self.snapshot.workloads.values().filter(|w| w.owner == *owner).count();
            let moving = self.moving(*owner, intent.count);
            assert_eq!(
                u32::try_from(have).unwrap(),
                intent.count + moving,
                "{owner:?}, {moving} of it moving"
            );
        }
        for workload in self.snapshot.workloads.values().filter(|w| w.state == WorkloadState::Pending) {
            assert!(workload.reason.is_some(), "{workload:?} waits for nothing");
            let request = &workload.resources;
            let bounds = self.snapshot.tenants.get(&workload.tenant_id).cloned().unwrap_or_default();
            if let Some(closed) = bounds.closed {
                assert_eq!(workload.reason.as_deref(), Some(closed.reason()));
                continue;
            }
            // What quota keeps waiting is checked where quota is planned.
            if !self.snapshot.quotas.is_empty()
                && self.snapshot.quotas.iter().any(|n| n.id == NodeId::Tenant(workload.tenant_id))
            {
                continue;
            }
            let fitting = self
                .snapshot
                .workers
                .values()
                .filter(|w| w.live && !w.cordoned)
                .filter(|w| bounds.zones.is_empty() || bounds.zones.contains(&w.zone.to_string()))
                .filter(|w| w.clearance >= bounds.classification && self.is_for(workload.tenant_id, w))
                .flat_map(|w| &w.devices)
                .find(|d| {
                    let project = self.snapshot.intents.get(&workload.owner).map(|intent| intent.project_id);
                    request.option(&d.class).is_some()
                        && self.budget_fits(workload.tenant_id, project, &d.class, request.milli)
                        && d.usable_memory_bytes().saturating_sub(d.used_memory_bytes) >= request.memory_bytes
                        && d.milli - d.used_milli >= request.milli
                });
            assert!(fitting.is_none(), "{workload:?} waits although {fitting:?} has room");
        }
    }

    /// Something happens.
    pub fn happen(&mut self) {
        let workers: Vec<_> = self.snapshot.workers.keys().copied().collect();
        let owners: Vec<_> = self.snapshot.intents.keys().copied().collect();
        if self.budgets && self.random.below(4) == 0 {
            if self.random.below(2) == 0 {
                if let Some(owner) = self.random.pick(&owners) {
                    self.change_budgets(owner);
                }
            } else {
                let hours = 1 + self.random.below(40);
                self.pass(hours * 3600);
                self.report();
            }
        }
        if self.classified && self.random.below(12) == 0 {
            self.reclassify();
        }
        if self.classified && self.random.below(8) == 0 {
            self.fail_somewhere();
        }
        if self.classified && self.random.below(8) == 0 {
            self.use_elsewise();
        }
        match self.random.below(if self.shared_tenants { 13 } else { 11 }) {
            0 if workers.len() < 12 => {
                let (devices, memory) = (1 + self.random.below(3), 1 + self.random.below(16));
                let others = if self.several_classes { 2 } else { 8 };
                let class = if self.random.below(others) == 0 { "other" } else { "cpu" };
                self.add_worker(class, u32::try_from(devices).unwrap(), memory << 30, 4000);
            }
            1 | 2 if owners.len() < 20 => {
                let memory = 1 + self.random.below(6) * 700_000_000;
                let milli = 100 + u32::try_from(self.random.below(20)).unwrap() * 100;
                if self.random.below(2) == 0 {
                    let replicas = u32::try_from(self.random.below(5)).unwrap();
                    self.add_endpoint(memory, milli, replicas);
                } else {
                    self.add_job(memory, milli);
                }
            }
            3 => {
                if let Some(owner) = self.random.pick(&owners) {
                    let most = if matches!(owner, WorkloadOwner::Job(_)) { 2 } else { 6 };
                    let count = u32::try_from(self.random.below(most)).unwrap();
                    let intent = self.snapshot.intents.get_mut(&owner).unwrap();
                    (intent.count, intent.floor) = (count, (count / 2).max(1));
                }
            }
            4 => {
                // Deleted: the store shows no intent at all.
                if let Some(owner) = self.random.pick(&owners) {
                    self.snapshot.intents.remove(&owner);
                }
            }
            5 => {
                if let Some(id) = self.random.pick(&workers) {
                    let worker = self.snapshot.workers.get_mut(&id).unwrap();
                    worker.cordoned = !worker.cordoned;
                }
            }
            6 => {
                // One falls silent while the others report.
                let silent = self.random.pick(&workers);
                let was = silent.map(|id| self.snapshot.workers[&id].seen_at);
                self.pass(WORKER_LOST_SECS + 1);
                self.report();
                if let (Some(id), Some(was)) = (silent, was) {
                    self.snapshot.workers.get_mut(&id).unwrap().seen_at = was;
                }
            }
            7 => {
                // One comes back.
                if let Some(id) = self.random.pick(&workers) {
                    let now = self.now;
                    let worker = self.snapshot.workers.get_mut(&id).unwrap();
                    worker.live = true;
                    worker.seen_at = now;
                }
            }
            8 => {
                // A tenant is suspended, or another goes on.
                if let Some(owner) = self.random.pick(&owners) {
                    let tenant = self.snapshot.intents[&owner].tenant_id;
                    let bounds = self.snapshot.tenants.entry(tenant).or_default();
                    bounds.closed = match bounds.closed {
                        None => Some(Closed::Suspended),
                        Some(_) => None,
                    };
                }
            }
            9 => {
                // A tenant is bound to other zones.
                if let Some(owner) = self.random.pick(&owners) {
                    let tenant = self.snapshot.intents[&owner].tenant_id;
                    let some = usize::try_from(self.random.below(1 + ZONES.len() as u64)).unwrap();
                    let zones = ZONES[..some].iter().map(ToString::to_string).collect();
                    self.snapshot.tenants.entry(tenant).or_default().zones = zones;
                }
            }
            11 | 12 => {
                if let Some(owner) = self.random.pick(&owners) {
                    let tenant = self.snapshot.intents[&owner].tenant_id;
                    self.change_quota(tenant);
                }
            }
            _ => self.make_true(),
        }
        self.pass(1);
        self.report_unless_silent();
    }

    /// Others than our work use memory of a device, or do not any more.
    fn use_elsewise(&mut self) {
        let workers: Vec<_> = self.snapshot.workers.keys().copied().collect();
        let Some(id) = self.random.pick(&workers) else { return };
        let share = self.random.below(5);
        for device in &mut self.snapshot.workers.get_mut(&id).unwrap().devices {
            device.available_memory_bytes = (share < 4).then_some(device.memory_bytes / 4 * share);
        }
    }

    /// Something fails where it is for a while.
    fn fail_somewhere(&mut self) {
        let starting: Vec<PlacementId> = self
            .snapshot
            .placements
            .values()
            .filter(|p| p.state == PlacementState::Assigned)
            .map(|p| p.id)
            .collect();
        let Some(id) = self.random.pick(&starting) else { return };
        self.pass(45);
        self.report();
        let placement = self.snapshot.placements.get_mut(&id).unwrap();
        placement.failures += 1 + u32::try_from(self.random.below(3)).unwrap();
        placement.failed_at = Some(self.now);
    }

    /// Whether a worker takes nothing for a workload, be it for what is free there.
    fn is_closed_to(&self, worker: &Worker, workload: &Workload) -> bool {
        let bounds = self.snapshot.tenants.get(&workload.tenant_id).cloned().unwrap_or_default();
        let request = &workload.resources;
        let elsewhere = !bounds.zones.is_empty() && !bounds.zones.contains(&worker.zone.to_string());
        let full = worker.devices.iter().all(|d| {
            request.option(&d.class).is_none()
                || d.usable_memory_bytes().saturating_sub(d.used_memory_bytes) < request.memory_bytes
                || d.milli - d.used_milli < request.milli
        });
        !worker.live
            || worker.cordoned
            || elsewhere
            || full
            || worker.clearance < bounds.classification
            || !self.is_for(workload.tenant_id, worker)
    }

    /// A tenant's work becomes more or less secret, or a worker is cleared for other.
    fn reclassify(&mut self) {
        let workers: Vec<_> = self.snapshot.workers.keys().copied().collect();
        let owners: Vec<_> = self.snapshot.intents.keys().copied().collect();
        let level = self.random.pick(&Classification::ALL).unwrap();
        if self.random.below(3) == 0 {
            self.dedicate();
        } else if self.random.below(2) == 0 {
            if let Some(id) = self.random.pick(&workers) {
                self.snapshot.workers.get_mut(&id).unwrap().clearance = level;
            }
        } else if let Some(owner) = self.random.pick(&owners) {
            let tenant = self.snapshot.intents[&owner].tenant_id;
            self.snapshot.tenants.entry(tenant).or_default().classification = level;
        }
    }

    /// A pool is dedicated to a tenant, to one more or to one fewer, or is open again;
    /// or a worker is put into another.
    fn dedicate(&mut self) {
        let at = usize::try_from(self.random.below(POOLS.len() as u64)).unwrap();
        let pool = POOLS[at].to_owned();
        let owners: Vec<_> = self.snapshot.intents.keys().copied().collect();
        let workers: Vec<_> = self.snapshot.workers.keys().copied().collect();
        match self.random.below(4) {
            0 => {
                if let Some(id) = self.random.pick(&workers) {
                    self.snapshot.workers.get_mut(&id).unwrap().pool = pool.parse().unwrap();
                }
            }
            1 => {
                self.dedicated[at] = false;
                self.snapshot.tenants.values_mut().for_each(|bounds| bounds.pools.retain(|p| *p != pool));
            }
            _ => {
                self.dedicated[at] = true;
                if let Some(owner) = self.random.pick(&owners) {
                    let tenant = self.snapshot.intents[&owner].tenant_id;
                    let pools = &mut self.snapshot.tenants.entry(tenant).or_default().pools;
                    let before = pools.len();
                    pools.retain(|p| *p != pool);
                    if pools.len() == before {
                        pools.push(pool);
                    }
                }
            }
        }
        for worker in self.snapshot.workers.values_mut() {
            let at = POOLS.iter().position(|pool| *pool == worker.pool.as_str()).unwrap();
            worker.dedicated = self.dedicated[at];
        }
    }

    fn report_unless_silent(&mut self) {
        let now = self.now;
        for worker in self.snapshot.workers.values_mut() {
            if worker.live && now.since(worker.seen_at) <= Duration::from_secs(WORKER_LOST_SECS) {
                worker.seen_at = now;
            }
        }
    }
}
