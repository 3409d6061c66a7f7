//! Restrictions: what a tenant forbids itself, beyond the platform's policies.

use serde::{Deserialize, Serialize};

use crate::tenants::Slug;
use crate::{RestrictionId, Timestamp};

/// Most restrictions of a tenant.
pub const MAX: usize = 50;
/// Longest policy, in bytes.
pub const MAX_POLICY_BYTES: usize = 4096;

/// One restriction. It can only take away: a policy that permits is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Restriction {
    /// Identifier.
    pub id: RestrictionId,
    /// Short name, unique in the tenant; audit events name it.
    pub name: Slug,
    /// What it is for.
    pub description: String,
    /// One Cedar policy that forbids.
    pub policy: String,
    /// Counts changes; the ETag.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}
