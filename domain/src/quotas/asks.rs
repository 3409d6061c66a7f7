//! What a workload asks of its tenant's quota.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Amount, BudgetKind, Level, MAX_AMOUNT};
use crate::{EndpointId, ProjectId, TenantId, Timestamp, WorkloadId};

/// Most members of a gang.
pub const MAX_COUNT: u32 = 1 << 20;
/// Most acceptable classes of one workload.
pub const MAX_OPTIONS: usize = 16;

/// What quota is counted in, of one class of accelerators.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Thousandths of an accelerator, or of a core.
    #[default]
    Milli,
    /// Memory of accelerators.
    MemoryBytes,
}

impl Resource {
    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milli => "milli",
            Self::MemoryBytes => "memory_bytes",
        }
    }
}

impl std::str::FromStr for Resource {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let all = [Self::Milli, Self::MemoryBytes];
        all.into_iter().find(|r| r.as_str() == s).ok_or_else(|| format!("{s:?} is no resource"))
    }
}

/// What a quota is a quota of: a resource of an accelerator class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// e.g. `nvidia-h100-80g`.
    #[serde(with = "super::snapshot::text")]
    pub class: Arc<str>,
    /// What of it.
    pub resource: Resource,
}

impl Key {
    /// Thousandths of accelerators of a class.
    pub fn milli(class: &str) -> Self {
        Self { class: class.into(), resource: Resource::Milli }
    }
}

/// The endpoint that a replica is part of, and how far it may shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Replicas above this many go first.
    pub min_replicas: u32,
    /// The last this many are never taken by another tenant.
    pub guaranteed: u32,
}

/// Something outside the quota that keeps a workload from being admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What keeps it, e.g. `zone` or `model_not_approved`.
    pub level: Level,
    /// In plain words.
    pub detail: String,
}

/// What one workload asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Identifier.
    pub id: WorkloadId,
    /// Whose quota.
    pub tenant: TenantId,
    /// Whose limits below the tenant's quota.
    pub project: Option<ProjectId>,
    /// Higher goes first.
    pub priority: i32,
    /// Since when it waits: its creation, or its eviction.
    pub queued_at: Timestamp,
    /// What each member needs, by acceptable class, the preferred one first.
    pub options: Vec<Vec<(Key, Amount)>>,
    /// Members of the gang: all are admitted or none.
    pub count: u32,
    /// Fewer members will do, down to this many.
    pub min_count: Option<u32>,
    /// Set for a replica of an endpoint.
    pub group: Option<Group>,
    /// What it may spend, for the whole gang.
    pub budget: Vec<(BudgetKind, Amount)>,
    /// What keeps it for now, apart from quota.
    pub hold: Option<Hold>,
    /// Those of one kind need the same of a device, by whatever numbers the
    /// caller: it may set a whole kind aside.
    #[serde(default)]
    pub kind: u32,
}

/// An ask that no quota can be applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nothing to choose from.
    #[error("name at least 1 and at most {MAX_OPTIONS} acceptable classes")]
    Options,
    /// No member, or more than the limit, or a minimum above the count.
    #[error("the count must be 1 to {MAX_COUNT}, and the minimum count 1 to the count")]
    Count,
    /// A quantity is negative, too large, or named twice.
    #[error("each quantity must be 0 to {MAX_AMOUNT} for all members together, and named once")]
    Amount,
}

impl Ask {
    /// Whether quota can be applied to it.
    pub fn check(&self) -> Result<(), AskError> {
        if !(1..=MAX_OPTIONS).contains(&self.options.len()) {
            return Err(AskError::Options);
        }
        let least = self.min_count.unwrap_or(self.count);
        if !(1..=MAX_COUNT).contains(&self.count) || !(1..=self.count).contains(&least) {
            return Err(AskError::Count);
        }
        let fine = |amount: Amount, times: u32| {
            amount >= 0 && amount.checked_mul(times.into()).is_some_and(|total| total <= MAX_AMOUNT)
        };
        for option in &self.options {
            let named_twice =
                option.iter().enumerate().any(|(i, (k, _))| option[..i].iter().any(|(o, _)| o == k));
            if named_twice || !option.iter().all(|(_, amount)| fine(*amount, self.count)) {
                return Err(AskError::Amount);
            }
        }
        if self.budget.iter().all(|(_, amount)| fine(*amount, 1)) { Ok(()) } else { Err(AskError::Amount) }
    }
}
