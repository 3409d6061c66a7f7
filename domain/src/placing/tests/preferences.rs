//! What else matters, and what a hold takes and gives back.

use std::collections::{BTreeMap, BTreeSet};

use super::{GIB, ask, id, needs, put_on, worker};
use crate::placing::{
    Considered, Demand, Device, Filter, Fleet, Hold, Needs, PlacingError, Preferences, Weights, Worker,
};

/// Workers 1 and 2 in one rack, 3 in another.
fn racks() -> Fleet {
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    for (number, domain) in [(1, "r"), (2, "r"), (3, "s")] {
        fleet.put(id(number), Worker { domain: domain.to_owned(), ..worker(2) }).unwrap();
    }
    fleet
}

#[test]
fn replicas_spread_over_failure_domains() {
    let mut fleet = racks();
    let mut preferences = Preferences::default();
    let mut domains = Vec::new();
    for _ in 0..4 {
        let on = put_on(&mut fleet, &ask(1, 250), &preferences);
        let domain = fleet.worker(on).unwrap().domain.clone();
        *preferences.siblings.entry(domain.clone()).or_default() += 1;
        domains.push(domain);
    }
    assert_ne!(domains[0], domains[1]);
    assert_eq!(preferences.siblings, BTreeMap::from([("r".to_owned(), 2), ("s".to_owned(), 2)]));
    // Nobody's sibling packs instead.
    let on = put_on(&mut fleet, &ask(1, 250), &Preferences::default());
    let free: u32 = fleet.worker(on).unwrap().devices.iter().map(|d| d.free_milli).sum();
    assert!(free <= 2000 - 500, "an empty worker was opened");
}

#[test]
fn loaded_weights_are_found_unless_that_costs_too_much() {
    let warm = |number| Preferences { warm: BTreeSet::from([id(number)]), ..Preferences::default() };
    let mut fleet = racks();
    for number in 1..=3 {
        let choice = fleet.choose(&ask(1, 1000), &warm(number)).unwrap();
        assert_eq!(choice.hold.worker, id(number));
    }
    // Spread comes before weights.
    let mut preferences = warm(3);
    preferences.siblings.insert("s".to_owned(), 1);
    assert_ne!(fleet.choose(&ask(1, 1000), &preferences).unwrap().hold.worker, id(3));

    // The only whole worker left is worth more than loading a model.
    let mut fleet = Fleet::new(Weights::default(), Demand::known([needs(8, 1000), needs(1, 1000)]));
    fleet.put(id(1), worker(8)).unwrap();
    fleet.put(id(2), worker(8)).unwrap();
    assert_eq!(put_on(&mut fleet, &ask(4, 1000), &warm(2)), id(2));
    assert_eq!(fleet.choose(&ask(1, 1000), &warm(1)).unwrap().hold.worker, id(2));
}

#[test]
fn where_it_failed_lately_comes_last() {
    let mut fleet = racks();
    let mut preferences = Preferences::default();
    for left in [2, 1, 0] {
        let choice = fleet.choose(&ask(1, 1000), &preferences).unwrap();
        assert!(preferences.failed.insert(choice.hold.worker), "with {left} others left");
    }
    assert!(fleet.choose(&ask(1, 1000), &preferences).is_ok(), "better there than nowhere");
}

#[test]
fn several_devices_are_distinct_and_wholly_free() {
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    let mut used = worker(5);
    used.devices[1].free_milli = 999;
    fleet.put(id(1), used).unwrap();
    let choice = fleet.choose(&ask(4, 1000), &Preferences::default()).unwrap();
    assert_eq!(choice.hold.devices, [0, 2, 3, 4]);
    let refused = fleet.choose(&ask(5, 1000), &Preferences::default()).unwrap_err();
    assert_eq!(refused.rejected_by(Filter::Milli), 1);
    let twice = Hold { worker: id(1), devices: vec![0, 0] };
    assert_eq!(
        fleet.place(&needs(2, 1000), &twice),
        Err(PlacingError::UnknownDevice { worker: id(1), ordinal: 0 })
    );
}

#[test]
fn a_release_restores_exactly() {
    let mut fleet = racks();
    let before: Vec<_> = fleet.workers().map(|(id, worker)| (id, worker.clone())).collect();
    let asks = [ask(1, 810), ask(2, 1000), ask(1, 190), ask(0, 0)];
    let held = asks.map(|ask| {
        let hold = fleet.choose(&ask, &Preferences::default()).unwrap().hold;
        fleet.place(&ask.needs, &hold).unwrap();
        (ask.needs, hold)
    });
    for (needs, hold) in &held {
        fleet.release(needs, hold).unwrap();
        assert_eq!(
            fleet.release(&Needs { cpu_milli: 1 << 40, ..needs.clone() }, hold),
            Err(PlacingError::NotHeld(hold.worker))
        );
    }
    let after: Vec<_> = fleet.workers().map(|(id, worker)| (id, worker.clone())).collect();
    assert_eq!(before, after);
    let (needs, hold) = &held[1];
    assert_eq!(fleet.release(needs, hold), Err(PlacingError::NotHeld(hold.worker)));
}

#[test]
fn a_worker_is_believed_about_itself() {
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    let device = Device { memory_bytes: 16 * GIB, free_memory_bytes: 16 * GIB, ..worker(1).devices[0] };
    let mut report = Worker { devices: vec![device], ..worker(1) };
    fleet.put(id(1), report.clone()).unwrap();
    let mut ask = ask(1, 500);
    ask.needs.memory_bytes = 8 * GIB;
    assert!(fleet.choose(&ask, &Preferences::default()).is_ok());
    // Something that is not ours takes memory.
    report.devices[0].free_memory_bytes = 4 * GIB;
    fleet.put(id(1), report.clone()).unwrap();
    let refused = fleet.choose(&ask, &Preferences::default()).unwrap_err();
    let mut expected = Considered::default();
    expected.rejected[Filter::Memory as usize] = 1;
    assert_eq!(refused, expected);
    // But not that it has more than it has.
    report.devices[0].free_milli = 1001;
    assert_eq!(fleet.put(id(1), report), Err(PlacingError::Implausible(id(1))));
}
