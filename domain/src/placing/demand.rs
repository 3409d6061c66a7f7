//! How often each kind of request arrives: counted from arrivals, the old ones
//! fading, in whole numbers so that the order of arrival leaves no trace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Needs;
use super::prices::float;

/// What one arrival counts when it is new.
const FRESH: u64 = 1 << 16;
/// After so many arrivals all counts fade by an eighth: half of what is known
/// is from the last twenty-two thousand.
const FADE_AFTER: u64 = 4_096;
/// Most kinds that are known; beyond it the rarest is forgotten.
const MAX_KINDS: usize = 512;

/// Weights of the kinds of request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    #[serde(with = "crate::pairs")]
    kinds: BTreeMap<Needs, u64>,
    total: u64,
    since_fading: u64,
    /// Thousandths of devices that arrived and that ended, fading as well.
    arrived_milli: u64,
    ended_milli: u64,
}

impl Demand {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing but these, none of them faded.
    pub fn known(needs: impl IntoIterator<Item = Needs>) -> Self {
        let mut demand = Self::default();
        for needs in needs {
            demand.add(&needs);
        }
        demand
    }

    /// One more arrived. Count a workload when it is created, not each time it
    /// is tried.
    pub fn observe(&mut self, needs: &Needs) {
        self.add(needs);
        self.arrived_milli += asked_milli(needs);
        self.since_fading += 1;
        if self.since_fading >= FADE_AFTER {
            self.fade();
        }
    }

    fn add(&mut self, needs: &Needs) {
        if let Some(count) = self.kinds.get_mut(needs) {
            *count += FRESH;
        } else {
            if self.kinds.len() >= MAX_KINDS {
                self.forget_rarest();
            }
            self.kinds.insert(needs.clone(), FRESH);
        }
        self.total += FRESH;
    }

    /// One that had been observed and placed ended.
    pub fn end(&mut self, needs: &Needs) {
        self.ended_milli += asked_milli(needs);
    }

    /// How much arrives for each device that is filled for good: 1 where nothing
    /// ends, infinite where as much ends as arrives.
    pub(super) fn turnover(&self) -> f64 {
        if self.ended_milli == 0 {
            return 1.0;
        }
        float(self.arrived_milli) / float(self.arrived_milli.saturating_sub(self.ended_milli))
    }

    /// What is known, in fresh arrivals.
    pub fn arrivals(&self) -> u64 {
        self.total / FRESH
    }

    /// The kinds and their weights, in a fixed order.
    pub fn kinds(&self) -> impl Iterator<Item = (&Needs, u64)> {
        self.kinds.iter().map(|(needs, count)| (needs, *count))
    }

    fn fade(&mut self) {
        self.since_fading = 0;
        self.arrived_milli -= self.arrived_milli / 8;
        self.ended_milli -= self.ended_milli / 8;
        self.kinds.retain(|_, count| {
            *count -= *count / 8;
            // Fades from one arrival to below a hundredth of it in 35 steps.
            *count > FRESH / 128
        });
        self.total = self.kinds.values().sum();
    }

    fn forget_rarest(&mut self) {
        let rarest = self.kinds.iter().min_by_key(|(_, count)| **count).map(|(needs, _)| needs.clone());
        if let Some(count) = rarest.and_then(|needs| self.kinds.remove(&needs)) {
            self.total -= count;
        }
    }
}

fn asked_milli(needs: &Needs) -> u64 {
    u64::from(needs.devices) * u64::from(needs.milli)
}
