//! How the time of a decision grows with the number of workers.

use std::time::{Duration, Instant};

use domain::WorkerId;
use domain::placing::{Demand, Fleet, Hold, Needs, Preferences, Weights};

use crate::trace::{Random, Trace};

pub const WORKERS: [usize; 4] = [10, 100, 1_000, 10_000];
/// Offered load while decisions are timed.
const LOAD_PCT: u64 = 90;
const TIMED_DECISIONS: usize = 20_000;

/// Microseconds to learn of a pod, choose, hold and release, on so many workers
/// drawn from the nodes, full to the load with pods that come and go.
#[expect(clippy::cast_precision_loss, reason = "some thousand decisions")]
pub fn us_per_decision(trace: &Trace, workers: usize, seed: u64) -> f64 {
    let mut random = Random::new(seed);
    let mut fleet = Fleet::new(Weights::default(), Demand::new());
    let nodes = trace.shuffled_nodes(seed);
    let mut capacity = 0;
    for (number, node) in (1u128..).zip(nodes.iter().cycle().take(workers)) {
        let worker = node.worker();
        capacity += worker.devices.iter().map(|device| u64::from(device.milli)).sum::<u64>();
        fleet.put(WorkerId::from(uuid::Uuid::from_u128(number)), worker).expect("a node is plausible");
    }
    let most = capacity * LOAD_PCT / 100;
    let mut held = 0;
    let mut holds: Vec<(Needs, Hold)> = Vec::new();
    let mut timed = 0;
    let mut spent = Duration::ZERO;
    let mut full = false;
    let mut refused = false;
    while timed < TIMED_DECISIONS {
        let pod = &trace.pods[random.below(trace.pods.len())];
        let ask = pod.ask();
        // Some pods cannot be packed so densely.
        let ended = (refused || held + pod.total_milli() > most) && !holds.is_empty();
        full |= ended;
        let ended = ended.then(|| holds.swap_remove(random.below(holds.len())));
        let begun = Instant::now();
        if let Some((needs, hold)) = &ended {
            fleet.release(needs, hold).expect("it is held");
            held -= u64::from(needs.devices) * u64::from(needs.milli);
        }
        fleet.observe(&ask.needs);
        let choice = fleet.choose(&ask, &Preferences::default());
        refused = choice.is_err();
        if let Ok(choice) = choice {
            fleet.place(&ask.needs, &choice.hold).expect("it was chosen");
            held += pod.total_milli();
            holds.push((ask.needs, choice.hold));
        }
        if full {
            timed += 1;
            spent += begun.elapsed();
        }
    }
    spent.as_secs_f64() * 1e6 / timed as f64
}
