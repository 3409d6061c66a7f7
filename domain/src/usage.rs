//! What was used: one row per answer.

use serde::{Deserialize, Serialize};

use crate::inference::TokenCounts;
use crate::models::Sha256Digest;
use crate::tenants::Slug;
use crate::{EndpointId, JobId, KeyId, ProjectId, RequestId, TenantId, Timestamp, UsageId, WorkerId};

/// One answered request or job line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsageRow {
    /// Identifier.
    pub id: UsageId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// Whose budget.
    pub project_id: ProjectId,
    /// The key it came with, if any.
    pub key_id: Option<KeyId>,
    /// The endpoint that answered, if any.
    pub endpoint_id: Option<EndpointId>,
    /// The job it belongs to, if any.
    pub job_id: Option<JobId>,
    /// The request.
    pub request_id: RequestId,
    /// Name the caller used.
    pub model: String,
    /// The version that answered.
    pub version_digest: Sha256Digest,
    /// The worker that answered.
    pub worker_id: Option<WorkerId>,
    /// Tokens counted by the engine.
    pub counts: TokenCounts,
    /// Milliseconds on the accelerator.
    pub accelerator_ms: u64,
    /// When it was settled.
    pub at: Timestamp,
}

/// Usage summed over a day, a project and a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UsageSummary {
    /// UTC day, `YYYY-MM-DD`.
    pub day: String,
    /// Project.
    pub project_id: ProjectId,
    /// Name the callers used.
    pub model: String,
    /// Answers.
    pub requests: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Milliseconds on the accelerator.
    pub accelerator_ms: u64,
}

/// Time of accelerators that a project held on a day, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AcceleratorDay {
    /// UTC day, `YYYY-MM-DD`.
    pub day: String,
    /// Short name of the tenant.
    pub tenant: Slug,
    /// Short name of the project.
    pub project: Slug,
    /// Accelerator class.
    pub class: String,
    /// Seconds of whole accelerators: half of one for an hour is 1800. A part
    /// counts as a whole.
    pub accelerator_seconds: u64,
}

/// Tokens of a project on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenDay {
    /// UTC day, `YYYY-MM-DD`.
    pub day: String,
    /// Short name of the tenant.
    pub tenant: Slug,
    /// Short name of the project.
    pub project: Slug,
    /// Answers.
    pub requests: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
}
