//! Admission: who goes next by quota, and where it is placed. What quota admits
//! but no device takes gives its quota back at once, so that quota is held only
//! by what runs.

use std::collections::BTreeMap;

use super::board::{KindState, Known, Seat, Standing};
use super::{Decision, Planner, failing, quota};
use crate::quotas::{self, HoldingStanding, Rule};
use crate::workloads::PlacementState;
use crate::{Timestamp, WorkloadId};

/// Most decisions on quota that are asked for at once. It begins with one and
/// doubles while devices take what quota admits: trees that share devices take
/// turns where those are short.
const MOST_AT_ONCE: usize = 64;

/// How often in one plan those are looked at again that no device takes. What
/// they take from each other's promises in vain could go round for ever; when
/// something truly changes they are looked at anyway.
const MOST_TURNS: usize = 8;

/// Rounds in which nothing was decided before a plan leaves the rest to the next;
/// and four more for each workload that is known.
const LEAST_PATIENCE: usize = 1024;

/// A victim and the rule by which it is one.
type Victim = (WorkloadId, Rule);

impl Planner {
    /// Admits and places what waits, and makes room where that is allowed.
    pub(super) fn admit(&mut self, now: Timestamp, most: usize, decisions: &mut Vec<Decision>) {
        let most = decisions.len().saturating_add(most);
        self.recalled_in_vain.clear();
        self.bring_back();
        while let Some(id) = self.admissions.promised_beyond_budget() {
            self.wait_again(id, now);
        }
        for id in self.promised_nowhere() {
            self.wait_again(id, now);
        }
        self.look_at_devices();
        self.run_cycles(now, most, decisions);
        for _ in 0..MOST_TURNS {
            if !std::mem::take(&mut self.crowded) || !self.admissions.bring_back_crowded_out() {
                break;
            }
            self.run_cycles(now, most, decisions);
        }
        self.crowded = false;
        if !self.admissions.is_settled() {
            return;
        }
        let in_vain = self.admissions.promised_in_vain();
        if !in_vain.is_empty() {
            in_vain.into_iter().for_each(|id| self.wait_again(id, now));
            self.run_cycles(now, most, decisions);
        }
    }

    /// What no device took is tried again where that may help.
    fn bring_back(&mut self) {
        let freed = self.devices.take_freed();
        if freed.is_empty() {
            return;
        }
        self.admissions.bring_lanes_back();
        for id in self.refused.iter().copied().collect::<Vec<_>>() {
            let state = &mut self.kinds[id as usize];
            let before = state.refused;
            for option in 0..state.kind.classes.len() {
                let freed = state.is_refused(option) && freed.contains(&state.kind.classes[option]);
                if freed && self.devices.fits(&state.kind, option) {
                    state.refused &= !(1 << option);
                }
            }
            if state.refused != before {
                self.tell_refused(id);
            }
        }
    }

    /// Tells quota in which classes each kind that waits could be had now. Returns
    /// whether they are others than before.
    fn look_at_devices(&mut self) -> bool {
        let mut any = false;
        for id in self.admissions.waiting_kinds() {
            let KindState { kind, looked, .. } = &mut self.kinds[id as usize];
            let revisions = kind.classes.iter().map(|class| self.devices.revision(class));
            if looked.iter().copied().eq(revisions.clone()) {
                continue;
            }
            *looked = revisions.collect();
            let takes = |option| u16::from(self.devices.fits(kind, option)) << option;
            let options = (0..kind.classes.len()).map(takes).fold(0, |all, option| all | option);
            any |= self.admissions.tell_takers(id, options);
        }
        any
    }

    /// No device takes a kind in one of its classes.
    fn refuse(&mut self, id: u32, option: usize) {
        self.kinds[id as usize].refused |= 1 << option;
        self.tell_refused(id);
    }

    /// Quota passes over classes of which no device takes a kind, and sets the
    /// kind aside where that is all of them.
    fn tell_refused(&mut self, id: u32) {
        let state = &self.kinds[id as usize];
        if state.is_refused_everywhere() {
            self.admissions.set_aside(id);
        } else {
            self.admissions.pass_over(id, state.refused);
        }
        if state.refused == 0 {
            self.refused.remove(&id);
        } else {
            self.refused.insert(id);
        }
    }

    fn run_cycles(&mut self, now: Timestamp, most: usize, decisions: &mut Vec<Decision>) {
        let mut at_once = 1;
        let (mut decided, mut in_vain) = (decisions.len(), 0);
        // A plan ends, whatever quota and devices make of each other; what is left
        // is for the next, which knows more.
        let patience = LEAST_PATIENCE + 4 * self.known.len();
        while decisions.len() < most && in_vain < patience {
            let round = self.admissions.cycle(now, at_once);
            if round.is_empty() {
                if self.look_at_devices() {
                    continue;
                }
                return;
            }
            in_vain = if decisions.len() > decided { 0 } else { in_vain + 1 };
            decided = decisions.len();
            assert!(!cfg!(test) || in_vain < LEAST_PATIENCE, "a plan goes round in circles: {round:?}");
            let all_taken = self.carry_out(round, now, decisions);
            at_once = if all_taken { MOST_AT_ONCE.min(2 * at_once) } else { 1 };
        }
    }

    /// Does what quota decided; whether devices took it all. Victims are named
    /// before the one they are for.
    fn carry_out(
        &mut self,
        round: Vec<quotas::Decision>,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let (mut victims, mut recalled): (Vec<Victim>, Vec<WorkloadId>) = (Vec::new(), Vec::new());
        let mut all_taken = true;
        for decision in round {
            match decision {
                quotas::Decision::Evict { workload, rule, .. } => victims.push((workload, rule)),
                quotas::Decision::Admit { workload, option, .. } => {
                    let (victims, recalled) = (std::mem::take(&mut victims), std::mem::take(&mut recalled));
                    if self.place(workload, option, now, decisions) {
                        self.evict(workload, &victims, decisions);
                    } else if victims.is_empty() && self.waits_for_leaving(workload, option) {
                        all_taken = false;
                        self.promise_again(workload, option, now);
                    } else {
                        all_taken = false;
                        self.take_back(workload, option, false, &victims, recalled, now);
                    }
                }
                quotas::Decision::Promise { workload, option, .. } => {
                    let (victims, recalled) = (std::mem::take(&mut victims), std::mem::take(&mut recalled));
                    if self.would_fit(workload, option, &victims) {
                        self.evict(workload, &victims, decisions);
                        self.promise(workload);
                    } else {
                        all_taken = false;
                        self.take_back(workload, option, true, &victims, recalled, now);
                    }
                }
                // It waits where it was.
                quotas::Decision::Recall { workload, .. } => {
                    self.not_promised(workload);
                    recalled.push(workload);
                }
            }
        }
        all_taken
    }

    /// Places a workload that quota admitted in one of its classes; whether a
    /// device took it.
    fn place(
        &mut self,
        id: WorkloadId,
        option: usize,
        now: Timestamp,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let Some(known) = self.known.get(&id).cloned() else { return false };
        let state = &self.kinds[known.kind as usize];
        if state.is_refused(option) {
            return false;
        }
        let failed = failing::avoided(self.facts.workloads.get(&id), now);
        let Some(choice) = self.devices.choose(&state.kind, option, (known.owner, known.version), failed)
        else {
            return false;
        };
        let class = state.kind.classes[option].clone();
        let passed_over = self.passed_over(known.kind, option, now);
        let Some(workload) = self.facts.workloads.get_mut(&id) else { return false };
        (workload.promised_at, workload.promised_class) = (None, None);
        let generation = workload.generation;
        let seat = Seat { worker: choice.worker, class: class.clone(), holds: choice.holds.clone() };
        self.expected.insert(id, (generation, seat.clone()));
        self.untold.remove(&id);
        self.urgent.remove(&id);
        self.sit_down(id, Known { standing: Standing::Placed(seat), ..known });
        decisions.push(Decision::Place {
            workload: id,
            generation,
            worker: choice.worker,
            class,
            passed_over,
            holds: choice.holds,
            considered: choice.considered,
            cost: choice.cost,
        });
        true
    }

    /// Whether a device would take a workload in one of its classes once its
    /// victims, and all who are leaving already, have left: nobody is made to
    /// leave in vain.
    fn would_fit(&mut self, id: WorkloadId, option: usize, victims: &[Victim]) -> bool {
        let Some(known) = self.known.get(&id) else { return false };
        let kind = &self.kinds[known.kind as usize].kind;
        let leaving = self.leaving.iter().chain(victims.iter().map(|(victim, _)| victim));
        let of_class = |id: &WorkloadId| {
            let seat = self.known.get(id)?.standing.seat()?;
            (seat.class == kind.classes[option]).then(|| seat.clone())
        };
        let seats: Vec<Seat> = leaving.filter_map(of_class).collect();
        self.devices.would_fit(kind, option, &seats)
    }

    /// Whether a workload that was promised room gets it when those have left that
    /// are leaving: quota is free before the last device is.
    fn waits_for_leaving(&mut self, id: WorkloadId, option: usize) -> bool {
        let promised = self.known.get(&id).is_some_and(|known| known.standing == Standing::Promised);
        promised && self.would_fit(id, option, &[])
    }

    /// Those promised room that no device would have even when all have left that are
    /// leaving, as when workers are lost: their quota is for others.
    fn promised_nowhere(&mut self) -> Vec<WorkloadId> {
        let promised: Vec<_> = self.admissions.promised().collect();
        let mut kept = BTreeMap::new();
        let mut nowhere = Vec::new();
        for (id, kind, option) in promised {
            if !*kept.entry((kind, option)).or_insert_with(|| self.would_fit(id, option, &[])) {
                nowhere.push(id);
            }
        }
        nowhere
    }

    /// Makes victims leave. What is placed already is told at once; what this
    /// plan places itself, as soon as it is known to be placed.
    fn evict(&mut self, preemptor: WorkloadId, victims: &[Victim], decisions: &mut Vec<Decision>) {
        for (victim, rule) in victims {
            let Some(known) = self.known.get_mut(victim) else { continue };
            let Standing::Placed(seat) = known.standing.clone() else { continue };
            self.devices.part(seat.worker, known.owner, known.version);
            known.standing = Standing::Leaves(seat);
            self.leaving.insert(*victim);
            self.crowded = true;
            let placement = self.placed.get(victim).and_then(|id| self.facts.placements.get_mut(id));
            if let Some(placement) = placement {
                placement.state = PlacementState::Draining;
                let (placement, generation) = (placement.id, placement.generation);
                decisions.push(Decision::Evict { placement, generation, preemptor, rule: *rule });
            } else {
                self.evicting.insert(*victim, (preemptor, *rule));
            }
        }
    }

    fn promise(&mut self, id: WorkloadId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.standing = Standing::Promised;
            self.crowded |= !self.recalled_in_vain.contains(&id);
            self.urgent.insert(id);
        }
    }

    /// What quota admitted and no device takes yet goes on waiting for its room.
    /// Given back, its quota would be taken by those that were told to leave for it.
    fn promise_again(&mut self, id: WorkloadId, option: usize, now: Timestamp) {
        let Some(ask) = self.admissions.ask(id).cloned() else { return };
        let kind = ask.kind;
        self.admissions.release(id, &[], now);
        let since = self.facts.workloads.get(&id).and_then(|w| w.promised_at).unwrap_or(now);
        let _ = self.admissions.restore(quota::held(ask, option, since, HoldingStanding::Promised));
        self.refuse(kind, option);
    }

    fn not_promised(&mut self, id: WorkloadId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.standing = Standing::Waits;
            self.urgent.insert(id);
        }
    }

    /// What was granted goes back in its queue.
    fn wait_again(&mut self, id: WorkloadId, now: Timestamp) {
        let Some(ask) = self.admissions.ask(id).cloned() else { return };
        self.admissions.release(id, &[], now);
        let _ = self.admissions.enqueue(ask);
        self.not_promised(id);
    }

    /// No device takes the workload, now or (`promised`) when those have left that
    /// are to leave: its quota is for others, and nobody leaves.
    fn take_back(
        &mut self,
        id: WorkloadId,
        option: usize,
        promised: bool,
        victims: &[Victim],
        recalled: Vec<WorkloadId>,
        now: Timestamp,
    ) {
        let costs = !victims.is_empty() || !recalled.is_empty();
        self.recalled_in_vain.extend(recalled);
        self.wait_again(id, now);
        let Some(kind) = self.known.get(&id).map(|known| known.kind) else { return };
        let state = &self.kinds[kind as usize];
        let news = !state.is_refused(option) || state.is_refused_everywhere();
        if victims.is_empty() && news {
            self.refuse(kind, option);
        }
        // Where it is not set aside with its kind, since others would leave for it,
        // give a promise up, or are leaving, it is by itself.
        if costs || !news || promised && self.kinds[kind as usize].is_refused_everywhere() {
            self.admissions.set_lane_aside(id);
        }
        for (victim, _) in victims {
            // One that was admitted in the same round may have found no device.
            let stays = self.known.get(victim).is_some_and(|k| matches!(k.standing, Standing::Placed(_)));
            let Some(ask) = self.admissions.ask(*victim).filter(|_| stays).cloned() else { continue };
            let Some(known) = self.known.get(victim) else { continue };
            let option = known.standing.seat().map_or(0, |seat| self.option(known.kind, seat));
            self.admissions.release(*victim, &[], now);
            let since = self.placed_at(*victim, now);
            let _ = self.admissions.restore(quota::held(ask, option, since, HoldingStanding::Admitted));
        }
    }
}
