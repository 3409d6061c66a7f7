//! Where a page of a list lies.
//!
//! Statements take bounds and not `$1 IS NULL OR id < $1`: only a plain
//! comparison is used on an index by a plan that serves any parameters, and
//! under row-level security only one whose other side is a mere parameter.

use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

/// Before every row.
pub(crate) const FIRST_TIME: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
/// After every row.
pub(crate) const LAST_TIME: OffsetDateTime = datetime!(9999-12-31 0:00 UTC);

/// Ids from `from` up to and including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub from: Uuid,
    pub to: Uuid,
}

impl Ids {
    /// This one.
    pub fn only(id: Uuid) -> Self {
        Self { from: id, to: id }
    }

    /// Those before this one, or all.
    pub fn before(id: Option<Uuid>) -> Self {
        let last = id.map_or(u128::MAX, |id| id.as_u128().saturating_sub(1));
        Self { from: Uuid::nil(), to: Uuid::from_u128(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_just_before_its_cursor() {
        let id = Uuid::from_u128(7);
        assert_eq!(Ids::before(Some(id)).to, Uuid::from_u128(6));
        assert_eq!(Ids::before(None).to, Uuid::max());
        assert_eq!(Ids::only(id), Ids { from: id, to: id });
    }
}
