//! Tenants: ministries and agencies, the unit of isolation.

use serde::{Deserialize, Serialize};

use crate::{TenantId, Timestamp};

/// A ministry or agency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tenant {
    /// Identifier.
    pub id: TenantId,
    /// Short unique name used in commands and URLs, e.g. `interior`.
    pub slug: Slug,
    /// Name for people, e.g. `Ministry of the Interior`.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A short name: 1 to 63 of `a-z`, `0-9` and `-`, starting with a letter, not
/// ending with `-` (the rule of DNS labels and Kubernetes names).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
pub struct Slug(String);

/// A text that is no [`Slug`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a short name: use 1 to 63 of a-z, 0-9 and -, start with a letter and do not end with -"
)]
pub struct InvalidSlug(String);

impl Slug {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Slug {
    type Error = InvalidSlug;
    fn try_from(s: String) -> Result<Self, InvalidSlug> {
        let b = s.as_bytes();
        let ok = (1..=63).contains(&b.len())
            && b[0].is_ascii_lowercase()
            && b[b.len() - 1] != b'-'
            && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-');
        if ok { Ok(Self(s)) } else { Err(InvalidSlug(s.chars().take(80).collect())) }
    }
}

impl std::str::FromStr for Slug {
    type Err = InvalidSlug;
    fn from_str(s: &str) -> Result<Self, InvalidSlug> {
        s.to_owned().try_into()
    }
}

impl From<Slug> for String {
    fn from(s: Slug) -> Self {
        s.0
    }
}

impl std::fmt::Display for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_follow_the_dns_label_rule() {
        for good in ["a", "interior", "min-of-2", &"a".repeat(63)] {
            assert!(good.parse::<Slug>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "1a", "A", "a_b", "é", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<Slug>().is_err(), "{bad}");
        }
    }
}
