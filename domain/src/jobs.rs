//! Jobs: finite work. Batch inference over the lines of a file.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::models::Sha256Digest;
use crate::{FileId, JobId, LeaseToken, ProjectId, RequestId, TenantId, Timestamp, VersionId};

mod lines;

pub use lines::{ChunkRange, Line, LineReader, LineTooLong};

/// Most lines of one job, as OpenAI's clients expect.
pub const MAX_LINES: u64 = 50_000;
/// Largest input file.
pub const MAX_INPUT_BYTES: u64 = 200 << 20;
/// Longest line.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Longest `custom_id`.
pub const MAX_CUSTOM_ID_BYTES: usize = 512;
/// Most problems of an input file that are told at once.
pub const MAX_PROBLEMS: usize = 20;
/// Times a chunk is leased before its lines fail: whatever loses its workers
/// must not go on for ever.
pub const MAX_CHUNK_ATTEMPTS: u32 = 5;
/// Most pairs of a job's metadata.
pub const MAX_METADATA_PAIRS: usize = 16;
/// Longest key of a job's metadata.
pub const MAX_METADATA_KEY_BYTES: usize = 64;
/// Longest value of a job's metadata.
pub const MAX_METADATA_VALUE_BYTES: usize = 512;
/// Largest output file.
pub const MAX_OUTPUT_BYTES: u64 = 64 << 30;
/// Thousandths of a device that a share of a job asks for.
pub const SHARE_MILLI: u32 = 500;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Lines remain to be run.
    InProgress,
    /// Every line has its result; files are being assembled.
    Finalizing,
    /// Done.
    Completed,
    /// Asked to stop; leases are ending.
    Cancelling,
    /// Stopped; lines that were done keep their results.
    Cancelled,
}

impl JobState {
    /// Name in the database and the API; also OpenAI's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }
}

impl std::str::FromStr for JobState {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::InProgress, Self::Finalizing, Self::Completed, Self::Cancelling, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == s)
            .ok_or_else(|| format!("{s:?} is no state of a job"))
    }
}

/// How far a job is, in lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineCounts {
    /// All lines.
    pub total: u64,
    /// Lines answered.
    pub completed: u64,
    /// Lines that ended in an error.
    pub failed: u64,
}

/// A batch of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Job {
    /// Identifier.
    pub id: JobId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// The operation each line asks for, e.g. `/v1/chat/completions`.
    pub operation: String,
    /// The name its lines use.
    pub model: String,
    /// The version that answers.
    pub version_id: VersionId,
    /// Digest of the version that answers.
    pub version_digest: Sha256Digest,
    /// Where it stands.
    pub state: JobState,
    /// Why it waits, in plain words; `None` while it runs.
    pub reason: Option<String>,
    /// Place among the tenant's jobs that wait, from 1; `None` while it runs.
    pub position: Option<u64>,
    /// How far it is.
    pub lines: LineCounts,
    /// What it reads.
    pub input_file_id: FileId,
    /// Answers, when done.
    pub output_file_id: Option<FileId>,
    /// Errors, when done and if there are any.
    pub error_file_id: Option<FileId>,
    /// Given by the caller, returned as it was.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Value,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was asked to stop.
    pub cancelling_at: Option<Timestamp>,
    /// When every line had its result.
    pub finalizing_at: Option<Timestamp>,
    /// When it reached its final state.
    pub ended_at: Option<Timestamp>,
}

/// The request that runs `line` under a lease: anyone who knows the lease can
/// say it, so worker, usage and results agree without sending it about.
pub fn line_request_id(token: LeaseToken, line: u64) -> RequestId {
    RequestId(derived_id(&[b"line", token.0.as_bytes(), &line.to_be_bytes()]))
}

/// The file that `purpose` (`output`, `errors`) of a job is assembled into.
/// Always the same, so that assembling twice writes one file.
pub fn assembled_file_id(job: JobId, purpose: &str) -> FileId {
    FileId(derived_id(&[b"file", job.0.as_bytes(), purpose.as_bytes()]))
}

fn derived_id(parts: &[&[u8]]) -> uuid::Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Lines per chunk for a job of `total` lines: small enough that a lost worker
/// costs little and progress shows, large enough that leases are rare.
pub fn chunk_lines(total: u64) -> u64 {
    (total / 100).clamp(4, 64)
}
