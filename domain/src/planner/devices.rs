//! The devices of the fleet, what is held of them, and the choice among them:
//! one [`placing::Fleet`] for each accelerator class.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::board::Seat;
use super::{Hold, Snapshot, TenantBounds};
use crate::accelerators::{Device, ResourceRequest};
use crate::placing::{self, Ask, Demand, Filter, Needs, Preferences, Weights};
use crate::tenants::Classification;
use crate::workers::Worker;
use crate::workloads::WorkloadOwner;
use crate::{DeviceId, VersionId, WorkerId};

/// The workers with devices of the asked class that a place was chosen from,
/// by what stood against them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Considered {
    /// Workers that could take it.
    pub fitting: u32,
    /// Workers that are lost.
    pub lost: u32,
    /// Workers that are cordoned.
    pub cordoned: u32,
    /// Workers in zones that are not the tenant's.
    pub out_of_zone: u32,
    /// Workers that are dedicated to others, or outside of the tenant's own pools.
    pub out_of_pool: u32,
    /// Workers that are not cleared for its classification.
    pub not_cleared: u32,
    /// Workers on which it failed lately, and which are taken only if no other is
    /// found; they are among the others here.
    pub failed_before: u32,
    /// Workers of whose devices none has enough memory free with enough
    /// thousandths.
    pub short_of_memory: u32,
    /// Workers of whose devices none has enough thousandths free.
    pub short_of_milli: u32,
}

/// What a placement costs, the least of all workers: in millionths of the value
/// of a device to the requests that arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Cost {
    /// Of gaps that are left and nothing fills as well.
    pub gaps: i64,
    /// Of what the worker's processor and memory cannot feed any more.
    pub stranding: i64,
    /// Of places for requests of several devices.
    pub groups: i64,
    /// Of what more choosy requests need.
    pub scarcity: i64,
    /// Whole devices broken into.
    pub opens: u32,
    /// All of it, weighted.
    pub total: i64,
}

impl From<placing::Score> for Cost {
    fn from(score: placing::Score) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "costs are a few devices; a cast saturates")]
        let millionths = |devices: f64| (devices * 1e6).round() as i64;
        Self {
            gaps: millionths(score.gap_loss),
            stranding: millionths(score.stranding),
            groups: millionths(score.groups),
            scarcity: millionths(score.scarcity),
            opens: score.opens,
            total: millionths(score.cost),
        }
    }
}

/// Where a workload goes, and what that was chosen from.
pub(super) struct Choice {
    pub worker: WorkerId,
    pub holds: Vec<Hold>,
    pub considered: Considered,
    pub cost: Cost,
}

/// The pool of workers that are dedicated to nobody, whatever they call theirs.
const SHARED: &str = "";

/// The pool that a worker is told apart by.
fn pool_of(worker: &Worker) -> &str {
    if worker.dedicated { worker.pool.as_str() } else { SHARED }
}

/// A request and where it may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// That will do, the preferred first; at least one.
    pub classes: Vec<String>,
    pub ask: Ask,
}

impl Kind {
    pub fn of(request: &ResourceRequest, bounds: Option<&TenantBounds>) -> Self {
        let needs = Needs {
            devices: 1,
            milli: request.milli,
            memory_bytes: request.memory_bytes,
            ..Needs::default()
        };
        let mut zones = bounds.map_or_else(Vec::new, |bounds| bounds.zones.clone());
        zones.sort();
        let mut pools = bounds.map_or_else(Vec::new, |bounds| bounds.pools.clone());
        pools.sort();
        if pools.is_empty() {
            pools.push(SHARED.to_owned());
        }
        let secrecy = bounds.map_or_else(Classification::default, |bounds| bounds.classification);
        let classes = request.classes().map(str::to_owned).collect();
        Self { classes, ask: Ask { needs, zones, pools, clearance: secrecy.rank() } }
    }

    /// What it asks for of one of its classes.
    pub fn request(&self, option: usize) -> ResourceRequest {
        let Needs { milli, memory_bytes, .. } = self.ask.needs;
        ResourceRequest { class: self.classes[option].clone(), alternatives: Vec::new(), memory_bytes, milli }
    }

    /// The place of a class among those that will do.
    pub fn option(&self, class: &str) -> Option<usize> {
        self.classes.iter().position(|known| known == class)
    }
}

/// The workers of one class.
struct Class {
    fleet: placing::Fleet,
    /// Devices of this class of each worker, by ordinal.
    devices: BTreeMap<WorkerId, Vec<DeviceId>>,
    /// Workers of it that are lost.
    lost: BTreeSet<WorkerId>,
    /// Something may fit that did not when this was last asked.
    freed: bool,
    /// Counts changes.
    revision: u64,
}

impl Class {
    fn new(demand: Demand) -> Self {
        Self {
            fleet: placing::Fleet::new(Weights::default(), demand),
            devices: BTreeMap::new(),
            lost: BTreeSet::new(),
            freed: false,
            revision: 0,
        }
    }
}

/// Every device, and who is where.
#[derive(Default)]
pub(super) struct Devices {
    classes: BTreeMap<String, Class>,
    /// What is held of each device, also of one that its worker does not have
    /// any more: memory and thousandths.
    held: BTreeMap<DeviceId, (u64, u32)>,
    /// On which workers a version is loaded, for how many placements.
    versions: BTreeMap<VersionId, BTreeMap<WorkerId, u32>>,
    /// How many replicas of an endpoint each worker has.
    siblings: BTreeMap<WorkloadOwner, BTreeMap<WorkerId, u32>>,
}

impl Devices {
    /// No devices yet, and what was learned of the requests that arrive.
    pub fn new(demand: BTreeMap<String, Demand>) -> Self {
        let classes = demand.into_iter().map(|(name, demand)| (name, Class::new(demand)));
        Self { classes: classes.collect(), ..Self::default() }
    }

    /// What was learned of the requests that arrive.
    pub fn demand(&self) -> BTreeMap<String, Demand> {
        self.classes.iter().map(|(name, class)| (name.clone(), class.fleet.demand().clone())).collect()
    }

    fn class(&mut self, name: &str) -> &mut Class {
        self.classes.entry(name.to_owned()).or_insert_with(|| Class::new(Demand::new()))
    }

    /// Takes what is known of a worker; `lost` ones take nothing.
    pub fn put(&mut self, worker: &Worker, lost: bool) {
        let mut of_class: BTreeMap<&str, Vec<&Device>> = BTreeMap::new();
        for device in &worker.devices {
            of_class.entry(&device.class).or_default().push(device);
        }
        for (name, class) in &mut self.classes {
            if !of_class.contains_key(name.as_str()) {
                class.forget(worker.id);
            }
        }
        for (name, mut devices) in of_class {
            devices.sort_by_key(|device| device.ordinal);
            let ids: Vec<DeviceId> = devices.iter().map(|device| device.id).collect();
            let free: Vec<placing::Device> = devices.iter().map(|d| free(&self.held, d)).collect();
            let class = self.class(name);
            let unchanged = !lost
                && class.devices.get(&worker.id) == Some(&ids)
                && class.fleet.worker(worker.id).is_some_and(|known| {
                    known.zone == worker.zone.as_str()
                        && known.pool == pool_of(worker)
                        && known.clearance == worker.clearance.rank()
                        && known.cordoned == worker.cordoned
                        && known.devices == free
                });
            if unchanged {
                continue;
            }
            class.forget(worker.id);
            class.devices.insert(worker.id, ids);
            class.revision += 1;
            if lost {
                class.lost.insert(worker.id);
                continue;
            }
            class.freed = true;
            let known = placing::Worker {
                class: name.to_owned(),
                zone: worker.zone.to_string(),
                pool: pool_of(worker).to_owned(),
                // Losing one worker should cost an owner as little as can be.
                domain: worker.id.to_string(),
                clearance: worker.clearance.rank(),
                cordoned: worker.cordoned,
                devices: free,
                ..placing::Worker::default()
            };
            // It is refused only if it has too many devices, which joining
            // refuses as well.
            let _ = class.fleet.put(worker.id, known);
        }
    }

    /// The worker is no more.
    pub fn remove(&mut self, worker: WorkerId) {
        self.classes.values_mut().for_each(|class| class.forget(worker));
    }

    /// Takes what something holds.
    pub fn take(&mut self, seat: &Seat) {
        for hold in &seat.holds {
            let held = self.held.entry(hold.device_id).or_default();
            *held = (held.0.saturating_add(hold.memory_bytes), held.1.saturating_add(hold.milli));
        }
        self.correct(seat, false);
    }

    /// Gives it back.
    pub fn free(&mut self, seat: &Seat) {
        for hold in &seat.holds {
            if let Some(held) = self.held.get_mut(&hold.device_id) {
                *held = (held.0.saturating_sub(hold.memory_bytes), held.1.saturating_sub(hold.milli));
                if *held == (0, 0) {
                    self.held.remove(&hold.device_id);
                }
            }
        }
        self.correct(seat, true);
    }

    fn correct(&mut self, seat: &Seat, freed: bool) {
        let Seat { worker, holds, .. } = seat;
        let worker = *worker;
        let Some(class) = self.classes.get_mut(&seat.class) else { return };
        let Some(ids) = class.devices.get(&worker) else { return };
        let Some(known) = class.fleet.worker(worker) else { return };
        let mut devices = known.devices.clone();
        for (id, device) in ids.iter().zip(&mut devices) {
            if holds.iter().any(|hold| hold.device_id == *id) {
                let (memory, milli) = self.held.get(id).copied().unwrap_or_default();
                device.free_memory_bytes = device.memory_bytes.saturating_sub(memory);
                device.free_milli = device.milli.saturating_sub(milli);
            }
        }
        class.freed |= freed;
        class.revision += 1;
        let _ = class.fleet.correct(worker, devices);
    }

    /// A placement is on its worker to stay: others of its owner keep away,
    /// others of its version come near.
    pub fn settle(&mut self, worker: WorkerId, owner: WorkloadOwner, version: VersionId) {
        *self.versions.entry(version).or_default().entry(worker).or_default() += 1;
        if matches!(owner, WorkloadOwner::Endpoint(_)) {
            *self.siblings.entry(owner).or_default().entry(worker).or_default() += 1;
        }
    }

    /// It is on its way out.
    pub fn part(&mut self, worker: WorkerId, owner: WorkloadOwner, version: VersionId) {
        decrement(&mut self.versions, &version, worker);
        decrement(&mut self.siblings, &owner, worker);
    }

    /// Learns that such a request arrived, in the class that it would rather have.
    pub fn observe(&mut self, kind: &Kind) {
        self.class(&kind.classes[0]).fleet.observe(&kind.ask.needs);
    }

    /// Learns that a request which was placed is over.
    pub fn end(&mut self, kind: &Kind) {
        if let Some(class) = self.classes.get_mut(&kind.classes[0]) {
            class.fleet.end(&kind.ask.needs);
        }
    }

    /// The best place for a request of this kind in one of its classes, if there
    /// is one; on a worker on which it failed only if there is no other.
    pub fn choose(
        &mut self,
        kind: &Kind,
        option: usize,
        (owner, version): (WorkloadOwner, VersionId),
        failed: BTreeSet<WorkerId>,
    ) -> Option<Choice> {
        let class = self.classes.get_mut(&kind.classes[option])?;
        let preferences = Preferences {
            siblings: self
                .siblings
                .get(&owner)
                .into_iter()
                .flatten()
                .map(|(w, n)| (w.to_string(), *n))
                .collect(),
            warm: self
                .versions
                .get(&version)
                .into_iter()
                .flatten()
                .map(|(worker, _)| *worker)
                .take(placing::MAX_PREFERRED)
                .collect(),
            failed,
        };
        let chosen = class.fleet.choose(&kind.ask, &preferences).ok()?;
        let worker = chosen.hold.worker;
        let devices = class.devices.get(&worker)?;
        let request = &kind.ask.needs;
        let hold = |ordinal: &u32| {
            let (memory_bytes, milli) = (request.memory_bytes, request.milli);
            Some(Hold { device_id: *devices.get(*ordinal as usize)?, memory_bytes, milli })
        };
        let holds = chosen.hold.devices.iter().map(hold).collect::<Option<Vec<_>>>()?;
        let by = |filter| chosen.considered.rejected_by(filter);
        let avoided = preferences.failed.iter().filter(|id| class.devices.contains_key(id));
        let considered = Considered {
            fitting: chosen.considered.fitting,
            lost: u32::try_from(class.lost.len()).unwrap_or(u32::MAX),
            cordoned: by(Filter::Cordoned),
            out_of_zone: by(Filter::Zone),
            out_of_pool: by(Filter::Pool),
            not_cleared: by(Filter::Clearance),
            failed_before: u32::try_from(avoided.count()).unwrap_or(u32::MAX),
            short_of_memory: by(Filter::Memory),
            short_of_milli: by(Filter::Milli),
        };
        Some(Choice { worker, holds, considered, cost: chosen.score.into() })
    }

    /// Whether anything takes a request of this kind in one of its classes.
    pub fn fits(&mut self, kind: &Kind, option: usize) -> bool {
        let (none, class) = (Preferences::default(), self.classes.get_mut(&kind.classes[option]));
        class.is_some_and(|class| class.fleet.choose(&kind.ask, &none).is_ok())
    }

    /// Whether anything but these workers takes a request of this kind in one of its
    /// classes.
    pub fn fits_beside(&mut self, kind: &Kind, option: usize, avoided: &BTreeSet<WorkerId>) -> bool {
        let preferences = Preferences { failed: avoided.clone(), ..Preferences::default() };
        let Some(class) = self.classes.get_mut(&kind.classes[option]) else { return false };
        let chosen = class.fleet.choose(&kind.ask, &preferences);
        chosen.is_ok_and(|choice| !avoided.contains(&choice.hold.worker))
    }

    /// Whether anything takes a request in one of its classes, once these, which
    /// are of that class, have left.
    pub fn would_fit(&mut self, kind: &Kind, option: usize, leaving: &[Seat]) -> bool {
        let name = &kind.classes[option];
        let freed = self.classes.get(name).map(|class| (class.freed, class.revision));
        leaving.iter().for_each(|seat| self.free(seat));
        let fits = self.fits(kind, option);
        leaving.iter().for_each(|seat| self.take(seat));
        if let (Some(class), Some(before)) = (self.classes.get_mut(name), freed) {
            (class.freed, class.revision) = before;
        }
        fits
    }

    /// Classes in which something may fit that did not when this was last
    /// asked.
    pub fn take_freed(&mut self) -> Vec<String> {
        let freed =
            |(name, class): (&String, &mut Class)| std::mem::take(&mut class.freed).then(|| name.clone());
        self.classes.iter_mut().filter_map(freed).collect()
    }

    /// Counts what happens to a class.
    pub fn revision(&self, class: &str) -> u64 {
        self.classes.get(class).map_or(0, |class| class.revision)
    }

    /// Devices of a class, in the order of workers and their devices.
    pub fn of_class<'a>(&'a self, facts: &'a Snapshot, class: &str) -> Vec<Slot<'a>> {
        let Some(known) = self.classes.get(class) else { return Vec::new() };
        let mut slots = Vec::new();
        for (worker, ids) in &known.devices {
            let Some(worker) = facts.workers.get(worker) else { continue };
            for device in worker.devices.iter().filter(|device| ids.contains(&device.id)) {
                let placing::Device { free_memory_bytes, free_milli, .. } = free(&self.held, device);
                let lost = known.lost.contains(&worker.id);
                slots.push(Slot { worker, device, lost, free_memory_bytes, free_milli });
            }
        }
        slots
    }
}

impl Class {
    fn forget(&mut self, worker: WorkerId) {
        if self.devices.remove(&worker).is_some() {
            self.lost.remove(&worker);
            self.fleet.remove(worker);
            self.revision += 1;
        }
    }
}

/// A device and what is free on it.
pub(super) struct Slot<'a> {
    pub worker: &'a Worker,
    pub device: &'a Device,
    pub lost: bool,
    pub free_memory_bytes: u64,
    pub free_milli: u32,
}

/// Why work of a tenant may not be on a worker, whatever is free there; what is
/// judged last is greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Barrier {
    /// It stands elsewhere.
    Zone,
    /// It is dedicated to others, or outside of the pools that are dedicated to it.
    Pool,
    /// It is not cleared for such work.
    Clearance,
}

/// Whether an ask is for what is dedicated to nobody.
pub(super) fn is_shared(ask: &Ask) -> bool {
    ask.pools.iter().any(|pool| pool == SHARED)
}

impl Slot<'_> {
    /// What keeps a request from its worker, if anything does.
    pub fn barrier(&self, ask: &Ask) -> Option<Barrier> {
        let zone = self.worker.zone.as_str();
        if !ask.zones.is_empty() && ask.zones.iter().all(|known| known != zone) {
            Some(Barrier::Zone)
        } else if ask.pools.iter().all(|known| known != pool_of(self.worker)) {
            Some(Barrier::Pool)
        } else if self.worker.clearance.rank() < ask.clearance {
            Some(Barrier::Clearance)
        } else {
            None
        }
    }
}

fn free(held: &BTreeMap<DeviceId, (u64, u32)>, device: &Device) -> placing::Device {
    let (memory, milli) = held.get(&device.id).copied().unwrap_or_default();
    placing::Device {
        free_milli: device.milli.saturating_sub(milli),
        free_memory_bytes: device.usable_memory_bytes().saturating_sub(memory),
        milli: device.milli,
        // What others use is not there.
        memory_bytes: device.usable_memory_bytes(),
    }
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, BTreeMap<WorkerId, u32>>, key: &K, worker: WorkerId) {
    if let Some(workers) = counts.get_mut(key)
        && let Some(count) = workers.get_mut(&worker)
    {
        *count -= 1;
        if *count == 0 {
            workers.remove(&worker);
            if workers.is_empty() {
                counts.remove(key);
            }
        }
    }
}
