//! Who may have how much, in which order, and at whose cost: the quota tree,
//! fair sharing, and the planner that admits, preempts and explains.
//!
//! [`Tree`] holds what each cohort, tenant and project may use and what it
//! uses; [`Admissions`] adds the queues and what is admitted, and its
//! [`cycle`](Admissions::cycle) decides. Everything here is a pure function of
//! what it was told, in the order in which it was told: no clock, no
//! randomness, no iteration in the order of a hash.
//!
//! The model is Kueue's (cohorts with nominal quota, lending and borrowing
//! limits; preemption within a queue, within a cohort, and by dominant share),
//! with four additions: limits of projects and budgets, a decayed history of
//! usage, partial preemption of endpoints, and room that stays promised to a
//! preemptor until its victims have left.
//!
//! Quantities are integers in the smallest unit that matters (thousandths of
//! an accelerator, bytes, tokens). Shares are compared exactly, as fractions.

mod admission;
mod aside;
mod asks;
mod budgets;
mod changes;
mod choices;
mod entries;
mod fair_share;
mod history;
mod keeping;
mod nodes;
mod policies;
mod preemption;
mod queries;
mod queue;
mod ranking;
mod reasons;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod tournament;
mod tree;
mod victims;
mod waking;

pub use admission::{Decision, MAX_ROUNDS};
pub use asks::{Ask, AskError, Group, Hold, Key, MAX_COUNT, MAX_OPTIONS, Resource};
pub use budgets::{Budget, BudgetKind, BudgetState};
pub use fair_share::Share;
pub use history::History;
pub use nodes::{
    LinesError, MAX_LINES, MAX_WEIGHT_MILLI, Named, NodeKind, QuotaLine, QuotaNode, QuotaUse, quotas,
};
pub use policies::{BorrowWhilePreempting, Fungibility, Policies, Reclaim, Strategy, WithinTenant};
pub use preemption::Rule;
pub use queries::Obstacle;
pub use reasons::{Level, Waiting, WhyNot};
pub use snapshot::{Holding, HoldingStanding, Settings, Snapshot};
pub use state::{Admissions, QuotaError, Standing};
pub use tree::{Figures, MAX_DEPTH, NodeId, NodeSpec, Quota, Tree, TreeError, View};

/// A quantity, in the smallest unit that matters. Never negative in what is
/// asked or configured; what is available may be.
pub type Amount = i64;

/// Largest quantity that a quota, a limit or a request may name: 9 × 10¹⁵,
/// which is nine trillion accelerators or nine petabytes.
pub const MAX_AMOUNT: Amount = 1 << 53;

/// Where sums stop: larger ones saturate here, so that a usage within a
/// saturated quota plus one request still cannot wrap.
pub const MAX_TOTAL: Amount = 1 << 60;

/// Adds up to [`MAX_TOTAL`].
fn sum(a: Amount, b: Amount) -> Amount {
    a.saturating_add(b).min(MAX_TOTAL)
}
