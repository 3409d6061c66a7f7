//! What callers ask of devices, for replicas and for shares of jobs.

use domain::accelerators::{CPU_CLASS, ResourceRequest};
use domain::models::Manifest;
use serde::{Deserialize, Serialize};
use store::TenantTx;

use crate::problem::{ApiError, Result};

/// Most thousandths of a device.
const MAX_MILLI: u32 = 1_000_000;
/// Most memory of a device.
const MAX_MEMORY_BYTES: u64 = 1 << 50;

/// What is asked of a device; what is left out follows from the model.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedResources {
    /// Accelerator class; the preferred one, where others will do. `cpu` unless
    /// given.
    #[serde(default)]
    class: Option<String>,
    /// Other classes that will do, the preferred first; at most 15. Each replica
    /// or share is put on the first class in which quota and devices have room.
    #[serde(default)]
    alternatives: Vec<String>,
    /// Memory on the device, of whichever class.
    #[serde(default)]
    memory_bytes: Option<u64>,
    /// Thousandths of a device, of whichever class.
    #[serde(default)]
    milli: Option<u32>,
}

impl AskedResources {
    /// What that comes to for a model.
    pub async fn of(self, tx: &mut TenantTx, manifest: &Manifest, milli: u32) -> Result<ResourceRequest> {
        let resources = ResourceRequest {
            class: self.class.unwrap_or_else(|| CPU_CLASS.to_owned()),
            alternatives: self.alternatives,
            memory_bytes: self.memory_bytes.unwrap_or_else(|| manifest.engine_memory_bytes()),
            milli: self.milli.unwrap_or(milli),
        };
        if !(1..=MAX_MILLI).contains(&resources.milli) {
            return Err(ApiError::field("resources.milli", format!("must be between 1 and {MAX_MILLI}")));
        }
        if !(1..=MAX_MEMORY_BYTES).contains(&resources.memory_bytes) {
            let limits = format!("must be between 1 and {MAX_MEMORY_BYTES}");
            return Err(ApiError::field("resources.memory_bytes", limits));
        }
        if let Some(wrong) = resources.wrong_alternatives() {
            return Err(ApiError::field("resources.alternatives", wrong));
        }
        for (n, class) in resources.classes().enumerate() {
            if !store::accelerators::class_exists(tx, class).await? {
                return Err(match n {
                    0 => ApiError::field("resources.class", "names no accelerator class"),
                    _ => {
                        ApiError::field("resources.alternatives", format!("{class} is no accelerator class"))
                    }
                });
            }
        }
        Ok(resources)
    }
}
