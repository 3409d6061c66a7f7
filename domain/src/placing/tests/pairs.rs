//! Workers whose devices are taken in pairs.

use super::{ask, id, needs, worker};
use crate::placing::{Considered, Demand, Filter, Fleet, Hold, PlacingError, Preferences, Weights, Worker};

fn paired(devices: u32) -> Fleet {
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    fleet.put(id(1), Worker { pairs: true, ..worker(devices) }).unwrap();
    fleet
}

fn rejected_by(considered: Considered, filter: Filter) -> bool {
    considered.fitting == 0 && considered.rejected_by(filter) == 1
}

#[test]
fn odd_numbers_and_parts_are_refused() {
    let mut fleet = paired(8);
    for (devices, milli) in [(1, 1000), (3, 1000), (1, 500), (2, 500)] {
        let refused = fleet.choose(&ask(devices, milli), &Preferences::default()).unwrap_err();
        assert!(rejected_by(refused, Filter::Pairs), "{devices} of {milli}: {refused:?}");
    }
    assert!(fleet.choose(&ask(0, 0), &Preferences::default()).is_ok());
}

#[test]
fn neighbours_are_taken_together() {
    let mut fleet = paired(6);
    let mut busy = Worker { pairs: true, ..worker(6) };
    busy.devices[0].free_milli = 0;
    busy.devices[5].free_milli = 500;
    fleet.put(id(1), busy).unwrap();
    let choice = fleet.choose(&ask(2, 1000), &Preferences::default()).unwrap();
    assert_eq!(choice.hold.devices, [2, 3]);
    // Four devices are free, but only one pair.
    let refused = fleet.choose(&ask(4, 1000), &Preferences::default()).unwrap_err();
    assert!(rejected_by(refused, Filter::Milli));
}

#[test]
fn a_last_device_without_neighbour_is_not_taken() {
    let mut fleet = paired(5);
    let mut used = Worker { pairs: true, ..worker(5) };
    used.devices[0].free_milli = 500;
    used.devices[3].memory_bytes = 1;
    fleet.put(id(1), used).unwrap();
    assert_eq!(fleet.choose(&ask(2, 1000), &Preferences::default()).unwrap().hold.devices, [2, 3]);

    let mut fleet = paired(5);
    let choice = fleet.choose(&ask(4, 1000), &Preferences::default()).unwrap();
    assert_eq!(choice.hold.devices, [0, 1, 2, 3]);
    fleet.place(&needs(4, 1000), &choice.hold).unwrap();
    let refused = fleet.choose(&ask(2, 1000), &Preferences::default()).unwrap_err();
    assert!(rejected_by(refused, Filter::Milli));
}

#[test]
fn a_hold_of_strangers_is_refused() {
    let mut fleet = paired(4);
    let hold = |devices: [u32; 2]| Hold { worker: id(1), devices: devices.to_vec() };
    let apart = fleet.place(&needs(2, 1000), &hold([1, 2]));
    assert_eq!(apart, Err(PlacingError::Unpaired(id(1))));
    assert_eq!(fleet.score(&needs(2, 1000), &hold([1, 2])), None);
    fleet.place(&needs(2, 1000), &hold([3, 2])).unwrap();
}
