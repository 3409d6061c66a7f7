//! Endpoints: long-lived services of a model version.

use serde::{Deserialize, Serialize};

use crate::accelerators::ResourceRequest;
use crate::autoscaling::{Range, Targets};
use crate::models::Sha256Digest;
use crate::tenants::Slug;
use crate::{EndpointId, ProjectId, TenantId, Timestamp, VersionId};

/// Most replicas one endpoint may ask for.
pub const MAX_REPLICAS: u32 = 1000;

/// A service of one model version, called by its name as `model` in `/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Endpoint {
    /// Identifier.
    pub id: EndpointId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// Unique in the tenant; what clients send as `model`.
    pub name: Slug,
    /// What it serves.
    pub version_id: VersionId,
    /// Name of the model it serves.
    pub model: Slug,
    /// Digest of the version it serves.
    pub version_digest: Sha256Digest,
    /// How many replicas should run now.
    pub replicas: u32,
    /// The least that may be chosen; 0 if the last may go while nobody asks.
    pub min_replicas: u32,
    /// The most that may be chosen. The same as the least: the number is fixed.
    pub max_replicas: u32,
    /// What the number follows, where it is not fixed.
    pub scaling: Targets,
    /// Why the autoscaler chose this number, in plain words; `None` before it did.
    pub scaling_reason: Option<String>,
    /// What each replica asks for.
    pub resources: ResourceRequest,
    /// How many replicas answer now.
    pub ready_replicas: u32,
    /// Why replicas wait or fail, in plain words; `None` when all is well.
    pub reason: Option<String>,
    /// Counts changes of what is asked for; the ETag.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Endpoint {
    /// Between how many replicas the autoscaler chooses; `None` if the number is
    /// fixed.
    pub fn range(&self) -> Option<Range> {
        let range = Range { min: self.min_replicas, max: self.max_replicas };
        (range.min < range.max).then_some(range)
    }
}
