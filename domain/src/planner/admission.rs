//! Admission: who goes next by quota, and where it is placed. What quota admits
//! but no device takes gives its quota back at once, so that quota is held only
//! by what runs.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::candidates::Fleet;
use super::quota;
use super::reasons::{self, Reason};
use super::{Closed, Decision, Hold, LivePlacement, Snapshot, TenantBounds};
use crate::accelerators::ResourceRequest;
use crate::quotas::{self, Admissions, HoldingStanding, Rule, Standing, Waiting};
use crate::workloads::{PlacementState, Workload};
use crate::{TenantId, Timestamp, WorkerId, WorkloadId};

/// Decisions on quota that are asked for at once. One, so that trees which
/// share devices take turns.
const AT_ONCE: usize = 1;

static ANYTHING: TenantBounds = TenantBounds { closed: None, zones: Vec::new() };

/// Admits and places what waits, makes room where that is allowed, and says of
/// the rest why it waits.
pub(super) fn admit<'a>(
    snapshot: &'a Snapshot,
    now: Timestamp,
    lost: &BTreeSet<WorkerId>,
    waiting: &BTreeSet<WorkloadId>,
    fleet: &mut Fleet<'a>,
    decisions: &mut Vec<Decision>,
) {
    let placed = snapshot.placements.values().filter(|p| !lost.contains(&p.worker_id));
    let mut admission = Admission {
        snapshot,
        now,
        fleet,
        decisions,
        admissions: quota::admissions(snapshot),
        waiting: waiting.iter().filter_map(|id| Some((*id, snapshot.workloads.get(id)?))).collect(),
        placed: placed.map(|p| (p.workload_id, p)).collect(),
        fresh: BTreeMap::new(),
        refused: BTreeSet::new(),
        without_device: BTreeSet::new(),
    };
    admission.line_up();
    loop {
        let round = admission.admissions.cycle(now, AT_ONCE);
        if round.is_empty() {
            break;
        }
        admission.carry_out(round);
    }
    admission.explain();
}

/// A request and where it may go, as a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'a>(&'a str, u64, u32, &'a [String]);

impl<'a> Shape<'a> {
    fn of(request: &'a ResourceRequest, bounds: &'a TenantBounds) -> Self {
        Self(&request.class, request.memory_bytes, request.milli, &bounds.zones)
    }
}

struct Admission<'a, 'b> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    fleet: &'b mut Fleet<'a>,
    decisions: &'b mut Vec<Decision>,
    admissions: Admissions,
    /// What waits and is not placed in this plan.
    waiting: BTreeMap<WorkloadId, &'a Workload>,
    /// Live placements, by their workload.
    placed: BTreeMap<WorkloadId, &'a LivePlacement>,
    /// What this plan places.
    fresh: BTreeMap<WorkloadId, &'a Workload>,
    /// Shapes that no device takes. Room only shrinks in a plan, so what found
    /// none once finds none again.
    refused: BTreeSet<Shape<'a>>,
    /// Quota admits them, but no device takes them.
    without_device: BTreeSet<WorkloadId>,
}

/// A victim and the rule by which it is one.
type Victim = (WorkloadId, Rule);

impl<'a> Admission<'a, '_> {
    fn bounds(&self, tenant: TenantId) -> &'a TenantBounds {
        self.snapshot.tenants.get(&tenant).unwrap_or(&ANYTHING)
    }

    /// Tells the quota planner who holds what, and who waits. It refuses only
    /// what the database does not let be, such as a second placement of one
    /// workload.
    fn line_up(&mut self) {
        for placement in self.placed.values() {
            let wanted = self.snapshot.workloads.contains_key(&placement.workload_id)
                && !self.fleet.is_forgotten(placement.workload_id);
            let stays = wanted && placement.state != PlacementState::Draining;
            let standing = if stays { HoldingStanding::Admitted } else { HoldingStanding::Leaving(None) };
            let _ = self.admissions.restore(quota::holding(self.snapshot, placement, standing));
        }
        let open = self.waiting.values().filter(|w| self.bounds(w.tenant_id).closed.is_none());
        let mut open: Vec<&Workload> = open.copied().collect();
        open.sort_by_key(|w| (w.promised_at.is_none(), w.promised_at, w.id));
        for workload in open {
            let _ = match workload.promised_at {
                Some(since) => {
                    let promised = HoldingStanding::Promised;
                    self.admissions.restore(quota::held_by(self.snapshot, workload, since, promised))
                }
                None => self.admissions.enqueue(quota::ask_of(self.snapshot, workload)),
            };
        }
    }

    /// Whether somebody is leaving, so that room is still being made.
    fn anybody_leaves(&self) -> bool {
        self.placed.values().any(|p| p.state == PlacementState::Draining)
            || self.decisions.iter().any(|d| matches!(d, Decision::Evict { .. } | Decision::Drain { .. }))
    }

    /// Does what quota decided. Victims are named before the one they are for.
    fn carry_out(&mut self, round: Vec<quotas::Decision>) {
        let mut victims: Vec<Victim> = Vec::new();
        for decision in round {
            match decision {
                quotas::Decision::Evict { workload, rule, .. } => victims.push((workload, rule)),
                quotas::Decision::Admit { workload, .. } => {
                    let victims = std::mem::take(&mut victims);
                    if self.place(workload) {
                        self.evict(workload, &victims);
                    } else {
                        self.take_back(workload, &victims);
                    }
                }
                quotas::Decision::Promise { workload, .. } => {
                    let victims = std::mem::take(&mut victims);
                    if victims.is_empty() || self.would_fit(workload, &victims) {
                        self.evict(workload, &victims);
                    } else {
                        self.take_back(workload, &victims);
                    }
                }
                // It waits where it was.
                quotas::Decision::Recall { .. } => {}
            }
        }
    }

    /// Places a workload that quota admitted; whether a device took it.
    fn place(&mut self, id: WorkloadId) -> bool {
        let Some(&workload) = self.waiting.get(&id) else { return false };
        let bounds = self.bounds(workload.tenant_id);
        let shape = Shape::of(&workload.resources, bounds);
        if self.refused.contains(&shape) {
            return false;
        }
        let Some(choice) = self.fleet.choose(workload, &bounds.zones) else {
            self.refused.insert(shape);
            return false;
        };
        self.fleet.take(workload, &choice);
        self.waiting.remove(&id);
        self.fresh.insert(id, workload);
        self.decisions.push(Decision::Place {
            workload: id,
            generation: workload.generation,
            worker: choice.worker,
            holds: vec![Hold {
                device_id: choice.device,
                memory_bytes: workload.resources.memory_bytes,
                milli: workload.resources.milli,
            }],
            considered: choice.considered,
        });
        true
    }

    /// Whether a device would take a workload once its victims, and all who
    /// are leaving already, have left: nobody is made to leave in vain.
    fn would_fit(&mut self, id: WorkloadId, victims: &[Victim]) -> bool {
        let Some(&workload) = self.waiting.get(&id) else { return false };
        let leaving = self.placed.values().filter(|p| p.state == PlacementState::Draining).copied();
        let victims = victims.iter().filter_map(|(id, _)| self.placed.get(id).copied());
        let parting: Vec<&LivePlacement> = leaving.chain(victims).collect();
        parting.iter().for_each(|placement| self.fleet.free(placement));
        let fits = self.fleet.choose(workload, &self.bounds(workload.tenant_id).zones).is_some();
        parting.iter().for_each(|placement| self.fleet.occupy(placement));
        fits
    }

    /// What this plan places itself is made to leave by the next, if it still
    /// must.
    fn evict(&mut self, preemptor: WorkloadId, victims: &[Victim]) {
        for (victim, rule) in victims {
            let Some(placement) = self.placed.get(victim) else { continue };
            self.fleet.part(placement);
            self.decisions.push(Decision::Evict {
                placement: placement.id,
                generation: placement.generation,
                preemptor,
                rule: *rule,
            });
        }
    }

    /// No device takes the workload: its quota is for others, and nobody leaves.
    fn take_back(&mut self, id: WorkloadId, victims: &[Victim]) {
        self.admissions.release(id, &[], self.now);
        self.without_device.insert(id);
        for (victim, _) in victims {
            self.admissions.release(*victim, &[], self.now);
            let holding = match (self.placed.get(victim), self.fresh.get(victim)) {
                (Some(placement), _) => quota::holding(self.snapshot, placement, HoldingStanding::Admitted),
                (None, Some(workload)) => {
                    quota::held_by(self.snapshot, workload, self.now, HoldingStanding::Admitted)
                }
                (None, None) => continue,
            };
            let _ = self.admissions.restore(holding);
        }
    }

    /// Says of all that waits why, of the fleet as it is after this plan, so
    /// that planning again finds the same reasons.
    fn explain(&mut self) {
        let anybody_leaves = self.anybody_leaves();
        let mut devices: BTreeMap<Shape<'a>, Reason> = BTreeMap::new();
        let mut queues: BTreeMap<TenantId, BTreeMap<WorkloadId, Waiting>> = BTreeMap::new();
        for (id, workload) in std::mem::take(&mut self.waiting) {
            let bounds = self.bounds(workload.tenant_id);
            let mut promised = false;
            let reason = if let Some(closed) = bounds.closed {
                Reason { level: None, text: Closed::reason(closed).to_owned() }
            } else if self.without_device.contains(&id) {
                match devices.entry(Shape::of(&workload.resources, bounds)) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new
                        .insert(reasons::of_devices(self.fleet, &workload.resources, &bounds.zones))
                        .clone(),
                }
            } else if self.admissions.standing(id) == Some(Standing::Promised) {
                // Where nobody leaves any more, the room was lost to a change
                // of quotas: the next plan looks anew.
                promised = anybody_leaves;
                reasons::promised()
            } else {
                let queue = queues
                    .entry(workload.tenant_id)
                    .or_insert_with(|| self.admissions.waiting(workload.tenant_id).into_iter().collect());
                let why = queue.get(&id).and_then(|waiting| waiting.why.as_ref());
                reasons::of_quota(why, &workload.resources)
            };
            let known = (workload.reason.as_deref(), workload.promised_at.is_some());
            if known != (Some(&*reason.text), promised) {
                self.decisions.push(Decision::Wait {
                    workload: id,
                    generation: workload.generation,
                    level: reason.level,
                    reason: reason.text,
                    promised,
                });
            }
        }
    }
}
