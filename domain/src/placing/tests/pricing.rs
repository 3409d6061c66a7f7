//! What the prices are, and what they lead to.

use super::{ask, id, needs, put_on, worker};
use crate::WorkerId;
use crate::placing::cutting::{PARTS, gap_values};
use crate::placing::{Demand, Fleet, Hold, Needs, Preferences, Weights, Worker};

fn values(pieces: &[(usize, f64)]) -> [f64; PARTS + 1] {
    let mut demand = [0.0; PARTS + 1];
    for (size, count) in pieces {
        demand[*size] = *count;
    }
    gap_values(&demand)
}

#[track_caller]
fn assert_near(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-9, "{value} instead of {expected}");
}

#[test]
fn a_piece_is_worth_what_it_hinders() {
    // Two halves fill a device; a piece of 60 parts needs one for itself.
    assert_near(values(&[(50, 10.0)])[50], 0.5);
    assert_near(values(&[(60, 10.0)])[60], 1.0);
    // A rest of 40 beside many pieces of 60 is for nothing.
    let common = values(&[(60, 100.0), (40, 1.0)]);
    assert_near(common[40], 0.0);
    assert_near(common[60], 1.0);
    // Beside few, it is what fills devices.
    assert_near(values(&[(60, 1.0), (40, 100.0)])[40], 0.5);
}

#[test]
fn gaps_are_worth_more_together() {
    let values = values(&[(81, 107.0), (47, 75.0), (32, 33.0), (65, 25.0), (23, 14.0), (11, 2.0)]);
    assert_near(values[0], 0.0);
    assert_near(values[PARTS], 1.0);
    for a in 0..=PARTS {
        for b in 0..=PARTS - a {
            assert!(values[a] + values[b] <= values[a + b] + 1e-9, "{a} and {b}");
        }
    }
}

/// Two workers of two devices, one of which has a device with 190 left.
fn half_used(demand: Demand) -> Fleet {
    let mut fleet = Fleet::new(Weights::default(), demand);
    fleet.put(id(1), worker(2)).unwrap();
    let mut used = worker(2);
    used.devices[0].free_milli = 190;
    fleet.put(id(2), used).unwrap();
    fleet
}

#[test]
fn a_gap_is_filled_by_what_fits_it_best() {
    let mut fleet = half_used(Demand::known([needs(1, 810), needs(1, 190)]));
    let choice = fleet.choose(&ask(1, 190), &Preferences::default()).unwrap();
    assert_eq!(choice.hold, Hold { worker: id(2), devices: vec![0] });
    assert!(choice.score.gap_loss.abs() < 1e-9);
    let elsewhere = fleet.score(&needs(1, 190), &Hold { worker: id(1), devices: vec![0] }).unwrap();
    assert_eq!((choice.score.opens, elsewhere.opens), (0, 1));
    assert!(choice.score.step < elsewhere.step);
}

#[test]
fn accelerators_keep_the_processors_that_feed_them() {
    let demand = Demand::known([Needs { cpu_milli: 8_000, ..needs(1, 1000) }]);
    let mut fleet = Fleet::new(Weights::default(), demand);
    fleet.put(id(1), worker(4)).unwrap();
    let mut taken = worker(4);
    taken.devices.iter_mut().for_each(|device| device.free_milli = 0);
    fleet.put(id(2), taken).unwrap();
    assert_eq!(put_on(&mut fleet, &ask(0, 0), &Preferences::default()), id(2));
    let score = fleet.score(&needs(0, 0), &Hold { worker: id(1), devices: Vec::new() }).unwrap();
    assert!((score.stranding - 0.125).abs() < 1e-9, "{score:?}");
}

#[test]
fn sought_after_classes_are_left_alone() {
    let choosy = Needs { classes: vec!["rare".to_owned()], ..needs(1, 1000) };
    let mut known = vec![choosy; 3];
    known.extend(vec![needs(1, 1000); 3]);
    let mut fleet = Fleet::new(Weights::default(), Demand::known(known));
    fleet.put(id(1), Worker { class: "rare".to_owned(), ..worker(2) }).unwrap();
    for number in 2..=4 {
        fleet.put(id(number), worker(2)).unwrap();
    }
    for _ in 0..6 {
        assert_ne!(put_on(&mut fleet, &ask(1, 1000), &Preferences::default()), id(1));
    }
    assert_eq!(put_on(&mut fleet, &ask(1, 1000), &Preferences::default()), id(1));
}

/// Fills 16 workers of 8 to nine tenths with small requests that come and go;
/// how many are left whole.
fn left_whole(wanted: u32) -> usize {
    let mut known = vec![needs(1, 1000); 400];
    known.extend(vec![needs(8, 1000); wanted as usize]);
    let mut fleet = Fleet::new(Weights::default(), Demand::known(known));
    for number in 1..=16 {
        fleet.put(id(number), worker(8)).unwrap();
    }
    let mut holds = Vec::new();
    let mut random = 7u64;
    for _ in 0..2_000 {
        fleet.observe(&needs(1, 1000));
        let hold = fleet.choose(&ask(1, 1000), &Preferences::default()).unwrap().hold;
        fleet.place(&needs(1, 1000), &hold).unwrap();
        holds.push(hold);
        if holds.len() > 100 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ended = holds.swap_remove((random >> 33) as usize % holds.len());
            fleet.release(&needs(1, 1000), &ended).unwrap();
        }
    }
    let whole = |id: WorkerId| fleet.worker(id).unwrap().devices.iter().all(|d| d.free_milli == 1000);
    (1..=16).map(id).filter(|id| whole(*id)).count()
}

#[test]
fn what_comes_and_goes_keeps_off_whole_workers() {
    // 28 devices are free; without turnover none would be kept together.
    assert_eq!(left_whole(20), 3);
}
