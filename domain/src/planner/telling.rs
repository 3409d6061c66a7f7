//! Why what waits does: told once, and again when the reason is another.

use std::time::Duration;

use super::board::Standing;
use super::reasons::{self, Reason};
use super::{Decision, Planner};
use crate::quotas::Obstacle;
use crate::{Timestamp, WorkloadId};

/// What is free changes all the time; what that means for a request that
/// nothing takes is told anew after this time.
const DEVICES_EVERY: Duration = Duration::from_secs(10);

impl Planner {
    /// Says of what waits why, at most `most` times, promises aside.
    pub(super) fn tell_reasons(&mut self, now: Timestamp, most: usize, decisions: &mut Vec<Decision>) {
        for id in std::mem::take(&mut self.urgent) {
            self.untold.remove(&id);
            decisions.extend(self.told(id, now));
        }
        self.untold.extend(self.admissions.take_news());
        for kind in self.admissions.aside().collect::<Vec<_>>() {
            if self.judge_devices(kind, now) {
                self.untold.extend(self.admissions.of_kind(kind));
            }
        }
        let mut told = 0;
        while told < most
            && let Some(id) = self.untold.pop_first()
        {
            let decision = self.told(id, now);
            told += usize::from(decision.is_some());
            decisions.extend(decision);
        }
    }

    /// The reason, unless it is known or nothing waits.
    fn told(&mut self, id: WorkloadId, now: Timestamp) -> Option<Decision> {
        let known = self.known.get(&id)?;
        let promised = known.standing == Standing::Promised;
        let reason = match known.standing {
            Standing::Promised => reasons::promised(),
            Standing::Waits => self.reason(id, known.kind, now)?,
            Standing::Placed(_) | Standing::Leaves(_) => return None,
        };
        let workload = self.facts.workloads.get_mut(&id)?;
        if (workload.reason.as_deref(), workload.promised_at.is_some()) == (Some(&*reason.text), promised) {
            return None;
        }
        workload.reason = Some(reason.text.clone());
        workload.promised_at = promised.then(|| workload.promised_at.unwrap_or(now));
        let generation = workload.generation;
        Some(Decision::Wait { workload: id, generation, level: reason.level, reason: reason.text, promised })
    }

    fn reason(&mut self, id: WorkloadId, kind: u32, now: Timestamp) -> Option<Reason> {
        Some(match self.admissions.obstacle(id)? {
            // It is the tenant that may not, whatever it asks for.
            Obstacle::Hold(hold) => Reason { level: None, text: hold.detail.clone() },
            Obstacle::Quota(why) => reasons::of_quota(Some(why), &self.kinds[kind as usize].kind.request()),
            Obstacle::Others => reasons::of_quota(None, &self.kinds[kind as usize].kind.request()),
            Obstacle::Aside => {
                self.judge_devices(kind, now);
                self.kinds[kind as usize].reason.as_ref()?.reason.clone()
            }
        })
    }

    /// Finds out why no device takes this kind, if that is due; whether the
    /// reason is another than before.
    fn judge_devices(&mut self, kind: u32, now: Timestamp) -> bool {
        let state = &self.kinds[kind as usize];
        let revision = self.devices.revision(&state.kind.class);
        let due = state.reason.as_ref().is_none_or(|judged| {
            judged.revision != revision && (now < judged.at || now.since(judged.at) >= DEVICES_EVERY)
        });
        if !due {
            return false;
        }
        let anybody = !self.facts.workers.is_empty();
        let slots = self.devices.of_class(&self.facts, &state.kind.class);
        let zones = &state.kind.ask.zones;
        let reason = reasons::of_devices(anybody, &slots, &state.kind.request(), zones);
        let other = state.reason.as_ref().is_none_or(|judged| judged.reason != reason);
        self.kinds[kind as usize].reason = Some(Judged { reason, revision, at: now });
        other
    }
}

/// Why no device takes a kind, of what its class was at a revision.
pub(super) struct Judged {
    reason: Reason,
    revision: u64,
    at: Timestamp,
}
