//! How far a node is above what is its own, as an exact fraction.

use std::cmp::Ordering;

use super::Amount;

/// Dominant share of a node: the largest, over what quota is counted in, of
/// `borrowed / lendable of the parent / weight`. Nothing for a node that does
/// not borrow.
///
/// Compared exactly: quantities of any size, without rounding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    rank: Rank,
    borrowed: u64,
    /// Lendable times weight in thousandths. 1 where nothing is borrowed.
    of: u128,
}

/// Shares that no fraction can express come after those that one can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    #[default]
    Fraction,
    /// It borrows with weight zero.
    NoWeight,
    /// It borrows where nothing can be lent, as after a cut.
    NothingLendable,
}

impl Share {
    /// Of a node that does not borrow.
    pub const NONE: Self = Self { rank: Rank::Fraction, borrowed: 0, of: 1 };

    /// Of a node that borrows `borrowed` where its parent could lend `lendable`.
    pub fn new(borrowed: Amount, lendable: Amount, weight_milli: u32) -> Self {
        let Ok(borrowed @ 1..) = u64::try_from(borrowed) else { return Self::NONE };
        match (u128::try_from(lendable), weight_milli) {
            (Err(_) | Ok(0), _) => Self { rank: Rank::NothingLendable, borrowed, of: 1 },
            (Ok(lendable), 0) => Self { rank: Rank::NoWeight, borrowed, of: lendable },
            (Ok(lendable), weight) => {
                Self { rank: Rank::Fraction, borrowed, of: lendable * u128::from(weight) }
            }
        }
    }

    /// Whether nothing is borrowed.
    pub fn is_none(self) -> bool {
        self.borrowed == 0
    }

    /// For people: thousandths of what could be lent, by weight, rounded down;
    /// nothing when no number can say it.
    pub fn per_mille(self) -> Option<u64> {
        let scaled = u128::from(self.borrowed) * 1_000_000 / self.of.max(1);
        (self.rank == Rank::Fraction).then(|| u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank).then_with(|| {
            compare((self.borrowed.into(), self.of.max(1)), (other.borrowed.into(), other.of.max(1)))
        })
    }
}
impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Share {}

/// Compares two fractions exactly: by products where they fit in 128 bits,
/// else by whole parts and then the inverses of what remains (Euclid).
fn compare(mut a: (u128, u128), mut b: (u128, u128)) -> Ordering {
    loop {
        if let (Some(left), Some(right)) = (a.0.checked_mul(b.1), b.0.checked_mul(a.1)) {
            return left.cmp(&right);
        }
        let by_whole = (a.0 / a.1).cmp(&(b.0 / b.1));
        let (rest_a, rest_b) = (a.0 % a.1, b.0 % b.1);
        match (by_whole, rest_a, rest_b) {
            (Ordering::Equal, 0, 0) => return Ordering::Equal,
            (Ordering::Equal, 0, _) => return Ordering::Less,
            (Ordering::Equal, _, 0) => return Ordering::Greater,
            // a < b exactly when 1/b < 1/a.
            (Ordering::Equal, ..) => (a, b) = ((b.1, rest_b), (a.1, rest_a)),
            (unequal, ..) => return unequal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quotas::MAX_TOTAL;

    #[test]
    fn shares_are_compared_without_rounding() {
        assert!(Share::NONE < Share::new(1, MAX_TOTAL, u32::MAX));
        assert_eq!(Share::new(1, 3, 1000), Share::new(2, 6, 1000));
        assert_eq!(Share::new(4, 10, 2000), Share::new(2, 10, 1000));
        // One part in 10^36 apart: products need more than 128 bits.
        let (n, w) = (MAX_TOTAL, u32::MAX);
        assert!(Share::new(n - 1, n, w) > Share::new(n - 2, n - 1, w));
        assert!(Share::new(n - 2, n - 1, w) < Share::new(n - 1, n, w));
        assert_eq!(Share::new(n, n, w), Share::new(n - 7, n - 7, w));
        assert!(Share::new(5, 1, 1) < Share::new(1, 100, 0));
        assert!(Share::new(1, 100, 0) < Share::new(2, 100, 0));
        assert!(Share::new(9, 1, 0) < Share::new(1, 0, 1000));
        assert_eq!(Share::new(2, 9, 1000).per_mille(), Some(222));
        assert_eq!(Share::new(1, 9, 0).per_mille(), None);
    }
}
