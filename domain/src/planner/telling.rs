//! Why what waits does: told once, and again when the reason is another.

use std::time::Duration;

use super::board::Standing;
use super::reasons::{self, Reason};
use super::{Decision, PassedOver, Planner};
use crate::quotas::{Level, Obstacle};
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
        for kind in self.refused.iter().copied().collect::<Vec<_>>() {
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
        let kind = &self.kinds[known.kind as usize].kind;
        let promised = (known.standing == Standing::Promised)
            .then(|| kind.classes[self.admissions.granted_option(id).unwrap_or(0)].clone());
        let reason = match known.standing {
            Standing::Promised => reasons::promised(),
            Standing::Waits => self.reason(id, known.kind, now)?,
            Standing::Placed(_) | Standing::Leaves(_) => return None,
        };
        let workload = self.facts.workloads.get_mut(&id)?;
        if (workload.reason.as_ref(), &workload.promised_class) == (Some(&reason.text), &promised)
            && workload.promised_at.is_some() == promised.is_some()
        {
            return None;
        }
        workload.reason = Some(reason.text.clone());
        workload.promised_at = promised.as_ref().map(|_| workload.promised_at.unwrap_or(now));
        workload.promised_class.clone_from(&promised);
        let generation = workload.generation;
        Some(Decision::Wait { workload: id, generation, level: reason.level, reason: reason.text, promised })
    }

    fn reason(&mut self, id: WorkloadId, kind: u32, now: Timestamp) -> Option<Reason> {
        Some(match self.admissions.obstacle(id)? {
            // It is the tenant that may not, whatever it asks for.
            Obstacle::Hold(hold) => Reason { level: None, text: hold.detail.clone() },
            Obstacle::Quota(why) => {
                let why = why.clone();
                let state = &self.kinds[kind as usize];
                let everywhere = state.is_refused_everywhere();
                let open = (0..state.kind.classes.len()).filter(|n| everywhere || !state.is_refused(*n));
                let open: Vec<&str> = open.map(|option| &*state.kind.classes[option]).collect();
                let quota = match why.level {
                    Level::Budget => self.of_budget(id, &why, now),
                    _ => reasons::of_quota(Some(&why), &open),
                };
                self.judge_devices(kind, now);
                let refused = self.refusals(kind);
                if everywhere { quota } else { reasons::all_of(refused.into_iter().chain([quota])) }
            }
            Obstacle::Others => reasons::of_quota(None, &[]),
            // No device takes it, or would when those left that it may make leave.
            Obstacle::Aside => {
                for option in 0..self.kinds[kind as usize].kind.classes.len() {
                    self.judge_class(kind, option, now);
                }
                let judged = self.kinds[kind as usize].reasons.iter().flatten();
                reasons::all_of(judged.map(|judged| judged.reason.clone()))
            }
        })
    }

    /// Why no device takes a kind, by class that it is so of.
    fn refusals(&self, kind: u32) -> Vec<Reason> {
        let state = &self.kinds[kind as usize];
        let judged = state.reasons.iter().enumerate().filter(|(option, _)| state.is_refused(*option));
        judged.filter_map(|(_, judged)| Some(judged.as_ref()?.reason.clone())).collect()
    }

    /// Why a workload is not on a class that it would rather be on than the one
    /// it was admitted in.
    pub(super) fn passed_over(&mut self, kind: u32, option: usize, now: Timestamp) -> Vec<PassedOver> {
        if option == 0 {
            return Vec::new();
        }
        self.judge_devices(kind, now);
        let state = &self.kinds[kind as usize];
        let why = |before: usize| {
            let judged = state.reasons[before].as_ref().filter(|_| state.is_refused(before));
            let class = state.kind.classes[before].clone();
            let why = judged.map_or_else(|| reasons::passed_by_quota(&class), |j| j.reason.text.clone());
            PassedOver { class, why }
        };
        (0..option).map(why).collect()
    }

    /// Finds out why devices do not take this kind, where that is due; whether a
    /// reason is another than before.
    fn judge_devices(&mut self, kind: u32, now: Timestamp) -> bool {
        let mut other = false;
        for option in 0..self.kinds[kind as usize].kind.classes.len() {
            other |= self.kinds[kind as usize].is_refused(option) && self.judge_class(kind, option, now);
        }
        other
    }

    fn judge_class(&mut self, kind: u32, option: usize, now: Timestamp) -> bool {
        let state = &self.kinds[kind as usize];
        let class = &state.kind.classes[option];
        let revision = self.devices.revision(class);
        let due = state.reasons[option].as_ref().is_none_or(|judged| {
            judged.revision != revision && (now < judged.at || now.since(judged.at) >= DEVICES_EVERY)
        });
        if !due {
            return false;
        }
        let anybody = !self.facts.workers.is_empty();
        let slots = self.devices.of_class(&self.facts, class);
        let reason = reasons::of_devices(anybody, &slots, &state.kind.request(option), &state.kind.ask);
        let other = state.reasons[option].as_ref().is_none_or(|judged| judged.reason != reason);
        self.kinds[kind as usize].reasons[option] = Some(Judged { reason, revision, at: now });
        other
    }
}

/// Why no device takes a kind, of what its class was at a revision.
pub(super) struct Judged {
    reason: Reason,
    revision: u64,
    at: Timestamp,
}
