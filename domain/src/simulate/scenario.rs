//! What a simulation begins with and what happens to it: a description, checked.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::cluster::{ClusterSpec, CohortSpec, PickSpec, PoolSpec, TenantSpec, WhatIfSpec, WorkersSpec};
use super::{Job, MAX_SECS, MAX_TENANTS, MAX_WORKERS, Micros, SECOND};
use crate::accelerators::{DeviceReport, ResourceRequest};
use crate::planner::TenantBounds;
use crate::quotas::{
    Key, LinesError, MAX_WEIGHT_MILLI, NodeId, NodeSpec, Quota, QuotaLine, Tree, TreeError, quotas,
};
use crate::tenants::{Classification, Slug};
use crate::workers::MAX_DEVICES;
use crate::{CohortId, ProjectId, TenantId};

/// A worker of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// By what it is picked.
    pub group: Slug,
    /// Its name.
    pub name: Slug,
    /// Where it stands.
    pub zone: Slug,
    /// Pool it belongs to.
    pub pool: Slug,
    /// Whether that is dedicated to tenants.
    pub dedicated: bool,
    /// How secret the work may be that is placed on it.
    pub clearance: Classification,
    /// Takes nothing.
    pub cordoned: bool,
    /// When it joins, in microseconds.
    pub at_us: Micros,
    /// What it has.
    pub devices: Vec<DeviceReport>,
}

/// Why a description describes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// Nothing to place on.
    #[error("no workers: describe some in [[workers]]")]
    NoWorkers,
    /// More than is simulated.
    #[error("more than {0} {1}")]
    TooMany(usize, &'static str),
    /// A number is out of bounds.
    #[error("{0}: {1}")]
    Bounds(String, String),
    /// Two of one name.
    #[error("{0} is there twice: give each another name")]
    Twice(String),
    /// A name that nothing has.
    #[error("{0} names {1}, which is not there")]
    Unknown(String, String),
    /// Quotas that cannot be.
    #[error("quotas of {0}: {1}")]
    Quotas(String, LinesError),
    /// Work of a tenant that is not described.
    #[error(
        "line {line}: tenant {tenant} is not in the cluster description: list it in [[tenants]], without quotas if devices alone bind it"
    )]
    Tenant {
        /// Of the trace.
        line: usize,
        /// Whose.
        tenant: Slug,
    },
}

/// A tenant.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub id: TenantId,
    pub name: Slug,
    pub weight_milli: u32,
    /// In the quota tree.
    pub has_quotas: bool,
    pub bounds: TenantBounds,
}

/// Something that is done to the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// The quota tree is this from now on.
    Quotas(Vec<NodeSpec>),
    /// A worker joins: its place in [`Scenario::machines`].
    Joins(usize),
    /// It takes nothing new.
    Cordoned(usize),
    /// It is gone.
    Gone(usize),
}

/// A fleet, its quotas, and what happens to them.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(super) fair_sharing: bool,
    pub(super) drain_us: Micros,
    pub(super) machines: Vec<Machine>,
    pub(super) tenants: Vec<Tenant>,
    pub(super) projects: BTreeMap<(TenantId, Slug), ProjectId>,
    /// In the order in which it happens.
    pub(super) timeline: Vec<(Micros, Happening)>,
}

/// What identifiers of the description are of.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Tenant = 1,
    Project,
    Cohort,
    Worker,
    Device,
    Work,
    Placement,
    Version,
}

/// The identifier of number `n` of a kind.
pub(super) fn id(of: Of, n: usize) -> Uuid {
    Uuid::from_u128(((of as u128) << 64) | n as u128)
}

/// The number again.
pub(super) fn number(id: Uuid) -> usize {
    usize::try_from(id.as_u128() & u128::from(u64::MAX)).unwrap_or(usize::MAX)
}

impl Scenario {
    /// Checks a description, with `machines` that are there beside those of it,
    /// the changes of `what_if`, and tenants of the trace where none is described.
    pub fn new(
        cluster: &ClusterSpec,
        mut machines: Vec<Machine>,
        what_if: Option<&WhatIfSpec>,
        jobs: &[Job],
    ) -> Result<Self, ScenarioError> {
        let none = WhatIfSpec::default();
        let change = what_if.unwrap_or(&none);
        for group in cluster.workers.iter().chain(&change.add) {
            add(group, &mut machines)?;
        }
        if machines.is_empty() {
            return Err(ScenarioError::NoWorkers);
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = machines.iter().find(|machine| !names.insert(&machine.name)) {
            return Err(ScenarioError::Twice(format!("worker {}", twice.name)));
        }
        let mut new = Self {
            fair_sharing: change.fair_sharing.unwrap_or(cluster.fair_sharing),
            drain_us: micros("drain_secs", change.drain_secs.unwrap_or(cluster.drain_secs))?,
            machines,
            tenants: Vec::new(),
            projects: BTreeMap::new(),
            timeline: Vec::new(),
        };
        let cohorts = merged(&cluster.cohorts, &change.cohorts, |cohort| &cohort.name);
        let tenants = merged(&cluster.tenants, &change.tenants, |tenant| &tenant.name);
        new.know(&tenants, &cluster.pools, jobs)?;
        new.dedicate(&cluster.pools)?;
        let after = new.tree(&cohorts, &tenants)?;
        let changes_later = change.quotas_at_secs > 0;
        if changes_later {
            new.timeline.push((0, Happening::Quotas(new.clone().tree(&cluster.cohorts, &cluster.tenants)?)));
        }
        let at = micros("quotas_at_secs", change.quotas_at_secs)?;
        new.timeline.push((at, Happening::Quotas(after)));
        let joins =
            new.machines.iter().enumerate().map(|(ix, machine)| (machine.at_us, Happening::Joins(ix)));
        new.timeline.extend(joins.collect::<Vec<_>>());
        for (picks, what) in [
            (&change.cordon, Happening::Cordoned as fn(usize) -> Happening),
            (&change.remove, Happening::Gone),
        ] {
            for pick in picks {
                new.pick(pick, what)?;
            }
        }
        new.timeline.sort_by_key(|(at, _)| *at);
        Ok(new)
    }

    /// Devices of a class that a request could ever be on: whether there is one.
    pub fn could_take(&self, request: &ResourceRequest) -> bool {
        self.machines.iter().flat_map(|machine| &machine.devices).any(|device| {
            request.option(&device.class).is_some()
                && device.milli >= request.milli
                && device.memory_bytes >= request.memory_bytes
        })
    }

    /// The largest device of a class: thousandths and memory.
    pub fn largest(&self, class: &str) -> Option<(u32, u64)> {
        let devices = self.machines.iter().flat_map(|machine| &machine.devices);
        devices.filter(|device| device.class == class).map(|d| (d.milli, d.memory_bytes)).max()
    }

    /// How many workers it has, also those that join later.
    pub fn workers(&self) -> usize {
        self.machines.len()
    }

    /// Keeps the workers of pools for whom they are dedicated to.
    fn dedicate(&mut self, pools: &[PoolSpec]) -> Result<(), ScenarioError> {
        let mut names = BTreeSet::new();
        for pool in pools {
            let whose = || format!("pool {}", pool.name);
            if !names.insert(&pool.name) {
                return Err(ScenarioError::Twice(whose()));
            }
            let known = |name: &&Slug| self.tenants.iter().any(|tenant| tenant.name == **name);
            if let Some(unknown) = pool.tenants.iter().find(|name| !known(name)) {
                return Err(ScenarioError::Unknown(whose(), format!("the tenant {unknown}")));
            }
        }
        for machine in &mut self.machines {
            machine.dedicated = names.contains(&machine.pool);
        }
        Ok(())
    }

    /// Learns of tenants and their projects.
    fn know(
        &mut self,
        tenants: &[TenantSpec],
        pools: &[PoolSpec],
        jobs: &[Job],
    ) -> Result<(), ScenarioError> {
        let mut ids = BTreeMap::new();
        for spec in tenants {
            let bounds = TenantBounds {
                closed: None,
                zones: spec.zones.iter().map(ToString::to_string).collect(),
                pools: dedicated(pools, &spec.name),
                classification: spec.classification,
            };
            let weight_milli = weight(&format!("tenant {}", spec.name), spec.weight_milli)?;
            let id = self.tenant(&mut ids, &spec.name, weight_milli, bounds, spec.quotas.is_some());
            let Some(id) = id else { return Err(ScenarioError::Twice(format!("tenant {}", spec.name))) };
            for project in &spec.projects {
                if self.project(id, &project.name).1 {
                    return Err(ScenarioError::Twice(format!("project {} of {}", project.name, spec.name)));
                }
            }
        }
        for job in jobs {
            if !ids.contains_key(&job.tenant) {
                if !tenants.is_empty() {
                    return Err(ScenarioError::Tenant { line: job.line, tenant: job.tenant.clone() });
                }
                let bounds = TenantBounds { pools: dedicated(pools, &job.tenant), ..TenantBounds::default() };
                self.tenant(&mut ids, &job.tenant, 1000, bounds, false);
            }
            if let Some(project) = &job.project {
                self.project(ids[&job.tenant], project);
            }
        }
        if self.tenants.len() > MAX_TENANTS {
            return Err(ScenarioError::TooMany(MAX_TENANTS, "tenants"));
        }
        Ok(())
    }

    fn tenant(
        &mut self,
        ids: &mut BTreeMap<Slug, TenantId>,
        name: &Slug,
        weight_milli: u32,
        bounds: TenantBounds,
        has_quotas: bool,
    ) -> Option<TenantId> {
        let id = TenantId(id(Of::Tenant, self.tenants.len()));
        if ids.insert(name.clone(), id).is_some() {
            return None;
        }
        self.tenants.push(Tenant { id, name: name.clone(), weight_milli, has_quotas, bounds });
        Some(id)
    }

    /// The identifier of a project, and whether it was known.
    fn project(&mut self, tenant: TenantId, name: &Slug) -> (ProjectId, bool) {
        let next = ProjectId(id(Of::Project, 1 + self.projects.len()));
        let mut known = true;
        let id = *self.projects.entry((tenant, name.clone())).or_insert_with(|| {
            known = false;
            next
        });
        (id, known)
    }

    /// The nodes of the quota tree, cohorts before what is in them.
    fn tree(
        &mut self,
        cohorts: &[CohortSpec],
        tenants: &[TenantSpec],
    ) -> Result<Vec<NodeSpec>, ScenarioError> {
        let mut names = BTreeMap::new();
        let mut ids: BTreeMap<&Slug, NodeId> = BTreeMap::new();
        for (n, cohort) in cohorts.iter().enumerate() {
            let node = NodeId::Cohort(CohortId(id(Of::Cohort, n)));
            names.insert(node, format!("cohort {}", cohort.name));
            if ids.insert(&cohort.name, node).is_some() {
                return Err(ScenarioError::Twice(format!("cohort {}", cohort.name)));
            }
        }
        let parent = |whose: String, parent: &Option<Slug>| match parent {
            None => Ok(None),
            Some(name) => match ids.get(name) {
                Some(id) => Ok(Some(*id)),
                None => Err(ScenarioError::Unknown(whose, format!("the cohort {name}"))),
            },
        };
        let mut nodes = Vec::new();
        for cohort in above_first(cohorts)? {
            let whose = format!("cohort {}", cohort.name);
            let mut node = NodeSpec::new(ids[&cohort.name], parent(whose.clone(), &cohort.parent)?);
            node.weight_milli = weight(&whose, cohort.weight_milli)?;
            node.quotas = lines(&whose, &cohort.quotas)?;
            nodes.push(node);
        }
        let known: BTreeMap<Slug, TenantId> =
            self.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.id)).collect();
        for tenant in tenants {
            let Some(&tenant_id) = known.get(&tenant.name) else { continue };
            let whose = format!("tenant {}", tenant.name);
            let id = NodeId::Tenant(tenant_id);
            let Some(quotas) = &tenant.quotas else {
                if tenant.cohort.is_some() || !tenant.projects.is_empty() {
                    let why =
                        "is in a cohort or has projects, but no quotas: add quotas = [] or some".to_owned();
                    return Err(ScenarioError::Bounds(whose, why));
                }
                continue;
            };
            let mut node = NodeSpec::new(id, parent(whose.clone(), &tenant.cohort)?);
            node.weight_milli = weight(&whose, tenant.weight_milli)?;
            node.policies = tenant.policies;
            node.quotas = lines(&whose, quotas)?;
            names.insert(id, whose);
            nodes.push(node);
            for project in &tenant.projects {
                let whose = format!("project {} of {}", project.name, tenant.name);
                let project_id = NodeId::Project(self.project(tenant_id, &project.name).0);
                let mut node = NodeSpec::new(project_id, Some(id));
                node.quotas = lines(&whose, &project.quotas)?;
                names.insert(project_id, whose);
                nodes.push(node);
            }
        }
        match Tree::new(&nodes) {
            Ok(_) => Ok(nodes),
            Err(error) => {
                let (TreeError::Twice(node)
                | TreeError::Parent(node)
                | TreeError::Depth(node)
                | TreeError::Amount(node)) = error;
                let whose = names.get(&node).cloned().unwrap_or_default();
                let why = match error {
                    TreeError::Twice(_) => "is there twice",
                    TreeError::Parent(_) => "needs a cohort that is there",
                    TreeError::Depth(_) => "is below itself, or too deep",
                    TreeError::Amount(_) => "has a quantity out of bounds",
                };
                Err(ScenarioError::Bounds(whose, why.to_owned()))
            }
        }
    }

    fn pick(&mut self, pick: &PickSpec, what: fn(usize) -> Happening) -> Result<(), ScenarioError> {
        let whose = || "a change".to_owned();
        let at = micros("at_secs", pick.at_secs)?;
        let of_group = (0..self.machines.len()).rev().filter(|ix| self.machines[*ix].group == pick.workers);
        let of_group: Vec<usize> = of_group.collect();
        if of_group.is_empty() {
            return Err(ScenarioError::Unknown(whose(), format!("the workers {}", pick.workers)));
        }
        let some = pick.count.map_or(of_group.len(), |count| count as usize);
        if some > of_group.len() {
            let why = format!("{some} workers are picked of {}", of_group.len());
            return Err(ScenarioError::Bounds(format!("workers {}", pick.workers), why));
        }
        self.timeline.extend(of_group.into_iter().take(some).map(|ix| (at, what(ix))));
        Ok(())
    }
}

/// The pools that are dedicated to a tenant.
fn dedicated(pools: &[PoolSpec], tenant: &Slug) -> Vec<String> {
    pools.iter().filter(|pool| pool.tenants.contains(tenant)).map(|pool| pool.name.to_string()).collect()
}

/// Adds the workers of a group.
fn add(group: &WorkersSpec, machines: &mut Vec<Machine>) -> Result<(), ScenarioError> {
    let whose = || format!("workers {}", group.name);
    let wrong = |why: String| Err(ScenarioError::Bounds(whose(), why));
    if group.count as usize > MAX_WORKERS || machines.len() + group.count as usize > MAX_WORKERS {
        return Err(ScenarioError::TooMany(MAX_WORKERS, "workers"));
    }
    if group.devices == 0 || group.devices as usize > MAX_DEVICES {
        return wrong(format!("devices must be 1 to {MAX_DEVICES}"));
    }
    if group.milli == 0 || group.class.is_empty() {
        return wrong("needs a class, and milli of at least 1".to_owned());
    }
    if machines.iter().any(|machine| machine.group == group.name) {
        return Err(ScenarioError::Twice(whose()));
    }
    let at_us = micros("at_secs", group.at_secs)?;
    for n in 1..=group.count {
        let Ok(name) = format!("{}-{n}", group.name).parse() else {
            return wrong("the name is too long to be numbered".to_owned());
        };
        let device = |ordinal| DeviceReport {
            ordinal,
            class: group.class.clone(),
            memory_bytes: group.memory_bytes,
            milli: group.milli,
        };
        machines.push(Machine {
            group: group.name.clone(),
            name,
            zone: group.zone.clone(),
            pool: group.pool.clone(),
            dedicated: false,
            clearance: group.clearance,
            cordoned: group.cordoned,
            at_us,
            devices: (0..group.devices).map(device).collect(),
        });
    }
    Ok(())
}

/// The first ones, with those of the second instead of those of the same name.
fn merged<T: Clone>(base: &[T], change: &[T], name: impl Fn(&T) -> &Slug) -> Vec<T> {
    let mut all = base.to_vec();
    for new in change {
        match all.iter_mut().find(|old| name(old) == name(new)) {
            Some(old) => *old = new.clone(),
            None => all.push(new.clone()),
        }
    }
    all
}

/// Cohorts, each after the one that it is in.
fn above_first(cohorts: &[CohortSpec]) -> Result<Vec<&CohortSpec>, ScenarioError> {
    let known: BTreeSet<&Slug> = cohorts.iter().map(|cohort| &cohort.name).collect();
    let mut sorted: Vec<&CohortSpec> = Vec::new();
    let mut placed: BTreeSet<&Slug> = BTreeSet::new();
    let mut left: Vec<&CohortSpec> = cohorts.iter().collect();
    while !left.is_empty() {
        let ready = |cohort: &&CohortSpec| {
            cohort.parent.as_ref().is_none_or(|parent| placed.contains(parent) || !known.contains(parent))
        };
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
        if now.is_empty() {
            let name = later.first().map(|cohort| cohort.name.to_string()).unwrap_or_default();
            return Err(ScenarioError::Bounds(format!("cohort {name}"), "is below itself".to_owned()));
        }
        placed.extend(now.iter().map(|cohort| &cohort.name));
        sorted.extend(now);
        left = later;
    }
    Ok(sorted)
}

fn lines(whose: &str, of: &[QuotaLine]) -> Result<BTreeMap<Key, Quota>, ScenarioError> {
    quotas(of).map_err(|error| ScenarioError::Quotas(whose.to_owned(), error))
}

fn weight(whose: &str, weight_milli: u32) -> Result<u32, ScenarioError> {
    if weight_milli <= MAX_WEIGHT_MILLI {
        return Ok(weight_milli);
    }
    let why = format!("weight_milli must be at most {MAX_WEIGHT_MILLI}");
    Err(ScenarioError::Bounds(whose.to_owned(), why))
}

fn micros(what: &str, secs: u64) -> Result<Micros, ScenarioError> {
    if secs <= MAX_SECS {
        return Ok(secs * SECOND);
    }
    Err(ScenarioError::Bounds(what.to_owned(), format!("must be at most {MAX_SECS} seconds")))
}
