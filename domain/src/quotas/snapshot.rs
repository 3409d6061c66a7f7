//! Everything that decides, but for the history of usage, as a value: recorded
//! with a decision, it replays where no history is remembered.

use serde::{Deserialize, Serialize};

use super::entries::State;
use super::{Admissions, Ask, History, NodeSpec, QuotaError};
use crate::{Timestamp, WorkloadId};

/// What holds for every tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Order and preempt by dominant share.
    pub fair_sharing: bool,
    /// Remember usage, if set.
    pub history: Option<History>,
}

/// Something that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// What was asked.
    pub ask: Ask,
    /// Which of its options.
    pub option: usize,
    /// How many members.
    pub count: u32,
    /// Since when.
    pub reserved_at: Timestamp,
    /// How firmly.
    pub standing: HoldingStanding,
}

/// How firmly something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldingStanding {
    /// Once victims have left.
    Promised,
    /// It holds it.
    Admitted,
    /// It was told to leave, for this workload if for one.
    Leaving(Option<WorkloadId>),
}

/// The input of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What holds for all.
    pub settings: Settings,
    /// The tree.
    pub nodes: Vec<NodeSpec>,
    /// What was granted, by identifier; what was promised comes last, in the
    /// order in which it was.
    pub holdings: Vec<Holding>,
    /// What waits, by identifier.
    pub pending: Vec<Ask>,
}

impl Admissions {
    /// What it holds, but for the history of usage.
    pub fn snapshot(&self) -> Snapshot {
        let mut holdings = Vec::new();
        let mut pending = Vec::new();
        for (_, entry) in self.entries.iter() {
            let (order, grant, standing) = match &entry.state {
                State::Admitted(grant) => (0, grant, HoldingStanding::Admitted),
                State::Claimed { grant, order } => (*order, grant, HoldingStanding::Promised),
                State::Leaving { grant, preemptor } => (0, grant, HoldingStanding::Leaving(*preemptor)),
                State::Pending | State::OnHold => {
                    pending.push(entry.ask.clone());
                    continue;
                }
            };
            let holding = Holding {
                ask: entry.ask.clone(),
                option: grant.option,
                count: grant.count,
                reserved_at: Timestamp::UNIX_EPOCH
                    + std::time::Duration::from_micros(grant.at_us.max(0) as u64),
                standing,
            };
            holdings.push((order, holding));
        }
        holdings.sort_by_key(|(order, h)| (*order, h.ask.id));
        let holdings = holdings.into_iter().map(|h| h.1).collect();
        pending.sort_by_key(|a| a.id);
        Snapshot { settings: self.settings, nodes: self.specs(), holdings, pending }
    }

    /// What a snapshot describes, ready for a cycle.
    pub fn from_snapshot(snapshot: Snapshot) -> Result<Self, QuotaError> {
        let mut admissions = Self::new(snapshot.settings, snapshot.nodes)?;
        for holding in snapshot.holdings {
            admissions.restore(holding)?;
        }
        for ask in snapshot.pending {
            admissions.enqueue(ask)?;
        }
        Ok(admissions)
    }
}

/// Shared text, as text.
pub(super) mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(d).map(Arc::from)
    }
}
