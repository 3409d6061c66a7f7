//! Chance that is the same in every run: SplitMix64 (Steele, Lea, Flood 2014).

use std::time::Duration;

/// A sequence, by its seed.
pub struct Random(pub u64);

impl Random {
    /// Between 0 and 1, without 1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Until the next of what happens by itself, `every` so long on average.
    pub fn until_next(&mut self, every: Duration) -> Duration {
        every.mul_f64(-(1.0 - self.unit()).ln())
    }

    /// From half as long to half as long again.
    pub fn about(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(0.5 + self.unit())
    }
}
