//! The quota tree as people configure and see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Amount, Figures, Key, MAX_AMOUNT, NodeId, NodeSpec, Policies, Quota, Resource, Tree};
use crate::tenants::Slug;
use crate::{CohortId, ProjectId, TenantId, Timestamp};

/// Most lines of one node.
pub const MAX_LINES: usize = 64;
/// Largest weight, in thousandths.
pub const MAX_WEIGHT_MILLI: u32 = 1_000_000;

/// What kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Lets those below it lend and borrow.
    Cohort,
    /// A ministry.
    Tenant,
    /// A project: limits part of its tenant.
    Project,
}

impl NodeKind {
    /// The name used in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cohort => "cohort",
            Self::Tenant => "tenant",
            Self::Project => "project",
        }
    }

    /// The node of this kind with that identifier.
    pub fn node(self, id: Uuid) -> NodeId {
        match self {
            Self::Cohort => NodeId::Cohort(CohortId(id)),
            Self::Tenant => NodeId::Tenant(TenantId(id)),
            Self::Project => NodeId::Project(ProjectId(id)),
        }
    }
}

impl std::str::FromStr for NodeKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let all = [Self::Cohort, Self::Tenant, Self::Project];
        all.into_iter().find(|kind| kind.as_str() == s).ok_or_else(|| format!("{s:?} is no kind of node"))
    }
}

impl NodeId {
    /// What kind it is.
    pub fn kind(self) -> NodeKind {
        match self {
            Self::Cohort(_) => NodeKind::Cohort,
            Self::Tenant(_) => NodeKind::Tenant,
            Self::Project(_) => NodeKind::Project,
        }
    }

    /// Its identifier: that of the cohort, tenant or project.
    pub fn id(self) -> Uuid {
        match self {
            Self::Cohort(id) => id.0,
            Self::Tenant(id) => id.0,
            Self::Project(id) => id.0,
        }
    }
}

/// What a node may use of a resource of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaLine {
    /// Accelerator class.
    pub class: String,
    /// What of it.
    #[serde(default)]
    pub resource: Resource,
    /// Its own: thousandths of an accelerator, or bytes. Of a project, most
    /// that it may use.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    pub nominal: Amount,
    /// Most that others may use of it; null for all.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    pub lending_limit: Option<Amount>,
    /// Most that it may use of others'; null for all.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    pub borrowing_limit: Option<Amount>,
}

/// Why lines cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinesError {
    /// Too many.
    #[error("must name at most {MAX_LINES} quotas")]
    Many,
    /// One is named twice.
    #[error("names {0} {1} twice")]
    Twice(String, &'static str),
    /// Out of bounds.
    #[error("each quantity must be 0 to {MAX_AMOUNT}")]
    Amount,
}

/// The quotas that lines describe.
pub fn quotas(lines: &[QuotaLine]) -> Result<BTreeMap<Key, Quota>, LinesError> {
    if lines.len() > MAX_LINES {
        return Err(LinesError::Many);
    }
    let mut quotas = BTreeMap::new();
    for line in lines {
        let amounts = [Some(line.nominal), line.lending_limit, line.borrowing_limit];
        if !amounts.into_iter().flatten().all(|amount| (0..=MAX_AMOUNT).contains(&amount)) {
            return Err(LinesError::Amount);
        }
        let key = Key { class: line.class.as_str().into(), resource: line.resource };
        let quota = Quota {
            nominal: line.nominal,
            lending_limit: line.lending_limit,
            borrowing_limit: line.borrowing_limit,
        };
        if quotas.insert(key, quota).is_some() {
            return Err(LinesError::Twice(line.class.clone(), line.resource.as_str()));
        }
    }
    Ok(quotas)
}

/// What a node may use of a resource of a class, and uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaUse {
    /// Accelerator class.
    pub class: String,
    /// What of it.
    pub resource: Resource,
    /// Its own; of a project, most that it may use.
    pub nominal: Amount,
    /// Most that others may use of it; null for all.
    pub lending_limit: Option<Amount>,
    /// Most that it may use of others'; null for all.
    pub borrowing_limit: Option<Amount>,
    /// Its own with what those below it would lend.
    pub guaranteed: Amount,
    /// Used by it and those below it, as far as that counts here.
    pub used: Amount,
    /// Used of others'.
    pub borrowed: Amount,
    /// What it could not have of its own at once, because others use it.
    pub lent: Amount,
    /// What it could use more now; negative where quota was cut below what is used.
    pub available: Amount,
}

impl QuotaUse {
    fn of(key: &Key, figures: &Figures) -> Self {
        Self {
            class: key.class.to_string(),
            resource: key.resource,
            nominal: figures.quota.nominal,
            lending_limit: figures.quota.lending_limit,
            borrowing_limit: figures.quota.borrowing_limit,
            guaranteed: figures.subtree,
            used: figures.used,
            borrowed: figures.borrowed,
            lent: (figures.subtree - figures.used - figures.available.max(0)).max(0),
            available: figures.available,
        }
    }
}

/// A node of the quota tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaNode {
    /// What it is.
    pub kind: NodeKind,
    /// Identifier: that of the cohort, tenant or project.
    pub id: Uuid,
    /// Name of a cohort; short name of a tenant or project.
    pub name: Slug,
    /// The cohort it is in, or of a project its tenant, by identifier.
    pub parent: Option<Uuid>,
    /// Share of what is lent, in thousandths; 1000 is one.
    pub weight_milli: u32,
    /// What a tenant may do to get room.
    pub policies: Policies,
    /// What it may use, and uses.
    pub quotas: Vec<QuotaUse>,
    /// Counts changes.
    pub revision: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A node as it is kept, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What the planner takes.
    pub spec: NodeSpec,
    /// Name of a cohort; short name of a tenant or project.
    pub name: Slug,
    /// Counts changes.
    pub revision: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Named {
    /// With the figures of a tree: of everything listed here or used.
    pub fn seen(&self, tree: &Tree) -> QuotaNode {
        let quotas = tree.keys().iter().filter_map(|key| {
            let figures = tree.figures(self.spec.id, key)?;
            let seen = self.spec.quotas.contains_key(key) || figures.subtree > 0 || figures.used > 0;
            seen.then(|| QuotaUse::of(key, &figures))
        });
        let mut quotas: Vec<_> = quotas.collect();
        quotas.sort_by(|a, b| (&a.class, a.resource).cmp(&(&b.class, b.resource)));
        QuotaNode {
            kind: self.spec.id.kind(),
            id: self.spec.id.id(),
            name: self.name.clone(),
            parent: self.spec.parent.map(NodeId::id),
            weight_milli: self.spec.weight_milli,
            policies: self.spec.policies,
            quotas,
            revision: self.revision,
            created_at: self.created_at,
        }
    }
}
