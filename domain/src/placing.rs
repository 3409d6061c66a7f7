//! Which worker and which of its devices a request gets: a policy that prices
//! what a placement spoils.
//!
//! A placement spoils accelerators in two ways. It leaves gaps on a device that
//! no later request can fill as well ([`Score::gap_loss`]), and it leaves a
//! worker with accelerators that its processor and memory cannot feed
//! ([`Score::stranding`]). Both are counted in devices: what the requests that
//! usually arrive could have been worth there ([`Prices`]). The cheapest worker
//! is taken; differences below [`Weights::indifference`] are noise, and within
//! them the fullest worker wins, so that the emptiest stay whole.
//!
//! [`Fleet`] keeps what is free, groups workers that are alike, and remembers
//! for each kind of request the order of the groups, so that a decision costs
//! what changed since the last of its kind and not the number of workers. It is
//! a pure state machine: the same calls give the same answers, whatever the
//! order in which workers were added. The terms come from the fractional
//! cutting-stock problem (Gilmore and Gomory, 1961) and from *Beware of
//! Fragmentation* (USENIX ATC 2023), which counts fragments where this prices
//! them.

mod cutting;
mod demand;
mod fleet;
mod groups;
mod prices;
mod score;
mod shapes;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::WorkerId;

pub use demand::Demand;
pub use fleet::Fleet;
pub use prices::{Prices, Supply};

/// Most devices of one request, and of one worker.
pub const MAX_DEVICES: usize = crate::workers::MAX_DEVICES;
/// Most workers and domains looked at for a preference of [`Preferences`].
pub const MAX_PREFERRED: usize = 64;

/// What one workload needs of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// How many devices of one worker; 0 for work without accelerators.
    pub devices: u32,
    /// Thousandths of each device; [`crate::accelerators::WHOLE_MILLI`] for whole ones.
    pub milli: u32,
    /// Memory on each device, bytes.
    pub memory_bytes: u64,
    /// Processor of the worker, thousandths of a core.
    pub cpu_milli: u64,
    /// Memory of the worker, bytes.
    pub host_memory_bytes: u64,
    /// Acceptable accelerator classes, sorted; empty for any.
    pub classes: Vec<String>,
}

/// What a workload needs, and where it may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Ask {
    /// What it needs.
    pub needs: Needs,
    /// Zones it may be in, sorted; empty for all.
    pub zones: Vec<String>,
    /// Pools it may use, sorted; empty for all.
    pub pools: Vec<String>,
    /// Least clearance of the worker.
    pub clearance: u32,
}

/// A device of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Device {
    /// Thousandths that are free.
    pub free_milli: u32,
    /// Memory that is free, bytes.
    pub free_memory_bytes: u64,
    /// Thousandths in all: 1000 for an accelerator.
    pub milli: u32,
    /// Memory in all, bytes; 0 where it is not counted, so that only requests
    /// without memory fit.
    pub memory_bytes: u64,
}

/// What a worker has and what of it is free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// Accelerator class of its devices.
    pub class: String,
    /// Where it stands.
    pub zone: String,
    /// Pool it belongs to.
    pub pool: String,
    /// What fails together with it, e.g. a rack.
    pub domain: String,
    /// How secret the work it may hold.
    pub clearance: u32,
    /// Takes nothing new.
    pub cordoned: bool,
    /// Its devices are taken in whole pairs of neighbours, of ordinals 0 and 1,
    /// 2 and 3, and so on, as Ascend 910C in SuperPod mode are. It refuses parts
    /// of devices and odd numbers of them; a last device without neighbour is
    /// never taken.
    pub pairs: bool,
    /// Free processor, thousandths of a core.
    pub free_cpu_milli: u64,
    /// Processor in all.
    pub cpu_milli: u64,
    /// Free memory of the host, bytes.
    pub free_host_memory_bytes: u64,
    /// Memory of the host in all, bytes.
    pub host_memory_bytes: u64,
    /// Its devices, by ordinal.
    pub devices: Vec<Device>,
}

/// What weighs against stranded accelerators, in devices. The defaults were
/// measured on the openb trace; `docs/adr/2026-11-25-placement-prices-fragments.md`
/// has the figures, also of each left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weights {
    /// Of the value that a gap loses. Anything from 3 up is alike: a gap's loss
    /// is certain where stranding is expected.
    pub gap: f64,
    /// Of breaking into a whole device.
    pub opens: f64,
    /// Of taking a device that others can use and less choosy requests need not.
    pub scarcity: f64,
    /// Costs are compared in steps of this.
    pub indifference: f64,
    /// What may be lost to find the weights of a model loaded already.
    pub warm: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { gap: 4.0, opens: 0.2, scarcity: 0.5, indifference: 0.07, warm: 0.5 }
    }
}

/// What a placement costs, in devices of value; least is best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Value of the gaps before, less that after and that of what is placed.
    pub gap_loss: f64,
    /// Growth of the value that processor and host memory cannot feed.
    pub stranding: f64,
    /// What is lost of places for requests of several devices, at what they are
    /// worth now.
    pub groups: f64,
    /// Value placed times how sought after the class of the worker is.
    pub scarcity: f64,
    /// Whole devices broken into.
    pub opens: u32,
    /// All of it, weighted.
    pub cost: f64,
    /// The step of [`Weights::indifference`] in which it is compared.
    pub step: i64,
}

/// Why a worker cannot take a request; the first that applies is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// It takes nothing new.
    Cordoned,
    /// Its accelerator class is not acceptable.
    Class,
    /// It stands elsewhere.
    Zone,
    /// It is of another pool.
    Pool,
    /// It is not cleared for such work.
    Clearance,
    /// Its devices are taken in pairs, and the request is for something else.
    Pairs,
    /// Too little processor is free.
    Cpu,
    /// Too little memory of the host is free.
    HostMemory,
    /// Too few devices, or pairs of them, have enough thousandths free.
    Milli,
    /// Of those, too few have enough memory free.
    Memory,
}

impl Filter {
    /// In the order in which a rejection is told.
    pub const ALL: [Self; 10] = [
        Self::Cordoned,
        Self::Class,
        Self::Zone,
        Self::Pool,
        Self::Clearance,
        Self::Pairs,
        Self::Cpu,
        Self::HostMemory,
        Self::Milli,
        Self::Memory,
    ];
}

/// How many workers could take a request, and how many each filter rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Workers that could.
    pub fitting: u32,
    /// Workers rejected, by [`Filter::ALL`].
    pub rejected: [u32; Filter::ALL.len()],
}

impl Considered {
    /// Workers that this filter rejected.
    pub fn rejected_by(&self, filter: Filter) -> u32 {
        self.rejected[filter as usize]
    }

    fn slot(&mut self, rejection: Option<Filter>) -> &mut u32 {
        match rejection {
            None => &mut self.fitting,
            Some(filter) => &mut self.rejected[filter as usize],
        }
    }
}

/// What else matters for one workload, beyond what it needs. Spread comes
/// before the score, weights that are loaded within [`Weights::warm`] of it.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    /// How many of its siblings each failure domain has.
    pub siblings: BTreeMap<String, u32>,
    /// Workers that hold its model already.
    pub warm: BTreeSet<WorkerId>,
    /// Workers on which it failed lately; taken only if no other is found.
    pub failed: BTreeSet<WorkerId>,
}

impl Preferences {
    fn is_empty(&self) -> bool {
        self.siblings.is_empty() && self.warm.is_empty() && self.failed.is_empty()
    }
}

/// Devices of a worker that a request holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// The worker.
    pub worker: WorkerId,
    /// Ordinals of its devices, ascending.
    pub devices: Vec<u32>,
}

/// Where a request goes, and why there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Where.
    pub hold: Hold,
    /// What it costs.
    pub score: Score,
    /// What it was chosen from.
    pub considered: Considered,
}

/// What is asked of a fleet that it cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacingError {
    /// It has no such worker.
    #[error("worker {0} is not in the fleet: add it first")]
    UnknownWorker(WorkerId),
    /// The worker has no such device, or it is named twice.
    #[error("worker {worker} has no device {ordinal} to use once: name its devices, each once")]
    UnknownDevice {
        /// The worker.
        worker: WorkerId,
        /// The device.
        ordinal: u32,
    },
    /// Its devices are taken in pairs, and some would be held alone.
    #[error("worker {0} gives its devices in whole pairs: hold both of each, wholly")]
    Unpaired(WorkerId),
    /// More would be held than is free.
    #[error("worker {0} has too little free for this: choose again")]
    Full(WorkerId),
    /// More would be free than there is.
    #[error("worker {0} would have more free than it has: release each hold once")]
    NotHeld(WorkerId),
    /// A worker says that more is free than it has, or has too many devices.
    #[error("worker {0} reports more free than it has, or more than {MAX_DEVICES} devices")]
    Implausible(WorkerId),
}
