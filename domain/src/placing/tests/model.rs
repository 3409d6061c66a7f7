//! What a fleet must do, from scratch at each question.

use std::collections::BTreeMap;

use crate::WorkerId;
use crate::accelerators::WHOLE_MILLI;
use crate::placing::{Ask, Considered, Device, Filter, Hold, Needs, Preferences, Worker};

#[derive(Clone, Default)]
pub(super) struct Model {
    pub workers: BTreeMap<WorkerId, Worker>,
}

impl Model {
    pub fn considered(&self, ask: &Ask) -> Considered {
        let mut considered = Considered::default();
        for worker in self.workers.values() {
            match rejection(worker, ask) {
                None => considered.fitting += 1,
                Some(filter) => considered.rejected[filter as usize] += 1,
            }
        }
        considered
    }

    pub fn fitting(&self, ask: &Ask) -> impl Iterator<Item = (WorkerId, &Worker)> {
        let fits = |(_, worker): &(&WorkerId, &Worker)| rejection(worker, ask).is_none();
        self.workers.iter().filter(fits).map(|(id, worker)| (*id, worker))
    }

    /// Whether it failed there lately, and its siblings there: what comes
    /// before any cost.
    pub fn rank(&self, id: WorkerId, preferences: &Preferences) -> (bool, u32) {
        let domain = &self.workers[&id].domain;
        (preferences.failed.contains(&id), preferences.siblings.get(domain).copied().unwrap_or(0))
    }

    /// Whether these devices may be held, and if so, holds them.
    pub fn place(&mut self, needs: &Needs, hold: &Hold) -> bool {
        let Some(worker) = self.workers.get_mut(&hold.worker) else { return false };
        let apart = worker.pairs
            && (hold.devices.iter().any(|ordinal| !hold.devices.contains(&(ordinal ^ 1)))
                || needs.devices > 0 && needs.milli < WHOLE_MILLI);
        let room = |ordinal: &u32| fits(&worker.devices[*ordinal as usize], needs);
        if !names_devices(worker, needs, hold)
            || apart
            || worker.free_cpu_milli < needs.cpu_milli
            || worker.free_host_memory_bytes < needs.host_memory_bytes
            || !hold.devices.iter().all(room)
        {
            return false;
        }
        worker.free_cpu_milli -= needs.cpu_milli;
        worker.free_host_memory_bytes -= needs.host_memory_bytes;
        for ordinal in &hold.devices {
            let device = &mut worker.devices[*ordinal as usize];
            device.free_milli -= needs.milli;
            device.free_memory_bytes -= needs.memory_bytes;
        }
        true
    }

    /// Whether so much is held there, and if so, gives it back.
    pub fn release(&mut self, needs: &Needs, hold: &Hold) -> bool {
        let Some(worker) = self.workers.get_mut(&hold.worker) else { return false };
        if !names_devices(worker, needs, hold) {
            return false;
        }
        let mut after = worker.clone();
        after.free_cpu_milli += needs.cpu_milli;
        after.free_host_memory_bytes += needs.host_memory_bytes;
        for ordinal in &hold.devices {
            let device = &mut after.devices[*ordinal as usize];
            device.free_milli += needs.milli;
            device.free_memory_bytes += needs.memory_bytes;
        }
        let possible = within(&after);
        if possible {
            *worker = after;
        }
        possible
    }
}

/// Whether no more is free than there is.
pub(super) fn within(worker: &Worker) -> bool {
    worker.free_cpu_milli <= worker.cpu_milli
        && worker.free_host_memory_bytes <= worker.host_memory_bytes
        && worker.devices.iter().all(|d| d.free_milli <= d.milli && d.free_memory_bytes <= d.memory_bytes)
}

/// Distinct devices of the worker, as many as needed.
fn names_devices(worker: &Worker, needs: &Needs, hold: &Hold) -> bool {
    let mut distinct = hold.devices.clone();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() == hold.devices.len()
        && distinct.len() == needs.devices as usize
        && distinct.iter().all(|ordinal| (*ordinal as usize) < worker.devices.len())
}

fn fits(device: &Device, needs: &Needs) -> bool {
    device.free_milli >= needs.milli && device.free_memory_bytes >= needs.memory_bytes
}

/// Devices that could take a share, those without their neighbour left out
/// where devices are taken in pairs.
fn usable(worker: &Worker, needs: &Needs) -> usize {
    let fitting = |devices: &[Device]| devices.iter().filter(|device| fits(device, needs)).count();
    if !worker.pairs {
        return fitting(&worker.devices);
    }
    2 * worker.devices.chunks(2).filter(|pair| fitting(pair) == 2).count()
}

pub(super) fn rejection(worker: &Worker, ask: &Ask) -> Option<Filter> {
    let needs = &ask.needs;
    let outside = |list: &[String], name: &String| !list.is_empty() && !list.contains(name);
    let part = needs.devices % 2 == 1 || needs.devices > 0 && needs.milli < WHOLE_MILLI;
    let enough =
        |memory_bytes| usable(worker, &Needs { memory_bytes, ..needs.clone() }) >= needs.devices as usize;
    let rules = [
        (Filter::Cordoned, worker.cordoned),
        (Filter::Class, outside(&needs.classes, &worker.class)),
        (Filter::Zone, outside(&ask.zones, &worker.zone)),
        (Filter::Pool, outside(&ask.pools, &worker.pool)),
        (Filter::Clearance, worker.clearance < ask.clearance),
        (Filter::Pairs, worker.pairs && part),
        (Filter::Cpu, worker.free_cpu_milli < needs.cpu_milli),
        (Filter::HostMemory, worker.free_host_memory_bytes < needs.host_memory_bytes),
        (Filter::Milli, !enough(0)),
        (Filter::Memory, !enough(needs.memory_bytes)),
    ];
    rules.into_iter().find(|(_, broken)| *broken).map(|(filter, _)| filter)
}
