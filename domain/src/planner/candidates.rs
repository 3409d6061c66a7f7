//! Which device a workload goes to: filters say why one cannot be, scores say
//! which of the rest is best. Each is a small function, to be joined by others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Choice, LivePlacement, Snapshot};
use crate::accelerators::{Device, ResourceRequest};
use crate::workers::Worker;
use crate::workloads::{PlacementState, Workload, WorkloadOwner};
use crate::{DeviceId, VersionId, WorkerId, WorkloadId};

/// Why a device cannot take a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// Its worker is lost.
    Lost,
    /// Its worker takes nothing new.
    Cordoned,
    /// Its worker is in no zone of the tenant.
    Zone,
    /// Too little memory is free.
    Memory,
    /// Too few thousandths are free.
    Milli,
}

/// The devices of the asked class that a placement was chosen from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Considered {
    /// Devices that could take it.
    pub fitting: u32,
    /// Devices of lost workers.
    pub lost: u32,
    /// Devices of cordoned workers.
    pub cordoned: u32,
    /// Devices in zones that are not the tenant's.
    pub out_of_zone: u32,
    /// Devices with too little free memory.
    pub short_of_memory: u32,
    /// Devices with too few free thousandths.
    pub short_of_milli: u32,
}

impl Considered {
    fn count(&mut self, verdict: Result<(), Rejection>) {
        *match verdict {
            Ok(()) => &mut self.fitting,
            Err(Rejection::Lost) => &mut self.lost,
            Err(Rejection::Cordoned) => &mut self.cordoned,
            Err(Rejection::Zone) => &mut self.out_of_zone,
            Err(Rejection::Memory) => &mut self.short_of_memory,
            Err(Rejection::Milli) => &mut self.short_of_milli,
        } += 1;
    }
}

/// A device and what is free on it while a plan is made.
pub(super) struct Slot<'a> {
    pub worker: &'a Worker,
    pub device: &'a Device,
    pub lost: bool,
    pub free_memory_bytes: u64,
    pub free_milli: u32,
}

impl Slot<'_> {
    /// Whether its worker is in one of the zones; none given is all.
    pub fn is_in(&self, zones: &[String]) -> bool {
        zones.is_empty() || zones.iter().any(|zone| *zone == self.worker.zone.as_str())
    }
}

type Filter = fn(&Slot<'_>, &ResourceRequest, &[String]) -> Result<(), Rejection>;

/// In the order in which a rejection is told.
const FILTERS: [Filter; 5] = [is_live, is_open, is_in_zone, has_memory, has_milli];

fn is_live(slot: &Slot<'_>, _: &ResourceRequest, _: &[String]) -> Result<(), Rejection> {
    if slot.lost { Err(Rejection::Lost) } else { Ok(()) }
}

fn is_open(slot: &Slot<'_>, _: &ResourceRequest, _: &[String]) -> Result<(), Rejection> {
    if slot.worker.cordoned { Err(Rejection::Cordoned) } else { Ok(()) }
}

fn is_in_zone(slot: &Slot<'_>, _: &ResourceRequest, zones: &[String]) -> Result<(), Rejection> {
    if slot.is_in(zones) { Ok(()) } else { Err(Rejection::Zone) }
}

fn has_memory(slot: &Slot<'_>, request: &ResourceRequest, _: &[String]) -> Result<(), Rejection> {
    if slot.free_memory_bytes < request.memory_bytes { Err(Rejection::Memory) } else { Ok(()) }
}

fn has_milli(slot: &Slot<'_>, request: &ResourceRequest, _: &[String]) -> Result<(), Rejection> {
    if slot.free_milli < request.milli { Err(Rejection::Milli) } else { Ok(()) }
}

/// The fleet while a plan is made: what is decided is taken at once.
pub(super) struct Fleet<'a> {
    slots: Vec<Slot<'a>>,
    /// Slots of each class, in the order of workers and their devices.
    classes: BTreeMap<&'a str, Vec<usize>>,
    by_device: BTreeMap<DeviceId, usize>,
    /// Versions that each worker holds, and for how many placements.
    versions: BTreeMap<(WorkerId, VersionId), u32>,
    /// How many workloads of an owner each worker has.
    neighbours: BTreeMap<(WorkerId, WorkloadOwner), u32>,
    forgotten: BTreeSet<WorkloadId>,
}

impl<'a> Fleet<'a> {
    pub fn new(snapshot: &'a Snapshot, lost: &BTreeSet<WorkerId>) -> Self {
        let mut fleet = Self {
            slots: Vec::new(),
            classes: BTreeMap::new(),
            by_device: BTreeMap::new(),
            versions: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        };
        for worker in snapshot.workers.values() {
            for device in &worker.devices {
                let slot = fleet.slots.len();
                fleet.classes.entry(&device.class).or_default().push(slot);
                fleet.by_device.insert(device.id, slot);
                fleet.slots.push(Slot {
                    worker,
                    device,
                    lost: lost.contains(&worker.id),
                    free_memory_bytes: device.memory_bytes.saturating_sub(device.used_memory_bytes),
                    free_milli: device.milli.saturating_sub(device.used_milli),
                });
            }
        }
        for placement in snapshot.placements.values().filter(|p| stays(p)) {
            *fleet.versions.entry((placement.worker_id, placement.version_id)).or_default() += 1;
            *fleet.neighbours.entry((placement.worker_id, placement.owner)).or_default() += 1;
        }
        fleet
    }

    /// Gives back what a placement holds, and forgets that it was there.
    pub fn release(&mut self, placement: &LivePlacement) {
        self.free(placement);
        if stays(placement) {
            self.part(placement);
        }
    }

    /// Gives back what a placement holds.
    pub fn free(&mut self, placement: &LivePlacement) {
        for hold in &placement.holds {
            if let Some(&slot) = self.by_device.get(&hold.device_id) {
                self.slots[slot].free_memory_bytes += hold.memory_bytes;
                self.slots[slot].free_milli += hold.milli;
            }
        }
    }

    /// Takes what a placement holds, after [`Self::free`].
    pub fn occupy(&mut self, placement: &LivePlacement) {
        for hold in &placement.holds {
            if let Some(&slot) = self.by_device.get(&hold.device_id) {
                self.slots[slot].free_memory_bytes -= hold.memory_bytes;
                self.slots[slot].free_milli -= hold.milli;
            }
        }
    }

    /// The placement is on its way out: it holds what it holds, but nothing
    /// should gather around it.
    pub fn part(&mut self, placement: &LivePlacement) {
        decrement(&mut self.versions, &(placement.worker_id, placement.version_id));
        decrement(&mut self.neighbours, &(placement.worker_id, placement.owner));
    }

    /// The workload ends in this plan.
    pub fn forget(&mut self, workload: WorkloadId) {
        self.forgotten.insert(workload);
    }

    pub fn is_forgotten(&self, workload: WorkloadId) -> bool {
        self.forgotten.contains(&workload)
    }

    /// Devices of a class, in a fixed order.
    pub fn of_class(&self, class: &str) -> impl Iterator<Item = &Slot<'a>> {
        self.classes.get(class).into_iter().flatten().map(|&slot| &self.slots[slot])
    }

    /// Whether there is any worker at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The best device in these zones for a workload, if one fits.
    pub fn choose(&self, workload: &Workload, zones: &[String]) -> Option<Choice> {
        let request = &workload.resources;
        let mut considered = Considered::default();
        let mut best = None;
        for &index in self.classes.get(request.class.as_str()).into_iter().flatten() {
            let slot = &self.slots[index];
            let verdict = FILTERS.iter().try_for_each(|filter| filter(slot, request, zones));
            considered.count(verdict);
            if verdict.is_ok() {
                let score = self.score(slot, workload);
                if best.as_ref().is_none_or(|(least, _)| score < *least) {
                    best = Some((score, index));
                }
            }
        }
        let (_, slot) = best?;
        Some(Choice {
            worker: self.slots[slot].worker.id,
            device: self.slots[slot].device.id,
            slot,
            considered,
        })
    }

    /// Takes what the workload asks for.
    pub fn take(&mut self, workload: &Workload, choice: &Choice) {
        let slot = &mut self.slots[choice.slot];
        slot.free_memory_bytes -= workload.resources.memory_bytes;
        slot.free_milli -= workload.resources.milli;
        *self.versions.entry((choice.worker, workload.version_id)).or_default() += 1;
        *self.neighbours.entry((choice.worker, workload.owner)).or_default() += 1;
    }

    /// Least is best. Losing one worker should cost an owner as little as can
    /// be; then weights that are there need no loading; then the fullest
    /// device, which leaves the emptiest whole for what is large.
    fn score(&self, slot: &Slot<'_>, workload: &Workload) -> impl Ord + use<> {
        let spread = self.neighbours.get(&(slot.worker.id, workload.owner)).copied().unwrap_or(0);
        let warm = self.versions.contains_key(&(slot.worker.id, workload.version_id));
        (spread, Reverse(warm), left_over(slot, &workload.resources), slot.worker.id, slot.device.ordinal)
    }
}

/// Whether it counts as being on its worker: what drains is on its way out.
fn stays(placement: &LivePlacement) -> bool {
    placement.state != PlacementState::Draining
}

/// What would stay free, in millionths of the device, memory and compute
/// together.
fn left_over(slot: &Slot<'_>, request: &ResourceRequest) -> u64 {
    let memory = slot.free_memory_bytes - request.memory_bytes;
    let milli = slot.free_milli - request.milli;
    let share = |left: u64, whole: u64| {
        u64::try_from(u128::from(left) * 1_000_000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
    };
    share(memory, slot.device.memory_bytes)
        .saturating_add(share(u64::from(milli), u64::from(slot.device.milli)))
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
