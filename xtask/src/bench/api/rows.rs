//! Identifiers of the rows that `rows.sql` makes, by the same rule.

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tenant,
    Endpoint,
    Job,
    File,
}

/// Milliseconds since 1970 of the first row, and from it to the last.
const FIRST_MS: u64 = 1_767_225_600_000;
const SPAN_MS: u64 = 25_920_000_000;

impl Kind {
    /// Its number, how many rows of it ministry 1 has, and how many the others.
    fn numbers(self) -> (u64, u64, u64) {
        match self {
            Self::Tenant => (0, 1, 1),
            Self::Endpoint => (2, 50_050, 50),
            Self::Job => (3, 51_949, 949),
            Self::File => (4, 51_949, 949),
        }
    }
}

/// Row `k` of ministry `t`.
pub fn id(kind: Kind, t: u32, k: u32) -> String {
    let (number, large, other) = kind.numbers();
    let step = SPAN_MS / if t == 1 { large } else { other };
    let ms = FIRST_MS + u64::from(k) * step + u64::from(t);
    let text = format!("{ms:012x}7000800{number}{t:04x}{k:08x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// The short name of ministry `t`.
pub fn tenant(t: u32) -> String {
    format!("ministry-{t:04}")
}

/// The UUID just before this one.
pub fn before(id: &str) -> String {
    let number = u128::from_str_radix(&id.replace('-', ""), 16).unwrap_or(u128::MAX);
    let text = format!("{:032x}", number.saturating_sub(1));
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_those_of_the_generator() {
        assert_eq!(id(Kind::Endpoint, 1, 7), "019b7711-f8d7-7000-8002-000100000007");
        assert_eq!(before("019b7711-f8d7-7000-8002-000100000000"), "019b7711-f8d7-7000-8002-0000ffffffff");
    }
}
