//! Descriptions of a fleet with its quotas, and of changes to them, as people
//! write them. Fields are named as in the REST API; names stand for identifiers.

use serde::{Deserialize, Serialize};

use crate::accelerators::WHOLE_MILLI;
use crate::quotas::{Policies, QuotaLine};
use crate::tenants::{Classification, Slug};
use crate::workers::DRAIN_LIMIT_SECS;

/// A fleet and its quota tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// As the scheduler's setting of that name.
    #[serde(default)]
    pub fair_sharing: bool,
    /// How long work that is made to leave stays, unless it ends before.
    #[serde(default = "drain_secs")]
    pub drain_secs: u64,
    /// Workers, by groups that are alike.
    #[serde(default)]
    pub workers: Vec<WorkersSpec>,
    /// Cohorts of the quota tree, in any order.
    #[serde(default)]
    pub cohorts: Vec<CohortSpec>,
    /// Pools of workers that are dedicated to tenants.
    #[serde(default)]
    pub pools: Vec<PoolSpec>,
    /// Tenants. Where none is listed, those of the trace are bound by devices alone.
    #[serde(default)]
    pub tenants: Vec<TenantSpec>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            fair_sharing: false,
            drain_secs: drain_secs(),
            workers: Vec::new(),
            cohorts: Vec::new(),
            pools: Vec::new(),
            tenants: Vec::new(),
        }
    }
}

/// Workers that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkersSpec {
    /// Name of the group. Workers are called `NAME-1`, `NAME-2` and so on.
    pub name: Slug,
    /// How many workers.
    #[serde(default = "one")]
    pub count: u32,
    /// Accelerator class of their devices.
    pub class: String,
    /// Devices of each.
    #[serde(default = "one")]
    pub devices: u32,
    /// Memory of each device that work may use.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Capacity of each device: 1000 for an accelerator, or per core of class `cpu`.
    #[serde(default = "whole")]
    pub milli: u32,
    /// Where they stand.
    #[serde(default = "default_place")]
    pub zone: Slug,
    /// Pool they belong to.
    #[serde(default = "default_place")]
    pub pool: Slug,
    /// How secret the work may be that is placed on them.
    #[serde(default)]
    pub clearance: Classification,
    /// Take nothing.
    #[serde(default)]
    pub cordoned: bool,
    /// When they join.
    #[serde(default)]
    pub at_secs: u64,
}

/// A pool that is dedicated to tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// The name that its workers have as theirs.
    pub name: Slug,
    /// To whom.
    pub tenants: Vec<Slug>,
}

/// A cohort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortSpec {
    /// Its name.
    pub name: Slug,
    /// The cohort that it is in.
    #[serde(default)]
    pub parent: Option<Slug>,
    /// Its share of what is lent, in thousandths.
    #[serde(default = "whole")]
    pub weight_milli: u32,
    /// Its own quota, for those below it.
    #[serde(default)]
    pub quotas: Vec<QuotaLine>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Its short name.
    pub name: Slug,
    /// The cohort in which it lends and borrows.
    #[serde(default)]
    pub cohort: Option<Slug>,
    /// Its share of what is lent, in thousandths. It also weighs fairness.
    #[serde(default = "whole")]
    pub weight_milli: u32,
    /// What it may do to get room.
    #[serde(default)]
    pub policies: Policies,
    /// What it may use; one without is bound by devices alone.
    #[serde(default)]
    pub quotas: Option<Vec<QuotaLine>>,
    /// Where its work may be; empty for all.
    #[serde(default)]
    pub zones: Vec<Slug>,
    /// How secret its work is.
    #[serde(default)]
    pub classification: Classification,
    /// Limits of its projects.
    #[serde(default)]
    pub projects: Vec<ProjectSpec>,
}

/// A project with limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// Its short name.
    pub name: Slug,
    /// Its limits.
    pub quotas: Vec<QuotaLine>,
}

/// Changes to a fleet and its quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhatIfSpec {
    /// What the report calls it.
    pub name: String,
    /// Instead of the cluster's.
    #[serde(default)]
    pub fair_sharing: Option<bool>,
    /// Instead of the cluster's.
    #[serde(default)]
    pub drain_secs: Option<u64>,
    /// Workers that are there too.
    #[serde(default)]
    pub add: Vec<WorkersSpec>,
    /// Workers that take nothing new from a moment on; what runs there ends.
    #[serde(default)]
    pub cordon: Vec<PickSpec>,
    /// Workers that are gone from a moment on; what runs there waits anew.
    #[serde(default)]
    pub remove: Vec<PickSpec>,
    /// Cohorts instead of those of the same name, or more of them.
    #[serde(default)]
    pub cohorts: Vec<CohortSpec>,
    /// Tenants instead of those of the same name, or more of them.
    #[serde(default)]
    pub tenants: Vec<TenantSpec>,
    /// When the cohorts and the quotas of tenants become these.
    #[serde(default)]
    pub quotas_at_secs: u64,
}

/// Some of a group's workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PickSpec {
    /// Name of the group.
    pub workers: Slug,
    /// How many, the last ones first; all where nothing is said.
    #[serde(default)]
    pub count: Option<u32>,
    /// When.
    #[serde(default)]
    pub at_secs: u64,
}

fn drain_secs() -> u64 {
    DRAIN_LIMIT_SECS
}

fn one() -> u32 {
    1
}

fn whole() -> u32 {
    WHOLE_MILLI
}

fn default_place() -> Slug {
    "default".parse().expect("it is a short name")
}
