//! A quantity over time, kept as its integral over equal stretches. Twice as long
//! stretches are begun whenever there would be too many, so that a simulation
//! of any length takes the same memory and nothing is rounded.

use super::{Micros, SECOND};

/// Most stretches. A plot has at least half as many points.
const MOST: usize = 480;

/// Integrals of a quantity over stretches of time.
#[derive(Clone, Debug)]
pub(super) struct Series {
    width_us: Micros,
    sums: Vec<u128>,
}

impl Default for Series {
    fn default() -> Self {
        Self { width_us: SECOND, sums: Vec::new() }
    }
}

impl Series {
    /// The quantity was `value` all this time.
    pub fn add(&mut self, from: Micros, to: Micros, value: u64) {
        self.reach(to);
        let mut at = from;
        while at < to {
            let stretch = at / self.width_us;
            let end = to.min((stretch + 1) * self.width_us);
            *self.sum(stretch) += u128::from(value) * u128::from(end - at);
            at = end;
        }
    }

    /// Something happened then, this many times.
    pub fn count(&mut self, at: Micros, times: u64) {
        self.reach(at + 1);
        *self.sum(at / self.width_us) += u128::from(times);
    }

    /// End of each stretch, in microseconds, and the integral over it.
    pub fn stretches(&self) -> impl Iterator<Item = (Micros, u128)> {
        (1..).zip(&self.sums).map(|(n, sum)| (n * self.width_us, *sum))
    }

    /// Length of a stretch.
    pub fn width_us(&self) -> Micros {
        self.width_us
    }

    fn sum(&mut self, stretch: u64) -> &mut u128 {
        let at = usize::try_from(stretch).unwrap_or(MOST - 1).min(MOST - 1);
        if self.sums.len() <= at {
            self.sums.resize(at + 1, 0);
        }
        &mut self.sums[at]
    }

    fn reach(&mut self, to: Micros) {
        while to > self.width_us * MOST as u64 {
            let pairs = self.sums.chunks(2).map(|pair| pair.iter().sum());
            self.sums = pairs.collect();
            self.width_us *= 2;
        }
    }
}

/// A quantity that is so until it is something else.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge {
    pub value: u64,
    /// Largest value up to `since`.
    pub most: u64,
    since: Micros,
    /// Integral up to `since`.
    pub total: u128,
    pub series: Series,
}

impl Gauge {
    /// It is another from now on.
    pub fn set(&mut self, now: Micros, value: u64) {
        if value != self.value {
            self.catch_up(now);
            self.value = value;
        }
    }

    /// Counts the time until now.
    pub fn catch_up(&mut self, now: Micros) {
        // What lasts no time is nothing.
        if now > self.since {
            self.most = self.most.max(self.value);
        }
        self.series.add(self.since, now, self.value);
        self.total += u128::from(self.value) * u128::from(now - self.since);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_loses_nothing_when_its_stretches_grow() {
        let mut gauge = Gauge::default();
        let mut total = 0;
        for n in 0..5000 {
            gauge.set(n * 700_000, n % 7);
            total += u128::from(n % 7) * 700_000;
        }
        gauge.catch_up(5000 * 700_000);
        assert_eq!((gauge.total, gauge.most), (total, 6));
        assert_eq!(gauge.series.stretches().map(|(_, sum)| sum).sum::<u128>(), total);
        let points = gauge.series.stretches().count();
        assert!((MOST / 2..=MOST).contains(&points), "{points}");
        assert!(gauge.series.stretches().all(|(_, sum)| sum <= 6 * u128::from(gauge.series.width_us())));
    }
}
