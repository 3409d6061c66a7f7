//! What a tenant may do to get room, and how its queue behaves.

use serde::{Deserialize, Serialize};

/// Which of its own workloads a tenant's workload may preempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithinTenant {
    /// None.
    #[default]
    Never,
    /// Those of lower priority.
    LowerPriority,
    /// Those of lower priority, and those of equal priority that came later.
    LowerOrNewerEqualPriority,
}

/// Which workloads of tenants that borrow a tenant may preempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reclaim {
    /// None.
    #[default]
    Never,
    /// Those of lower priority.
    LowerPriority,
    /// Any.
    Any,
}

/// Whether a tenant may preempt while it would itself be borrowing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BorrowWhilePreempting {
    /// No.
    #[default]
    Never,
    /// Those of lower priority, up to this one where one is given.
    LowerPriority {
        /// Highest priority that may be preempted.
        max_priority: Option<i32>,
    },
}

/// What a workload that does not fit means for those behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// They may overtake it.
    #[default]
    BestEffortFifo,
    /// They wait.
    StrictFifo,
}

/// What to try next when no acceptable class has room within nominal quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fungibility {
    /// Borrow in a class before preempting in another.
    #[default]
    BorrowFirst,
    /// Preempt within nominal quota before borrowing.
    PreemptFirst,
}

/// A tenant's policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Preemption among its own.
    pub within: WithinTenant,
    /// Preemption of those who borrow.
    pub reclaim: Reclaim,
    /// Preemption while borrowing.
    pub borrow: BorrowWhilePreempting,
    /// How its queue behaves.
    pub strategy: Strategy,
    /// Borrowing or preempting first.
    pub fungibility: Fungibility,
}
