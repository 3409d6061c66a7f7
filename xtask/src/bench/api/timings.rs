//! How long each of many requests took.

/// Milliseconds of each, and how long all of them were watched.
pub struct Timings {
    millis: Vec<f64>,
    seconds: f64,
}

impl Timings {
    pub fn new(seconds: f64) -> Self {
        Self { millis: Vec::new(), seconds }
    }

    pub fn add(&mut self, millis: f64) {
        self.millis.push(millis);
    }

    pub fn extend(&mut self, others: Vec<f64>) {
        self.millis.extend(others);
    }

    pub fn is_empty(&self) -> bool {
        self.millis.is_empty()
    }

    pub fn per_second(&self) -> f64 {
        self.millis.len() as f64 / self.seconds
    }

    /// The milliseconds within which this share was answered.
    pub fn quantile(&mut self, share: f64) -> f64 {
        let rank =
            ((self.millis.len() as f64 * share).ceil() as usize).clamp(1, self.millis.len().max(1)) - 1;
        if self.millis.is_empty() {
            return 0.0;
        }
        *self.millis.select_nth_unstable_by(rank, f64::total_cmp).1
    }
}

#[cfg(test)]
mod tests {
    use super::Timings;

    #[test]
    fn quantiles_are_ranks() {
        let mut timings = Timings::new(2.0);
        timings.extend((1..=100).map(f64::from).collect());
        assert_eq!((timings.quantile(0.5), timings.quantile(0.99), timings.per_second()), (50.0, 99.0, 50.0));
    }
}
