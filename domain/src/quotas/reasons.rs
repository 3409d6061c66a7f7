//! Why a workload waits: its place in the queue, what stops it, and the
//! figures.

use serde::{Deserialize, Serialize};

use super::tree::{Ix, KeyIx};
use super::{Amount, BudgetKind, Key, NodeId, Tree};

/// What stops a workload.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Its tenant's quota or its project's limit.
    Quota,
    /// How much its tenant, or a cohort above it, may borrow.
    BorrowingLimit,
    /// Nothing is free in its cohort.
    Cohort,
    /// Others have what it needs, and its tenant's share is no smaller.
    FairShare,
    /// Others have what it needs, and are no less important; or one that is
    /// more important is before it.
    Priority,
    /// No worker has devices for it.
    Devices,
    /// No device has memory for it.
    Memory,
    /// No zone that it may be in has room.
    Zone,
    /// What it may be on is dedicated to others, or none is in its tenant's pools.
    Pool,
    /// No worker is cleared for it.
    Classification,
    /// Its model version is not approved.
    ModelNotApproved,
    /// What may be spent in this period.
    Budget,
}

impl Level {
    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::BorrowingLimit => "borrowing_limit",
            Self::Cohort => "cohort",
            Self::FairShare => "fair_share",
            Self::Priority => "priority",
            Self::Devices => "devices",
            Self::Memory => "memory",
            Self::Zone => "zone",
            Self::Pool => "pool",
            Self::Classification => "classification",
            Self::ModelNotApproved => "model_not_approved",
            Self::Budget => "budget",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let all = [
            Self::Quota,
            Self::BorrowingLimit,
            Self::Cohort,
            Self::FairShare,
            Self::Priority,
            Self::Devices,
            Self::Memory,
            Self::Zone,
            Self::Pool,
            Self::Classification,
            Self::ModelNotApproved,
            Self::Budget,
        ];
        all.into_iter().find(|level| level.as_str() == s).ok_or_else(|| format!("{s:?} is no level"))
    }
}

/// What stops a workload, and by how much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyNot {
    /// What.
    pub level: Level,
    /// Where in the tree, if it is there.
    pub node: Option<NodeId>,
    /// Of what, if it is quota.
    pub key: Option<Key>,
    /// Of what, if it is a budget.
    pub budget: Option<BudgetKind>,
    /// What it asks for.
    pub asked: Amount,
    /// What it could have.
    pub free: Amount,
    /// It asks for more than it could ever have.
    pub never: bool,
    /// In words, where something outside the quota keeps it.
    pub detail: Option<String>,
}

impl WhyNot {
    pub(super) fn of(level: Level) -> Self {
        Self { level, node: None, key: None, budget: None, asked: 0, free: 0, never: false, detail: None }
    }
}

/// Where a waiting workload stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// 1 for the first of its tenant's queue.
    pub position: u64,
    /// How many wait there.
    pub of: u64,
    /// What stops it; nothing if it was not tried yet.
    pub why: Option<WhyNot>,
}

/// What stops `amounts`: the first quota that has too little.
pub(super) fn first_obstacle(tree: &Tree, leaf: Ix, amounts: &[(KeyIx, Amount)]) -> Option<WhyNot> {
    amounts.iter().find_map(|&(key, asked)| obstacle(tree, leaf, key, asked))
}

fn obstacle(tree: &Tree, leaf: Ix, key: KeyIx, asked: Amount) -> Option<WhyNot> {
    let tenant = tree.tenant_of(leaf);
    let view = tree.view_for(tenant, key, asked);
    let at = |level, node: Ix, free: Amount, never| {
        Some(WhyNot {
            node: Some(tree.nodes[node as usize].id),
            key: Some(tree.key(key).clone()),
            asked,
            free: free.max(0),
            never,
            ..WhyNot::of(level)
        })
    };
    if asked == 0 {
        return None;
    }
    if !tree.lists(tenant, key) {
        return at(Level::Quota, tenant, 0, true);
    }
    if let Some(room) = tree.project_room(view, leaf, key).filter(|room| *room < asked) {
        return at(Level::Quota, leaf, room, asked > tree.nominal(leaf, key));
    }
    let never = asked > tree.potential(tenant, key);
    let available = tree.available(view, tenant, key);
    if available >= asked {
        return None;
    }
    let (mut node, mut rest) = (tenant, asked);
    while let Some(parent) = tree.parent(node) {
        rest -= tree.own_room(view, node, key);
        if rest > tree.borrowing_room(view, node, key) {
            return at(Level::BorrowingLimit, node, available, never);
        }
        node = parent;
    }
    let level = if node == tenant { Level::Quota } else { Level::Cohort };
    at(level, node, available, never)
}
