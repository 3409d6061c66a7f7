//! Pools: workers that are dedicated to some tenants.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::tenants::Slug;

/// Most tenants of one pool.
pub const MAX_POOL_TENANTS: usize = 256;

/// Workers on which only the work of some tenants is placed, and on which all
/// work of these tenants is. A name that workers say and no pool has is a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pool {
    /// The name that its workers have as theirs.
    pub name: Slug,
    /// For people.
    pub description: String,
    /// Short names of the tenants it is dedicated to; where there are none, nothing
    /// is placed on it.
    pub tenants: Vec<Slug>,
    /// How many workers are in it.
    pub workers: u64,
    /// When it was made.
    pub created_at: Timestamp,
}
