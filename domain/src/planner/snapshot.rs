//! What a plan is made from. Everything is sorted by identifier, so that equal
//! snapshots are read in the same order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::accelerators::ResourceRequest;
use crate::budgets::TimeBudget;
use crate::quotas::NodeSpec;
use crate::tenants::Classification;
use crate::workers::{WORKER_LOST_SECS, Worker};
use crate::workloads::{PlacementState, Workload, WorkloadOwner};
use crate::{DeviceId, PlacementId, ProjectId, TenantId, Timestamp, VersionId, WorkerId, WorkloadId};

/// Intent and fleet at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// When the present leader began. Before it nobody could judge silence:
    /// workers that could not report while all was down get their time anew.
    pub leading_since: Timestamp,
    /// What bounds the work of tenants; one that is not here is bound as by default.
    pub tenants: BTreeMap<TenantId, TenantBounds>,
    /// The quota tree, cohorts before what is in them.
    pub quotas: Vec<NodeSpec>,
    /// What tenants and their projects may spend of accelerators' time, of those
    /// for whom that is limited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<TenantId, Vec<TimeBudget>>,
    /// Order and preempt by dominant share.
    pub fair_sharing: bool,
    /// Every worker, with its devices and what is used of them. `live` is as
    /// last declared.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// What endpoints and jobs want.
    #[serde(with = "crate::pairs")]
    pub intents: BTreeMap<WorkloadOwner, Intent>,
    /// Workloads that have not ended.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// Placements that have not ended, also those of ended workloads.
    pub placements: BTreeMap<PlacementId, LivePlacement>,
}

impl Snapshot {
    /// An installation in which nothing is.
    pub fn empty(leading_since: Timestamp) -> Self {
        Self {
            leading_since,
            tenants: BTreeMap::new(),
            quotas: Vec::new(),
            budgets: BTreeMap::new(),
            fair_sharing: false,
            workers: BTreeMap::new(),
            intents: BTreeMap::new(),
            workloads: BTreeMap::new(),
            placements: BTreeMap::new(),
        }
    }

    /// Whether two say the same, but for what no plan goes by: when workers were
    /// last heard, and the database's sums of what devices hold.
    pub fn agrees(&self, other: &Self) -> bool {
        let mut other = other.clone();
        for (id, worker) in &mut other.workers {
            let Some(known) = self.workers.get(id) else { return false };
            worker.seen_at = known.seen_at;
            for (device, known) in worker.devices.iter_mut().zip(&known.devices) {
                (device.used_memory_bytes, device.used_milli) = (known.used_memory_bytes, known.used_milli);
            }
        }
        *self == other
    }

    /// Whether a worker is cleared for a tenant's work, as far as both are known.
    pub fn is_cleared(&self, tenant: TenantId, worker: WorkerId) -> bool {
        let secrecy = self.tenants.get(&tenant).map_or_else(Classification::default, |t| t.classification);
        self.workers.get(&worker).is_none_or(|worker| worker.clearance >= secrecy)
    }

    /// Whether a worker has not been heard for too long.
    pub fn is_silent(&self, worker: &Worker, now: Timestamp) -> bool {
        now.since(worker.seen_at.max(self.leading_since)) > Duration::from_secs(WORKER_LOST_SECS)
    }
}

/// What bounds a tenant's work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantBounds {
    /// Nothing of it is placed, and why.
    pub closed: Option<Closed>,
    /// The zones its work may be in; empty for all.
    pub zones: Vec<String>,
    /// Pools that are dedicated to it, beside which its work may be nowhere; where
    /// there are none, it may be on what is dedicated to nobody.
    #[serde(default)]
    pub pools: Vec<String>,
    /// How secret its work is: it is placed only on workers cleared for that.
    #[serde(default)]
    pub classification: Classification,
}

/// Why nothing of a tenant is placed. What is placed already stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// It is suspended.
    Suspended,
    /// It is being deleted.
    Deleting,
}

impl Closed {
    /// In words for the person whose work waits.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Suspended => "the tenant is suspended",
            Self::Deleting => "the tenant is being deleted",
        }
    }
}

/// How many workloads an owner wants, and of what kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Higher goes first.
    pub priority: i32,
    /// What each needs in memory.
    pub version_id: VersionId,
    /// What each asks for.
    pub resources: ResourceRequest,
    /// How many: replicas of an endpoint, shares of a job; 0 when deleted or over.
    pub count: u32,
    /// Replicas above this many go before others where room must be made; at
    /// least 1.
    pub floor: u32,
}

/// What a placement holds of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The device.
    pub device_id: DeviceId,
    /// Memory on it.
    pub memory_bytes: u64,
    /// Thousandths of it.
    pub milli: u32,
}

/// A placement that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LivePlacement {
    /// Identifier.
    pub id: PlacementId,
    /// What is placed.
    pub workload_id: WorkloadId,
    /// What that is part of.
    pub owner: WorkloadOwner,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// What it asked for.
    pub resources: ResourceRequest,
    /// The class that it is on, of those it asked for; so it counts in the quota.
    pub class: String,
    /// The higher, the later it is made to leave.
    pub priority: i32,
    /// What it has in memory.
    pub version_id: VersionId,
    /// The workload's generation that it fulfils.
    pub generation: i64,
    /// Where.
    pub worker_id: WorkerId,
    /// Where it stands; never ended.
    pub state: PlacementState,
    /// Since when.
    pub since: Timestamp,
    /// How often in a row it failed there.
    #[serde(default)]
    pub failures: u32,
    /// When it did so last.
    #[serde(default)]
    pub failed_at: Option<Timestamp>,
    /// What it holds.
    pub holds: Vec<Hold>,
}

/// How far a job is spread over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Most shares of one job at a time.
    pub max_shares: u32,
    /// Open chunks of a job that ask for one more share.
    pub chunks_per_share: u32,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self { max_shares: 1, chunks_per_share: 32 }
    }
}

/// How many shares a job with that many open chunks wants: none when nothing
/// is open, else one for each [`ShareLimits::chunks_per_share`] begun.
pub fn shares(open_chunks: u64, limits: ShareLimits) -> u32 {
    let wanted = open_chunks.div_ceil(u64::from(limits.chunks_per_share.max(1)));
    u32::try_from(wanted).unwrap_or(u32::MAX).min(limits.max_shares.max(1))
}
