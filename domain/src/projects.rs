//! Projects: keys, endpoints, jobs and budgets belong to one.

use serde::{Deserialize, Serialize};

use crate::tenants::Slug;
use crate::{ProjectId, TenantId, Timestamp};

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
    /// When it was created.
    pub created_at: Timestamp,
}
