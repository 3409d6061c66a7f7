//! Random fleets and random calls: two fleets that were filled in opposite
//! orders must do what the model does, and the same as each other.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::model::{Model, rejection, within};
use super::{GIB, id};
use crate::placing::{Ask, Choice, Demand, Device, Fleet, Hold, Needs, Preferences, Weights, Worker};
use crate::{WorkerId, placing::Score};

#[derive(Clone, Debug)]
enum Call {
    Put(WorkerId, Worker),
    Remove(WorkerId),
    Cordon(WorkerId, bool),
    /// As often as this.
    Observe(Needs, u32),
    /// Choose, and hold what is chosen.
    Choose(Ask, Preferences),
    /// Hold whatever this names.
    Hold(Needs, Hold),
    /// One of the holds, and whether it stays in the list, to be released again.
    Release(prop::sample::Index, bool),
}

struct Run {
    model: Model,
    fleets: [Fleet; 2],
    holds: Vec<(Needs, Hold)>,
}

impl Run {
    fn new(workers: &[(WorkerId, Worker)]) -> Self {
        let mut model = Model::default();
        let mut fleets = [(); 2].map(|()| Fleet::new(Weights::default(), Demand::new()));
        for (id, worker) in workers {
            model.workers.insert(*id, worker.clone());
        }
        let mut distinct: Vec<_> = model.workers.clone().into_iter().collect();
        for fleet in &mut fleets {
            for (id, worker) in &distinct {
                fleet.put(*id, worker.clone()).unwrap();
            }
            distinct.reverse();
        }
        Self { model, fleets, holds: Vec::new() }
    }

    fn make(&mut self, call: &Call) -> Result<(), TestCaseError> {
        match call {
            Call::Put(id, worker) => {
                self.model.workers.insert(*id, worker.clone());
                self.both(|fleet| fleet.put(*id, worker.clone()).unwrap());
            }
            Call::Remove(id) => {
                let known = self.model.workers.remove(id).is_some();
                self.both(|fleet| assert_eq!(fleet.remove(*id), known));
            }
            Call::Cordon(id, cordoned) => {
                let known = self.model.workers.get_mut(id).map(|worker| worker.cordoned = *cordoned);
                self.both(|fleet| assert_eq!(fleet.cordon(*id, *cordoned).is_ok(), known.is_some()));
            }
            Call::Observe(needs, times) => {
                self.both(|fleet| (0..*times).for_each(|_| fleet.observe(needs)));
            }
            Call::Choose(ask, preferences) => self.choose(ask, preferences)?,
            Call::Hold(needs, hold) => self.hold(needs, hold),
            Call::Release(_, _) if self.holds.is_empty() => {}
            Call::Release(index, again) => {
                let index = index.index(self.holds.len());
                let (needs, hold) = self.holds[index].clone();
                let released = self.model.release(&needs, &hold);
                self.both(|fleet| assert_eq!(fleet.release(&needs, &hold).is_ok(), released));
                if !again {
                    self.holds.swap_remove(index);
                }
            }
        }
        for fleet in &self.fleets {
            let known: Vec<_> = fleet.workers().map(|(id, worker)| (id, worker.clone())).collect();
            let expected: Vec<_> = self.model.workers.clone().into_iter().collect();
            prop_assert_eq!(known, expected);
        }
        prop_assert!(self.model.workers.values().all(within));
        Ok(())
    }

    fn both(&mut self, act: impl FnMut(&mut Fleet)) {
        self.fleets.iter_mut().for_each(act);
    }

    fn hold(&mut self, needs: &Needs, hold: &Hold) {
        let placed = self.model.place(needs, hold);
        self.both(|fleet| assert_eq!(fleet.place(needs, hold).is_ok(), placed));
        if placed {
            self.holds.push((needs.clone(), hold.clone()));
        }
    }

    fn choose(&mut self, ask: &Ask, preferences: &Preferences) -> Result<(), TestCaseError> {
        let [first, second] = &mut self.fleets;
        let chosen = first.choose(ask, preferences);
        prop_assert_eq!(&chosen, &second.choose(ask, preferences));
        let expected = self.model.considered(ask);
        let choice = match chosen {
            Ok(choice) => choice,
            Err(considered) => {
                prop_assert_eq!(considered, expected);
                prop_assert_eq!(expected.fitting, 0);
                return Ok(());
            }
        };
        prop_assert_eq!(choice.considered, expected);
        prop_assert_eq!(rejection(&self.model.workers[&choice.hold.worker], ask), None);
        let rank = self.model.rank(choice.hold.worker, preferences);
        for (id, _) in self.model.fitting(ask) {
            prop_assert!(rank <= self.model.rank(id, preferences), "{:?} is preferred", id);
        }
        self.is_cheapest(ask, &choice, preferences)?;
        let held = self.holds.len();
        self.hold(&ask.needs, &choice.hold);
        prop_assert!(self.holds.len() > held, "what was chosen cannot be held");
        Ok(())
    }

    /// The score is that of the hold, and no other place is better: by step,
    /// then by how full the worker is.
    fn is_cheapest(
        &mut self,
        ask: &Ask,
        choice: &Choice,
        preferences: &Preferences,
    ) -> Result<(), TestCaseError> {
        let fleet = &mut self.fleets[0];
        let told = fleet.score(&ask.needs, &choice.hold);
        prop_assert!(told.is_some_and(|told| alike(&told, &choice.score)), "{:?} for {:?}", told, choice);
        if ask.needs.devices > 1 || !preferences.warm.is_empty() {
            return Ok(());
        }
        let free = |worker: &Worker| worker.devices.iter().map(|d| d.free_milli).sum::<u32>();
        let rank = self.model.rank(choice.hold.worker, preferences);
        let best = (choice.score.step, free(&self.model.workers[&choice.hold.worker]));
        for (id, worker) in
            self.model.fitting(ask).filter(|(id, _)| self.model.rank(*id, preferences) == rank)
        {
            for ordinal in 0..u32::try_from(worker.devices.len()).unwrap().max(1) {
                let devices = if ask.needs.devices == 0 { Vec::new() } else { vec![ordinal] };
                if let Some(score) = fleet.score(&ask.needs, &Hold { worker: id, devices }) {
                    // The same cost may be rounded to the step beside.
                    let beside = score.step != best.0 && alike(&score, &choice.score);
                    prop_assert!(
                        beside || best <= (score.step, free(worker)),
                        "{:?} costs {:?} on {:?}",
                        id,
                        score,
                        ordinal
                    );
                }
            }
        }
        Ok(())
    }
}

fn alike(a: &Score, b: &Score) -> bool {
    a.opens == b.opens && (a.cost - b.cost).abs() < 1e-9 && (a.step - b.step).abs() <= 1
}

fn ids() -> impl Strategy<Value = WorkerId> {
    (1..=9u128).prop_map(id)
}

fn names(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(names).prop_map(str::to_owned)
}

fn lists(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(Vec::new()), 1 => btree_set(names(all), 1..=2).prop_map(|set| set.into_iter().collect())]
}

fn devices() -> impl Strategy<Value = Device> {
    let sizes = (select(vec![0, 16, 24u64]), 0..=4u32, 0..=4u64);
    sizes.prop_map(|(gib, quarters, parts)| Device {
        // Most are free: 0 is simplest.
        free_milli: 1000 - quarters * 250,
        milli: 1000,
        free_memory_bytes: (gib - gib / 4 * parts) * GIB,
        memory_bytes: gib * GIB,
    })
}

fn workers() -> impl Strategy<Value = Worker> {
    let place = (names(&["a", "b"]), names(&["x", "y"]), names(&["p", "q"]), names(&["r", "s", "t"]));
    let rest = (0..=2u32, prop::bool::weighted(0.1), prop::bool::weighted(0.3));
    let size = (0..=16u64, 0..=16u64, 0..=4u64, 0..=4u64);
    (place, rest, size, vec(devices(), 0..=5)).prop_map(|(place, rest, size, devices)| {
        let (class, zone, pool, domain) = place;
        let (clearance, cordoned, pairs) = rest;
        let (cpu, gib, cpu_held, gib_held) = size;
        Worker {
            class,
            zone,
            pool,
            domain,
            clearance,
            cordoned,
            pairs,
            free_cpu_milli: cpu * 1_000,
            cpu_milli: (cpu + cpu_held) * 1_000,
            free_host_memory_bytes: gib * GIB,
            host_memory_bytes: (gib + gib_held) * GIB,
            devices,
        }
    })
}

fn needs() -> impl Strategy<Value = Needs> {
    let size = (select(vec![1, 1, 1, 0, 2, 4]), select(vec![1000, 1000, 500, 250, 330, 810]));
    let rest = (select(vec![0, 0, 8, 20u64]), 0..=6u64, 0..=6u64, lists(&["a", "b"]));
    (size, rest).prop_map(|((devices, milli), (gib, cpu, host, classes))| Needs {
        devices,
        milli: if devices == 0 { 0 } else { milli },
        memory_bytes: if devices == 0 { 0 } else { gib * GIB },
        cpu_milli: cpu * 500,
        host_memory_bytes: host * GIB,
        classes,
    })
}

fn asks() -> impl Strategy<Value = Ask> {
    let clearance = prop_oneof![4 => Just(0), 1 => 1..=2u32];
    let parts = (needs(), lists(&["x", "y"]), lists(&["p", "q"]), clearance);
    parts.prop_map(|(needs, zones, pools, clearance)| Ask { needs, zones, pools, clearance })
}

fn preferences() -> impl Strategy<Value = Preferences> {
    let some = (
        btree_map(names(&["r", "s", "t"]), 0..=2u32, 0..=3),
        btree_set(ids(), 0..=3),
        btree_set(ids(), 0..=3),
    );
    let some = some.prop_map(|(siblings, warm, failed)| Preferences { siblings, warm, failed });
    prop_oneof![2 => Just(Preferences::default()), 1 => some]
}

fn calls() -> impl Strategy<Value = Call> {
    let hold = (ids(), vec(0..=5u32, 0..=4)).prop_map(|(worker, devices)| Hold { worker, devices });
    prop_oneof![
        8 => (asks(), preferences()).prop_map(|(ask, preferences)| Call::Choose(ask, preferences)),
        4 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2)).prop_map(|(i, again)| Call::Release(i, again)),
        2 => (needs(), hold).prop_map(|(needs, hold)| Call::Hold(needs, hold)),
        2 => (needs(), 1..=40u32).prop_map(|(needs, times)| Call::Observe(needs, times)),
        1 => (ids(), workers()).prop_map(|(id, worker)| Call::Put(id, worker)),
        1 => ids().prop_map(Call::Remove),
        1 => (ids(), any::<bool>()).prop_map(|(id, cordoned)| Call::Cordon(id, cordoned)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fleet_does_what_the_model_does(
        workers in vec((ids(), workers()), 0..=9),
        calls in vec(calls(), 1..=40),
    ) {
        let mut run = Run::new(&workers);
        for call in &calls {
            run.make(call)?;
        }
    }
}

/// More kinds of request, states of workers and events than are remembered.
#[test]
fn forgetting_changes_no_answer() {
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    let mut model = Model::default();
    for number in 1..=6 {
        let worker = super::worker(8);
        fleet.put(id(number), worker.clone()).unwrap();
        model.workers.insert(id(number), worker);
    }
    let mut holds: Vec<(Needs, Hold)> = Vec::new();
    let mut random = 1u64;
    for turn in 0..12_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let draw = random >> 33;
        let needs = Needs { cpu_milli: 1 + draw % 300, ..super::needs(1, 50 * (1 + (draw % 7) as u32)) };
        let ask = Ask { needs, ..Ask::default() };
        let chosen = fleet.choose(&ask, &Preferences::default());
        if turn % 16 == 0 || chosen.is_err() {
            assert_eq!(chosen.as_ref().map_or_else(|c| *c, |c| c.considered), model.considered(&ask));
        }
        if let Ok(choice) = chosen {
            fleet.place(&ask.needs, &choice.hold).unwrap();
            assert!(model.place(&ask.needs, &choice.hold));
            holds.push((ask.needs, choice.hold));
        }
        if holds.len() > 150 {
            let (needs, hold) = holds.swap_remove((draw / 300) as usize % holds.len());
            fleet.release(&needs, &hold).unwrap();
            assert!(model.release(&needs, &hold));
        }
    }
    assert!(fleet.workers().all(|(id, worker)| *worker == model.workers[&id]));
}
