//! Tenants: ministries and agencies, the unit of isolation.

use std::collections::BTreeMap;

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
    /// Its name in other languages, by language tag, e.g. `fr`.
    pub names: BTreeMap<Language, String>,
    /// Whether it works.
    pub status: TenantStatus,
    /// The zones its work and data may be in; empty for all.
    pub zones: Vec<String>,
    /// How secret its data may be.
    pub classification: Classification,
    /// How long its data is kept.
    pub retention: Retention,
    /// It cannot be deleted while this is set.
    pub delete_protection: bool,
    /// Counts changes; the ETag.
    pub revision: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Whether a tenant works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// It works.
    Active,
    /// What runs goes on; nothing new begins.
    Suspended,
    /// Its work is being stopped and its data erased.
    Deleting,
    /// Nothing is left but its audit log.
    Deleted,
}

impl TenantStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Active, Self::Suspended, Self::Deleting, Self::Deleted];

    /// The name used in the database, the API and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

impl std::str::FromStr for TenantStatus {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == s).ok_or_else(|| format!("{s:?} is not a status"))
    }
}

/// How secret data may be; later ones include earlier ones.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// For everyone.
    Public,
    /// For the administration.
    #[default]
    Internal,
    /// For those who need it.
    Confidential,
    /// Harm to the country if it became known.
    Secret,
}

impl Classification {
    /// Every level, in order.
    pub const ALL: [Self; 4] = [Self::Public, Self::Internal, Self::Confidential, Self::Secret];

    /// Its place in that order, from 0.
    pub fn rank(self) -> u32 {
        self as u32
    }

    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Secret => "secret",
        }
    }
}

impl std::str::FromStr for Classification {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|r| r.as_str() == s).ok_or_else(|| {
            format!("{s:?} is not a classification: use public, internal, confidential or secret")
        })
    }
}

/// How long data is kept, in days; `None` is until it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Files that were uploaded or produced, from their creation.
    #[schema(minimum = 1, maximum = 36500)]
    pub files_days: Option<u32>,
    /// Results of jobs, from the job's end.
    #[schema(minimum = 1, maximum = 36500)]
    pub results_days: Option<u32>,
}

impl Retention {
    /// Longest time, in days.
    pub const MAX_DAYS: u32 = 36_500;

    /// The field whose value is out of bounds, if one is.
    pub fn wrong_field(&self) -> Option<&'static str> {
        let wrong = |days: Option<u32>| days.is_some_and(|d| !(1..=Self::MAX_DAYS).contains(&d));
        [("retention.files_days", self.files_days), ("retention.results_days", self.results_days)]
            .into_iter()
            .find_map(|(field, days)| wrong(days).then_some(field))
    }
}

/// A language tag (BCP 47) of the simple kind: `fr`, `pt-BR`, `sr-Latn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length = 35)]
pub struct Language(String);

impl TryFrom<String> for Language {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        let mut parts = s.split('-');
        let first = parts.next().unwrap_or_default();
        let ok = s.len() <= 35
            && (2..=3).contains(&first.len())
            && first.bytes().all(|c| c.is_ascii_lowercase())
            && parts.all(|p| (2..=8).contains(&p.len()) && p.bytes().all(|c| c.is_ascii_alphanumeric()));
        if ok { Ok(Self(s)) } else { Err("is not a language tag such as fr or pt-BR".to_owned()) }
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
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
