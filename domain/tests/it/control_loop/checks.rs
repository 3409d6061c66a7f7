//! What must hold after every event, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use domain::planner::{Decision, PlanId, Replay, Snapshot, plan};
use domain::quotas::NodeId;
use domain::tenants::Classification;
use domain::workloads::{PlacementState, WorkloadState};
use domain::{PlacementId, WorkloadId};

use super::World;
use super::feed::Noted;
use super::ledger::{Ledger, key, tree};

/// What the checks remember.
#[derive(Default)]
pub struct Seen {
    placements: BTreeSet<PlacementId>,
    generations: BTreeSet<(WorkloadId, i64)>,
}

impl World {
    /// After every event.
    pub fn check(&mut self) {
        self.check_who_serves();
        let changed = std::mem::take(&mut self.db.changed);
        if !changed.is_empty() {
            self.check_devices();
        }
        if changed.iter().any(|noted| matches!(noted, Noted::Placement(_) | Noted::Quotas)) {
            self.check_ledger();
            self.check_new_placements();
        }
    }

    /// Whoever would begin to answer has the live placement of its workload, of
    /// which there is one: so no two do.
    fn check_who_serves(&self) {
        let now = self.instant();
        for node in self.nodes.iter().filter(|node| node.paused_until <= self.now) {
            let Some(process) = &node.process else { continue };
            for (id, generation) in process.serves(now) {
                let live = self.db.facts.placements.get(&id).filter(|placement| {
                    placement.generation == generation
                        && process.joined.is_none_or(|(worker, _)| worker == placement.worker_id)
                });
                assert!(
                    live.is_some(),
                    "{} serves {id} of generation {generation}, which has ended",
                    node.joining.name
                );
            }
        }
    }

    fn check_devices(&self) {
        let facts = &self.db.facts;
        let mut held: BTreeMap<_, (u64, u32)> = BTreeMap::new();
        let mut live = BTreeSet::new();
        for placement in facts.placements.values() {
            assert!(live.insert(placement.workload_id), "two live placements of one workload: {placement:?}");
            for hold in &placement.holds {
                let sums = held.entry(hold.device_id).or_default();
                *sums = (sums.0 + hold.memory_bytes, sums.1 + hold.milli);
            }
        }
        for device in facts.workers.values().flat_map(|worker| &worker.devices) {
            let (memory, milli) = held.get(&device.id).copied().unwrap_or_default();
            assert!(memory <= device.memory_bytes && milli <= device.milli, "{device:?} holds too much");
            assert_eq!(
                (memory, milli),
                (device.used_memory_bytes, device.used_milli),
                "{device:?} is miscounted"
            );
        }
        for workload in facts.workloads.values() {
            assert_eq!(workload.state == WorkloadState::Placed, live.contains(&workload.id), "{workload:?}");
        }
    }

    fn check_ledger(&self) {
        let facts = &self.db.facts;
        let anew = Ledger::new(&facts.quotas, facts.placements.values());
        assert!(self.db.ledger.used().eq(anew.used()), "the ledger is not what placements add up to");
    }

    /// Where something was placed just now, it may be.
    fn check_new_placements(&mut self) {
        let facts = &self.db.facts;
        let (old, new): (Vec<_>, Vec<_>) =
            facts.placements.values().partition(|placement| self.seen.placements.contains(&placement.id));
        let mut quotas = (!new.is_empty()).then(|| tree(&facts.quotas, old.into_iter()));
        // By their identifiers they are in the order in which they were placed.
        for placement in new {
            let generation = (placement.workload_id, placement.generation);
            assert!(self.seen.generations.insert(generation), "a generation was placed twice: {placement:?}");
            let worker = &facts.workers[&placement.worker_id];
            assert!(worker.live && !worker.cordoned, "{placement:?} is on a worker that takes nothing");
            let secrecy = facts
                .tenants
                .get(&placement.tenant_id)
                .map_or(Classification::Internal, |b| b.classification);
            assert!(worker.clearance >= secrecy, "{placement:?} is on a worker that is not cleared for it");
            if let Some(bounds) = facts.tenants.get(&placement.tenant_id) {
                assert!(bounds.closed.is_none(), "{placement:?} is of a tenant that begins nothing");
                let zone = worker.zone.as_str();
                let inside = bounds.zones.is_empty() || bounds.zones.iter().any(|z| z == zone);
                assert!(inside, "{placement:?} is outside of its zones");
            }
            let (tenant, amount) = (NodeId::Tenant(placement.tenant_id), placement.resources.milli.into());
            let Some(quotas) = &mut quotas else { continue };
            let before = quotas.clone();
            quotas.count(tenant, &key(), amount);
            for spec in &facts.quotas {
                let (Some(was), Some(is)) =
                    (before.figures(spec.id, &key()), quotas.figures(spec.id, &key()))
                else {
                    continue;
                };
                // What others use since quotas were cut is not this one's fault.
                let most = match (spec.parent, is.quota.borrowing_limit) {
                    (None, _) => is.subtree,
                    (Some(_), Some(limit)) => is.subtree + limit,
                    (Some(_), None) => continue,
                };
                assert!(is.used <= most || is.used == was.used, "{placement:?} is beyond {:?}", spec.id);
            }
        }
        self.seen.placements = facts.placements.keys().copied().collect();
    }

    /// Whether all has come to rest: nothing, or what is still missing.
    pub fn unrest(&self) -> Option<String> {
        let leaders: Vec<_> = self.schedulers.iter().filter(|scheduler| scheduler.term.is_some()).collect();
        let [leader] = leaders.as_slice() else { return Some(format!("{} schedulers lead", leaders.len())) };
        let term = leader.term?;
        if term.epoch != self.db.epoch || leader.connection != self.db.holder {
            return Some("who leads does not know that another does".to_owned());
        }
        if !leader.is_settled() {
            return Some("the leader has something to do".to_owned());
        }
        let snapshot = self.db.snapshot(term.since).0;
        if !leader.agrees(&snapshot) {
            return Some("the leader does not know what is".to_owned());
        }
        self.unrest_of_nodes().or_else(|| self.unrest_of_plans(&snapshot))
    }

    fn unrest_of_nodes(&self) -> Option<String> {
        let facts = &self.db.facts;
        if let Some(worker) = facts.workers.values().find(|worker| !worker.live) {
            return Some(format!("{} is lost", worker.name.as_str()));
        }
        if let Some(placement) = facts.placements.values().find(|p| p.state != PlacementState::Ready) {
            return Some(format!("{} is {:?}", placement.id, placement.state));
        }
        for node in &self.nodes {
            let Some(process) = &node.process else { return Some("a node has no process".to_owned()) };
            let Some((worker, _)) = process.joined else { return Some("a worker has not joined".to_owned()) };
            let wanted: Vec<_> =
                facts.placements.values().filter(|p| p.worker_id == worker).map(|p| p.id).collect();
            let serves: Vec<_> = process.serves(self.instant()).map(|(id, _)| id).collect();
            if wanted != serves || !process.holds().eq(wanted.iter().copied()) {
                return Some(format!("{} serves {serves:?}, not {wanted:?}", node.joining.name));
            }
        }
        None
    }

    /// Decisions to make others leave that the leader did not find and one that
    /// knows nothing else does. There should be none; counted until there are.
    pub fn unreclaimed(&self) -> u64 {
        let Some(term) = self.schedulers.iter().find_map(|scheduler| scheduler.term) else { return 0 };
        let rest = plan(&self.db.snapshot(term.since).0, self.timestamp());
        rest.iter().filter(|decision| matches!(decision, Decision::Evict { .. })).count() as u64
    }

    /// One that knows nothing else finds nothing to do, but to put in other words
    /// why something waits, or to make others leave for it; and what waits has no
    /// room.
    fn unrest_of_plans(&self, snapshot: &Snapshot) -> Option<String> {
        let rest = plan(snapshot, self.timestamp());
        let fine = |decision: &Decision| matches!(decision, Decision::Wait { .. } | Decision::Evict { .. });
        if let Some(left) = rest.iter().find(|decision| !fine(decision)) {
            return Some(format!("left undone: {left:?}"));
        }
        for (owner, intent) in &snapshot.intents {
            let have = snapshot.workloads.values().filter(|w| w.owner == *owner).count();
            let moving = snapshot.workers.values().any(|worker| worker.cordoned);
            if have < intent.count as usize || have > intent.count as usize && !moving {
                return Some(format!("{owner:?} has {have} of {} workloads", intent.count));
            }
        }
        let pending = snapshot.workloads.values().filter(|w| w.state == WorkloadState::Pending);
        for workload in pending {
            if workload.reason.is_none() {
                return Some(format!("{workload:?} waits for nothing"));
            }
            let bounds = snapshot.tenants.get(&workload.tenant_id).cloned().unwrap_or_default();
            let bound = snapshot.quotas.iter().any(|node| node.id == NodeId::Tenant(workload.tenant_id));
            // What quota keeps waiting is for the planner that looked anew.
            if bounds.closed.is_some() || bound {
                continue;
            }
            let open = snapshot.workers.values().filter(|w| {
                !w.cordoned
                    && w.clearance >= bounds.classification
                    && (bounds.zones.is_empty() || bounds.zones.iter().any(|z| z == w.zone.as_str()))
            });
            let request = &workload.resources;
            let room = open.flat_map(|w| &w.devices).find(|d| {
                d.memory_bytes - d.used_memory_bytes >= request.memory_bytes
                    && d.milli - d.used_milli >= request.milli
            });
            if let Some(room) = room {
                return Some(format!("{workload:?} waits although {room:?} has room"));
            }
        }
        None
    }

    /// Every plan is made again from its pages.
    pub fn check_record(&self) {
        let mut replays: BTreeMap<i64, Replay> = BTreeMap::new();
        for (PlanId { epoch, .. }, page) in &self.db.plans {
            let replay = replays.entry(*epoch).or_default();
            let read = replay.read(&page.line);
            assert!(read.is_ok(), "plan {} is not made again: {read:?}", page.plan);
            assert_eq!(replay.last().map(|last| last.plan), Some(page.plan));
            assert_eq!(replay.digest(), Some(page.digest));
        }
    }
}
