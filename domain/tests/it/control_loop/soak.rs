//! Many schedules, on every core.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Figures, run};

/// Schedules that the suite runs. `cargo xtask soak scheduler` runs a million.
const SCHEDULES: u64 = 2_000;
/// Time between two lines about how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is {value:?}, which is no number")))
}

/// What is placed fits, is counted and within bounds, runs once and is decided
/// by one leader, whatever pauses, dies, is cut off and comes late; and once
/// nothing breaks any more, all comes to rest.
#[test]
fn the_control_loop_holds_whatever_breaks() {
    if let Some(seed) = number("CHANCERY_SOAK_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let soak = Soak::new(number("CHANCERY_SOAK_OPERATIONS").unwrap_or(SCHEDULES));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| soak.one_after_the_other());
        }
    });
    soak.tell();
    assert!(!soak.failed.load(Ordering::Relaxed), "a schedule failed: its seed is above");
}

struct Soak {
    schedules: u64,
    /// The next seed.
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicBool,
    began: Instant,
    sums: Mutex<(Figures, Instant)>,
}

impl Soak {
    fn new(schedules: u64) -> Self {
        let (next, done, failed) = Default::default();
        let began = Instant::now();
        Self { schedules, next, done, failed, began, sums: Mutex::new((Figures::default(), began)) }
    }

    fn one_after_the_other(&self) {
        while !self.failed.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.schedules {
                break;
            }
            let Ok(figures) = catch_unwind(AssertUnwindSafe(|| run(seed, false))) else {
                self.failed.store(true, Ordering::Relaxed);
                println!("seed {seed} fails; with CHANCERY_SOAK_SEED={seed} this shows what happens in it");
                return;
            };
            self.done.fetch_add(1, Ordering::Relaxed);
            let mut sums = self.sums.lock().expect("nothing panics with it");
            sums.0.add(figures);
            if sums.1.elapsed() >= TELL_EVERY {
                sums.1 = Instant::now();
                drop(sums);
                self.tell();
            }
        }
    }

    /// How far it is.
    fn tell(&self) {
        let (done, secs) = (self.done.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let rate = done as f64 / secs;
        let sums = self.sums.lock().expect("nothing panics with it").0;
        println!("{done} of {} schedules in {secs:.0} s, {rate:.0} a second: {sums:?}", self.schedules);
    }
}
