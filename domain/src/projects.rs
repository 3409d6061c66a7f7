//! Projects: keys, endpoints, jobs and budgets belong to one.

use serde::{Deserialize, Serialize};

use crate::principals::Role;
use crate::tenants::Slug;
use crate::{PrincipalId, ProjectId, TenantId, Timestamp};

/// The project that every tenant starts with.
pub const SANDBOX: &str = "sandbox";

/// What a project may have at once; `None` is no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectLimits {
    /// Endpoints.
    pub endpoints: Option<u32>,
    /// API keys that are neither revoked nor expired.
    pub api_keys: Option<u32>,
    /// Jobs that have not ended.
    pub open_jobs: Option<u32>,
    /// Requests a minute of all its keys together, by each replica of the API.
    pub requests_per_minute: Option<u32>,
}

/// A subdivision of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Project {
    /// Identifier.
    pub id: ProjectId,
    /// The tenant it belongs to.
    pub tenant_id: TenantId,
    /// Short name, unique in the tenant.
    pub slug: Slug,
    /// Name for people.
    pub name: String,
    /// What it may have at once.
    pub limits: ProjectLimits,
    /// Counts changes; the ETag.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Somebody's role in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Member {
    /// Who.
    pub principal_id: PrincipalId,
    /// What it signs in with, or a service account's short name.
    pub login: String,
    /// Name for people.
    pub display_name: String,
    /// `developer`, `user` or `viewer`.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
}
