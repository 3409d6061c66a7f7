//! Accelerator classes, devices and what work asks of them.

mod measured;

use serde::{Deserialize, Serialize};

use crate::quotas::MAX_OPTIONS;
use crate::{DeviceId, WorkerId};

pub use measured::settled;

/// One whole accelerator, in the thousandths that quota and placement count in.
pub const WHOLE_MILLI: u32 = 1000;

/// The class of plain processors; its devices have a thousand milli a core.
pub const CPU_CLASS: &str = "cpu";

/// A kind of device that quota is counted in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AcceleratorClass {
    /// e.g. `cpu`, `nvidia-h100-80g`, `ascend-910b`.
    pub name: String,
    /// For people.
    pub description: String,
}

/// What a worker reports about one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// Position on the worker, from 0; stable over restarts.
    pub ordinal: u32,
    /// Accelerator class.
    pub class: String,
    /// Memory that work may use.
    pub memory_bytes: u64,
    /// Capacity: 1000 per accelerator, or per core of class `cpu`.
    pub milli: u32,
}

/// A device as the scheduler and the fleet page see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Device {
    /// Identifier.
    pub id: DeviceId,
    /// The worker that owns it.
    pub worker_id: WorkerId,
    /// Position on the worker.
    pub ordinal: u32,
    /// Accelerator class.
    pub class: String,
    /// Memory that work may use.
    pub memory_bytes: u64,
    /// Capacity in thousandths.
    pub milli: u32,
    /// Of that, what its worker measured as there for work, free or held by work, where
    /// others use some: what they use is not placed on.
    #[serde(default)]
    pub available_memory_bytes: Option<u64>,
    /// Memory of live placements.
    pub used_memory_bytes: u64,
    /// Thousandths of live placements.
    pub used_milli: u32,
}

impl Device {
    /// Memory that work may have of it as things are.
    pub fn usable_memory_bytes(&self) -> u64 {
        self.available_memory_bytes.map_or(self.memory_bytes, |available| available.min(self.memory_bytes))
    }
}

/// What one workload needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceRequest {
    /// Accelerator class; the preferred one, where others will do.
    pub class: String,
    /// Other classes that will do, the preferred first: it is put on a device of
    /// the first class in which its quota and a device have room, and needs as
    /// much of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
    /// Memory on the device.
    pub memory_bytes: u64,
    /// Thousandths of a device.
    pub milli: u32,
}

impl ResourceRequest {
    /// Every class that will do, the preferred first.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.class).chain(&self.alternatives).map(String::as_str)
    }

    /// The place of a class among those that will do.
    pub fn option(&self, class: &str) -> Option<usize> {
        self.classes().position(|known| known == class)
    }

    /// What is wrong with its alternatives, if anything is.
    pub fn wrong_alternatives(&self) -> Option<String> {
        let classes: Vec<&str> = self.classes().collect();
        let twice = classes.iter().enumerate().find(|(n, class)| classes[..*n].contains(class));
        if let Some((_, class)) = twice {
            return Some(format!("names {class} twice"));
        }
        (classes.len() > MAX_OPTIONS).then(|| format!("has more than {} classes", MAX_OPTIONS - 1))
    }
}
