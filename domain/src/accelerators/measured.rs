//! Memory of a device that others than its work use, as its worker measures it.
//!
//! A measurement is believed over our own sums, but it is never the same twice. So
//! it is kept in steps, with one step to spare for what others use next, and rises
//! again only when it has risen by two: a plan does not change its mind with noise.

/// So many steps are the memory of a device.
const STEPS: u64 = 32;

/// What is to be known of a device with so much memory, of which so much was known
/// to be there, when so much is measured. `None` is all of it.
pub fn settled(memory_bytes: u64, known: Option<u64>, measured: u64) -> Option<u64> {
    let step = (memory_bytes / STEPS).max(1);
    let known = known.map_or(memory_bytes, |known| known.min(memory_bytes));
    let lacking = memory_bytes.saturating_sub(measured);
    let target =
        if lacking < step.div_ceil(2) { memory_bytes } else { (measured / step * step).saturating_sub(step) };
    let falls = target < known && lacking >= step;
    let rises = target >= known.saturating_add(2 * step) || target == memory_bytes;
    let settled = if falls || rises { target } else { known };
    (settled < memory_bytes).then_some(settled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn what_others_use_is_not_there_with_a_step_to_spare() {
        assert_eq!(settled(32 * GB, None, 32 * GB), None);
        assert_eq!(settled(32 * GB, None, 31 * GB + GB / 2), None, "less than a step is noise");
        assert_eq!(settled(32 * GB, None, 20 * GB + GB / 3), Some(19 * GB));
        assert_eq!(settled(32 * GB, Some(19 * GB), 19 * GB), Some(18 * GB), "less is believed at once");
        assert_eq!(settled(32 * GB, Some(19 * GB), 21 * GB), Some(19 * GB), "more, when it is two steps");
        assert_eq!(settled(32 * GB, Some(19 * GB), 22 * GB), Some(21 * GB));
        assert_eq!(settled(32 * GB, Some(30 * GB), 40 * GB), None, "they are gone");
        assert_eq!(settled(32 * GB, Some(19 * GB), 0), Some(0));
        assert_eq!(settled(0, None, 0), None);
    }

    proptest! {
        /// However it is measured, no more is known to be there than that and half a
        /// step, or than was known before.
        #[test]
        fn never_more_than_was_measured(memory in 0..1_000_000u64, known: Option<u32>, measured in 0..2_000_000u64) {
            let known = known.map(u64::from);
            let after = settled(memory, known, measured).unwrap_or(memory);
            let half = (memory / STEPS).max(1).div_ceil(2);
            prop_assert!(after <= measured.saturating_add(half) || known.is_none_or(|k| k.min(memory) >= after));
            prop_assert!(after <= memory);
        }

        /// The same measurement, give or take less than half a step, changes nothing
        /// more than once.
        #[test]
        fn noise_changes_nothing(measured in 0..40 * GB, noise in proptest::collection::vec(0..GB / 2 - 1, 1..20)) {
            let mut known = settled(32 * GB, None, measured);
            let mut changes = 0;
            for more in noise {
                let next = settled(32 * GB, known, measured + more);
                changes += u32::from(next != known);
                known = next;
            }
            prop_assert!(changes <= 1, "it changed {changes} times");
        }
    }
}
