//! How long to wait before the next try: twice as long each time, up to a
//! limit, spread so that many workers do not try at the same moment.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Growing delays between tries of one thing.
#[derive(Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
    jitter: Option<SmallRng>,
}

impl Backoff {
    /// Between half and all of each step.
    pub fn spread(least: Duration, most: Duration, seed: u64) -> Self {
        Self { least, most, next: least, jitter: Some(SmallRng::seed_from_u64(seed)) }
    }

    /// Exactly each step; for what happens on one machine only.
    pub fn exact(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least, jitter: None }
    }

    /// The delay before the next try.
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        match &mut self.jitter {
            Some(random) => step.mul_f64(random.random_range(0.5..=1.0)),
            None => step,
        }
    }

    /// It worked: the next delay is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_again_after_success() {
        let mut backoff = Backoff::exact(Duration::from_millis(250), Duration::from_secs(30));
        let delays: Vec<u128> = (0..9).map(|_| backoff.delay().as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.delay().as_millis(), 250);
    }

    #[test]
    fn spread_delays_stay_between_half_and_all_of_the_step() {
        let mut backoff = Backoff::spread(Duration::from_secs(1), Duration::from_secs(4), 7);
        for step in [1.0, 2.0, 4.0, 4.0, 4.0] {
            let delay = backoff.delay().as_secs_f64();
            assert!((step / 2.0..=step).contains(&delay), "{delay} for {step}");
        }
    }
}
