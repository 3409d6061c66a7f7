//! Usage that is remembered and fades: a tenant or project that used much
//! lately comes after one that did not.
//!
//! Exponential decay in integers, so that the same events give the same order
//! on every machine.

use serde::{Deserialize, Serialize};

/// How usage is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// After this many seconds, usage counts half.
    pub half_life_secs: u32,
    /// What an admission adds at once, as if what it takes had been used for
    /// this many seconds: a burst is dear from its first workload on.
    pub penalty_secs: u32,
}

/// 2^(−1/2), 2^(−1/4), … in 64 binary places.
const ROOTS: [u64; 16] = [
    0xb504_f333_f9de_6484,
    0xd744_fcca_d69d_6af4,
    0xeac0_c6e7_dd24_392e,
    0xf525_7d15_2486_cc2c,
    0xfa83_b2db_722a_033a,
    0xfd3e_0c0c_f486_c174,
    0xfe9e_115c_7b8f_884b,
    0xff4e_cb59_511e_c8a5,
    0xffa7_5652_1c8d_aed1,
    0xffd3_a751_c0f7_e10b,
    0xffe9_d2b2_f7db_2755,
    0xfff4_e91b_ff1b_8c3d,
    0xfffa_747e_a004_0664,
    0xfffd_3a3b_7814_eb53,
    0xfffe_9d1c_c60d_dab1,
    0xffff_4e8e_2587_9bfa,
];

/// `value` after `elapsed_us` microseconds.
fn decay(value: u128, elapsed_us: i64, half_life_us: i64) -> u128 {
    let halves = elapsed_us / half_life_us;
    if halves >= 128 {
        return 0;
    }
    let mut value = value >> halves;
    // The remaining part of a half-life, in sixteen binary places.
    let mut rest = elapsed_us % half_life_us;
    for root in ROOTS {
        rest *= 2;
        if rest >= half_life_us {
            rest -= half_life_us;
            let (high, low) = (value >> 64, value & u128::from(u64::MAX));
            value = high * u128::from(root) + ((low * u128::from(root)) >> 64);
        }
    }
    value
}

/// Usage remembered of one tenant or project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Usage times microseconds, as of `at_us`.
    value: u128,
    /// Used now.
    current: u64,
    at_us: i64,
}

impl Remembered {
    /// As of `now_us`: what was remembered, faded, and what was used since.
    pub fn read(&self, now_us: i64, history: History) -> u128 {
        let half_life_us = i64::from(history.half_life_secs.max(1)) * 1_000_000;
        let elapsed = (now_us - self.at_us).max(0);
        let faded = decay(self.value, elapsed, half_life_us);
        // Used since, faded too: usage × half-life ÷ ln 2 × (1 − 2^(−elapsed ÷ half-life)).
        let whole = u128::from(self.current) * half_life_us as u128;
        let used = whole - decay(whole, elapsed, half_life_us).min(whole);
        faded + used / 693_147 * 1_000_000
    }

    /// From `now_us` on, `used` is used.
    pub fn change(&mut self, now_us: i64, history: History, used: u64) {
        self.value = self.read(now_us, history);
        self.current = used;
        self.at_us = self.at_us.max(now_us);
    }

    /// What an admission of `used` costs at once.
    pub fn penalize(&mut self, history: History, used: u64) {
        let cost = u128::from(used) * u128::from(history.penalty_secs) * 1_000_000;
        self.value = self.value.saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn usage_fades_by_half() {
        let history = History { half_life_secs: 3600, penalty_secs: 0 };
        for value in [1u128 << 40, 1 << 60, 1 << 90] {
            assert_eq!(decay(value, HOUR, HOUR), value / 2);
            let twice = decay(decay(value, HOUR / 2, HOUR), HOUR / 2, HOUR);
            assert!(twice.abs_diff(value / 2) <= value >> 30, "{twice} of {value}");
            let third = decay(value, HOUR / 3, HOUR);
            let exact = (value as f64) * 2f64.powf(-1.0 / 3.0);
            assert!(((third as f64) / exact - 1.0).abs() < 1e-4);
        }
        let mut remembered = Remembered::default();
        remembered.change(0, history, 1000);
        let after_one = remembered.read(HOUR, history);
        let ever = remembered.read(200 * HOUR, history);
        assert!((ever as f64 / after_one as f64 - 2.0).abs() < 1e-6);
        remembered.change(HOUR, history, 0);
        assert!(remembered.read(2 * HOUR, history).abs_diff(after_one / 2) <= 1);
    }

    #[test]
    fn a_penalty_counts_at_once() {
        let history = History { half_life_secs: 3600, penalty_secs: 60 };
        let mut remembered = Remembered::default();
        remembered.penalize(history, 10);
        assert_eq!(remembered.read(0, history), 600_000_000);
    }
}
