//! Workers, and the protocol of the internal listener that they speak:
//! join, report, desired state, leases of job chunks.

mod contact;
mod reconcile;

use serde::{Deserialize, Serialize};

use crate::accelerators::{Device, DeviceReport};
use crate::inference::{FailureKind, FinishReason, GenerateRequest, TokenCounts};
use crate::models::{Manifest, Sha256Digest};
use crate::tenants::{Classification, Slug};
use crate::workloads::WorkloadOwner;
use crate::{JobId, LeaseToken, PlacementId, TenantId, Timestamp, VersionId, WorkerId};

pub use contact::Contact;
pub use reconcile::{Action, Actual, Gone, Held, MAX_REMEMBERED, Phase, reconcile};

/// A worker that has not reported for this long is lost: its placements end
/// and its leases with them.
pub const WORKER_LOST_SECS: u64 = 15;
/// Workers report at least this often.
pub const REPORT_INTERVAL_SECS: u64 = 3;
/// Longest that a request for desired state is held.
pub const DESIRED_WAIT_SECS: u64 = 20;
/// How long a drained placement may take to finish what it does.
pub const DRAIN_LIMIT_SECS: u64 = 300;
/// How long a lease of a chunk lasts unless renewed.
pub const LEASE_TTL_SECS: u64 = 30;
/// An engine that was ready for this long and dies has not failed before.
pub const HEALTHY_AFTER_SECS: u64 = 60;
/// What a worker adds, before a time, to the reason of an engine's failure
/// while it tries again. Who shows the reason alone cuts it off.
pub const RESTARTED_IN: &str = "; restarted in ";
/// Most devices of one worker.
pub const MAX_DEVICES: usize = 64;
/// Most placements in one report.
pub const MAX_REPORTED_PLACEMENTS: usize = 1024;

/// A process that owns the accelerators of one node, as the fleet page sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Worker {
    /// Identifier.
    pub id: WorkerId,
    /// Unique name, by default the host's.
    pub name: Slug,
    /// Pool that it is in: the one that the platform put it into, else the one that
    /// it named.
    pub pool: Slug,
    /// Whether that pool is dedicated to tenants, so that nobody else's work is placed
    /// on it.
    #[serde(default)]
    pub dedicated: bool,
    /// Where it stands.
    pub zone: Slug,
    /// Base URL of its inference listener.
    pub address: String,
    /// Nothing new is placed on it.
    pub cordoned: bool,
    /// How secret the work may be that is placed on it. The platform says so, not
    /// the worker.
    #[serde(default)]
    pub clearance: Classification,
    /// Whether it reported within [`WORKER_LOST_SECS`].
    pub live: bool,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Last report.
    pub seen_at: Timestamp,
    /// Counts changes of what is asked of it; the ETag.
    pub revision: i64,
    /// When it first joined.
    pub created_at: Timestamp,
}

/// `POST /internal/v1/join`, with the join token as bearer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Unique name. Joining again under it replaces the former process, whose
    /// credential and leases end.
    pub name: Slug,
    /// Pool.
    pub pool: Slug,
    /// Zone.
    pub zone: Slug,
    /// Base URL under which gateways reach its inference listener.
    pub address: String,
    /// What it has.
    pub devices: Vec<DeviceReport>,
}

/// Identity of a worker.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinResponse {
    /// Who it is.
    pub worker_id: WorkerId,
    /// Bearer for everything else on the internal listener.
    pub credential: String,
    /// Bearer that gateways present to its inference listener.
    pub gateway_key: String,
}

/// Where a worker is with one placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// Fetching, verifying, loading.
    Starting,
    /// Answers.
    Ready,
    /// Cannot start, or died and is being restarted; `detail` says why.
    Failing,
    /// Drained: let go of everything.
    Ended,
}

/// What a worker says of one placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementReport {
    /// Which.
    pub placement_id: PlacementId,
    /// The generation it was told.
    pub generation: i64,
    /// Where it is.
    pub state: ObservedState,
    /// In plain words.
    pub detail: Option<String>,
    /// How often in a row its engine failed since the worker holds it: one that was
    /// ready for a minute begins anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// How busy it is, if it is a replica that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<ReplicaLoad>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// How busy a replica is, over about the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaLoad {
    /// Requests that waited for their first token, in thousandths.
    pub queued_milli: u64,
    /// Tokens, read and written, of requests that were being answered.
    pub tokens: u64,
    /// From a request to its first token, in milliseconds; none came if `None`.
    pub first_token_ms: Option<u64>,
    /// For how long it has had no request, in milliseconds; 0 while it has one.
    pub idle_ms: u64,
}

/// `POST /internal/v1/report`: heartbeat and observed state. Answered with 204.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// Everything it holds.
    pub placements: Vec<PlacementReport>,
    /// What it measured of its devices, of those that it can measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceMemory>,
}

/// Memory of a device, as its worker measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceMemory {
    /// Position on the worker.
    pub ordinal: u32,
    /// What is there for work: free, or held by the worker's own engines.
    pub available_bytes: u64,
}

/// A version to hold in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredVersion {
    /// Identifier.
    pub id: VersionId,
    /// Digest of the manifest; the worker recomputes it.
    pub digest: Sha256Digest,
    /// Its files, fetched by digest from `/internal/v1/blobs/{sha256}`.
    pub manifest: Manifest,
}

/// One placement to make true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPlacement {
    /// Which.
    pub placement_id: PlacementId,
    /// Its generation; a report or lease with another is stale.
    pub generation: i64,
    /// Whose work it is.
    pub tenant_id: TenantId,
    /// What it is part of.
    pub owner: WorkloadOwner,
    /// What to load.
    pub version: DesiredVersion,
    /// Memory it may use on its device.
    pub memory_bytes: u64,
    /// Thousandths it may use of its device.
    pub milli: u32,
    /// Finish what runs and let go.
    pub drain: bool,
}

/// `GET /internal/v1/desired?after=REVISION`: held until it differs from
/// `after`, at most [`DESIRED_WAIT_SECS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Epoch of the scheduler that made it. Workers obey no lower one.
    pub epoch: i64,
    /// Names this content.
    pub revision: String,
    /// Everything the worker should hold.
    pub placements: Vec<DesiredPlacement>,
}

/// `POST /internal/v1/jobs/{job}/lease`. Answered with a [`LeasedChunk`], or
/// 204 when nothing is left to lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The job's share it works for.
    pub placement_id: PlacementId,
    /// Its generation.
    pub generation: i64,
}

/// One line of a job to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasedLine {
    /// Number of the line, from 0.
    pub line: u64,
    /// What to generate.
    pub request: GenerateRequest,
}

/// A chunk of a job's lines, for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasedChunk {
    /// The job.
    pub job_id: JobId,
    /// The chunk's number in the job.
    pub index: u32,
    /// Proves the lease.
    pub token: LeaseToken,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
    /// What to run.
    pub lines: Vec<LeasedLine>,
}

/// `POST /internal/v1/jobs/{job}/chunks/{index}/renew`. 409 when the lease is
/// lost: stop working on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Proves the lease.
    pub token: LeaseToken,
}

/// The answer to a renewal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewResponse {
    /// When it ends now.
    pub expires_at: Timestamp,
}

/// How one line went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineOutcome {
    /// Answered.
    Answered {
        /// The whole text.
        text: String,
        /// Why it ended.
        reason: FinishReason,
        /// Tokens counted by the engine.
        counts: TokenCounts,
        /// Milliseconds on the accelerator.
        accelerator_ms: u64,
    },
    /// Not answered.
    Failed {
        /// Class of the failure.
        kind: FailureKind,
        /// Why.
        message: String,
    },
}

/// Outcome of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompletedLine {
    /// Number of the line.
    pub line: u64,
    /// How it went.
    pub outcome: LineOutcome,
}

/// `POST /internal/v1/jobs/{job}/chunks/{index}/complete`: results of every
/// leased line, committed together. 409 when the lease is lost: drop them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteRequest {
    /// Proves the lease.
    pub token: LeaseToken,
    /// One for each leased line.
    pub lines: Vec<CompletedLine>,
}
