//! The fleet against a slow and obvious model, and each rule on its own.

mod model;
mod pairs;
mod preferences;
mod pricing;
mod sequences;

use super::{Ask, Device, Fleet, Needs, Preferences, Worker};
use crate::WorkerId;
use crate::accelerators::WHOLE_MILLI;

const GIB: u64 = 1 << 30;

fn id(number: u128) -> WorkerId {
    WorkerId::from(uuid::Uuid::from_u128(number))
}

/// A worker with so many free devices, 8 cores and 16 GiB for each of them.
fn worker(devices: u32) -> Worker {
    let device = Device { free_milli: WHOLE_MILLI, milli: WHOLE_MILLI, ..Device::default() };
    let (cpu_milli, host_memory_bytes) = (u64::from(devices) * 8_000, u64::from(devices) * 16 * GIB);
    Worker {
        class: "a".to_owned(),
        free_cpu_milli: cpu_milli,
        cpu_milli,
        free_host_memory_bytes: host_memory_bytes,
        host_memory_bytes,
        devices: vec![device; devices as usize],
        ..Worker::default()
    }
}

/// So many devices with a core and a GiB each.
fn needs(devices: u32, milli: u32) -> Needs {
    let share = u64::from(devices.max(1));
    Needs { devices, milli, cpu_milli: share * 1_000, host_memory_bytes: share * GIB, ..Needs::default() }
}

fn ask(devices: u32, milli: u32) -> Ask {
    Ask { needs: needs(devices, milli), ..Ask::default() }
}

/// Places a request as chosen; where.
fn put_on(fleet: &mut Fleet, ask: &Ask, preferences: &Preferences) -> WorkerId {
    let choice = fleet.choose(ask, preferences).expect("there is room");
    fleet.place(&ask.needs, &choice.hold).expect("it was chosen");
    choice.hold.worker
}
