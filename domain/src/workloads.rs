//! Workloads and placements: what is to run, and where it runs.

use serde::{Deserialize, Serialize};

use crate::accelerators::ResourceRequest;
use crate::{DeviceId, EndpointId, JobId, PlacementId, TenantId, Timestamp, VersionId, WorkerId, WorkloadId};

/// What a workload is part of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadOwner {
    /// A replica of an endpoint.
    Endpoint(EndpointId),
    /// A share of a job.
    Job(JobId),
}

/// Lowest and highest priority.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;
/// Priority of endpoints, whose prompts people wait for.
pub const ENDPOINT_PRIORITY: i32 = 100;
/// Priority of jobs.
pub const JOB_PRIORITY: i32 = 0;

/// Where a workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadState {
    /// Not placed; `reason` says why.
    Pending,
    /// Has a live placement.
    Placed,
    /// Over; never placed again.
    Ended,
}

/// That something failed on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Failure {
    /// Where.
    pub worker_id: WorkerId,
    /// When last.
    pub at: Timestamp,
}

/// Most failures that are remembered of a workload, the latest.
pub const MAX_FAILURES: usize = 64;

/// What the scheduler sees: a replica or a job's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Workload {
    /// Identifier.
    pub id: WorkloadId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// What it is part of.
    pub owner: WorkloadOwner,
    /// The model version it needs in memory.
    pub version_id: VersionId,
    /// What it asks for.
    pub resources: ResourceRequest,
    /// Higher goes first, in its tenant and where tenants compete.
    pub priority: i32,
    /// Where it stands.
    pub state: WorkloadState,
    /// Counts placements of this workload; a placement with another is stale.
    pub generation: i64,
    /// Why it waits, in plain words.
    pub reason: Option<String>,
    /// Since when it waits: its creation, or when it was last made to leave.
    pub queued_at: Timestamp,
    /// Since when room is being made for it; others do not take that room.
    pub promised_at: Option<Timestamp>,
    /// On devices of which class.
    #[serde(default)]
    pub promised_class: Option<String>,
    /// Workers from which it left after it had failed there, by identifier: others are
    /// preferred for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_on: Vec<Failure>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Workload {
    /// Remembers that it failed on a worker.
    pub fn failed(&mut self, failure: Failure) {
        self.failed_on.retain(|known| known.worker_id != failure.worker_id);
        self.failed_on.push(failure);
        if self.failed_on.len() > MAX_FAILURES {
            self.failed_on.sort_by_key(|failure| (failure.at, failure.worker_id));
            self.failed_on.remove(0);
        }
        self.failed_on.sort_by_key(|failure| failure.worker_id);
    }
}

/// Where a placement stands. `Ended` frees its devices; all others hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlacementState {
    /// The worker is to make it true.
    Assigned,
    /// The worker says it answers.
    Ready,
    /// The worker is to finish what it does and let go.
    Draining,
    /// Over.
    Ended,
}

macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $type {
            /// Name in the database and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s { $($name => Ok(Self::$variant),)* _ => Err(format!("{s:?} is no {}", stringify!($type))) }
            }
        }
    };
}
names!(WorkloadState { Pending => "pending", Placed => "placed", Ended => "ended" });
names!(PlacementState { Assigned => "assigned", Ready => "ready", Draining => "draining", Ended => "ended" });

/// A workload on particular devices of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placement {
    /// Identifier.
    pub id: PlacementId,
    /// What is placed.
    pub workload_id: WorkloadId,
    /// The workload's generation that this placement fulfils.
    pub generation: i64,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Where.
    pub worker_id: WorkerId,
    /// On which of its devices.
    pub devices: Vec<DeviceId>,
    /// Where it stands.
    pub state: PlacementState,
    /// What the worker last said about it, e.g. why it cannot start.
    pub detail: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}
