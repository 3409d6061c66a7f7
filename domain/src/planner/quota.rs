//! What the quota planner is told of the facts.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Closed, Intent, LivePlacement, Snapshot, budgets};
use crate::accelerators::ResourceRequest;
use crate::quotas::{
    Admissions, Amount, Ask, Group, Hold, Holding, HoldingStanding, Key, Level, MAX_AMOUNT, NodeId, NodeSpec,
    Quota, Resource, Settings,
};
use crate::workloads::{Workload, WorkloadOwner};
use crate::{CohortId, ProjectId, TenantId, Timestamp, WorkloadId};

/// The cohort of those that no quota binds. It is in no database.
const UNBOUND: NodeId = NodeId::Cohort(CohortId(Uuid::nil()));

/// What the tree lists, and who is outside of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    tenants: BTreeSet<TenantId>,
    /// Tenants whose memory of a class is counted.
    memory: BTreeSet<(TenantId, String)>,
    /// Tenants outside of the tree, and what they asked for.
    unbound: BTreeMap<TenantId, BTreeSet<String>>,
}

impl Listed {
    pub fn of(facts: &Snapshot) -> Self {
        let mut new = Self::default();
        for node in &facts.quotas {
            let NodeId::Tenant(tenant) = node.id else { continue };
            new.tenants.insert(tenant);
            let memory = node.quotas.keys().filter(|key| key.resource == Resource::MemoryBytes);
            new.memory.extend(memory.map(|key| (tenant, key.class.to_string())));
        }
        let (mut ignored, all) = (false, &facts.workloads);
        all.values().for_each(|w| new.want(w.tenant_id, &w.resources, &mut ignored));
        facts.placements.values().for_each(|p| new.want(p.tenant_id, &p.resources, &mut ignored));
        new
    }

    /// A tenant asks for classes; `grows` if the tree must grow for them.
    pub fn want(&mut self, tenant: TenantId, request: &ResourceRequest, grows: &mut bool) {
        if self.tenants.contains(&tenant) {
            return;
        }
        for class in request.classes() {
            if self.unbound.get(&tenant).is_none_or(|known| !known.contains(class)) {
                self.unbound.entry(tenant).or_default().insert(class.to_owned());
                *grows = true;
            }
        }
    }
}

pub(super) fn settings(facts: &Snapshot) -> Settings {
    Settings { fair_sharing: facts.fair_sharing, history: None }
}

/// The tree. Tenants outside of it are bound by devices alone; they share one
/// more tree, so that they wait in one order.
pub(super) fn nodes(facts: &Snapshot, listed: &Listed) -> Vec<NodeSpec> {
    let mut nodes = facts.quotas.clone();
    nodes.push(NodeSpec::new(UNBOUND, None));
    for (tenant, classes) in &listed.unbound {
        let mut node = NodeSpec::new(NodeId::Tenant(*tenant), Some(UNBOUND));
        let all = Quota { nominal: MAX_AMOUNT, ..Quota::default() };
        node.quotas = classes.iter().map(|class| (Key::milli(class), all)).collect();
        nodes.push(node);
    }
    budgets::add(&facts.budgets, &mut nodes);
    nodes
}

pub(super) fn admissions(facts: &Snapshot, listed: &Listed) -> Admissions {
    Admissions::new(settings(facts), nodes(facts, listed)).expect("a tree is checked when it is stored")
}

/// What is held, or is to be, in one of the acceptable classes.
pub(super) fn held(ask: Ask, option: usize, since: Timestamp, standing: HoldingStanding) -> Holding {
    Holding { ask: Ask { hold: None, ..ask }, option, count: 1, reserved_at: since, standing }
}

/// Why nothing of a tenant is let into its queue. The level is not told: it is
/// the tenant that may begin nothing, whatever its workload asks for.
pub(super) fn hold(closed: Closed) -> Hold {
    Hold { level: Level::Quota, detail: closed.reason().to_owned() }
}

/// What a workload asks of its tenant's quota.
pub(super) struct Wanted<'a> {
    pub id: WorkloadId,
    pub tenant: TenantId,
    pub project: Option<ProjectId>,
    pub owner: WorkloadOwner,
    pub priority: i32,
    pub queued_at: Timestamp,
    pub resources: &'a ResourceRequest,
    /// Replicas of its endpoint above this many go first.
    pub floor: u32,
}

/// Of how many replicas none goes before others.
pub(super) fn floor(intent: Option<&Intent>) -> u32 {
    intent.map_or(1, |intent| intent.floor)
}

impl<'a> Wanted<'a> {
    pub fn of_workload(workload: &'a Workload, intent: Option<&Intent>) -> Self {
        Self {
            id: workload.id,
            tenant: workload.tenant_id,
            project: intent.map(|intent| intent.project_id),
            owner: workload.owner,
            priority: workload.priority,
            queued_at: workload.queued_at,
            resources: &workload.resources,
            floor: floor(intent),
        }
    }

    pub fn of_placement(placement: &'a LivePlacement, intent: Option<&Intent>, queued_at: Timestamp) -> Self {
        Self {
            id: placement.workload_id,
            tenant: placement.tenant_id,
            project: Some(placement.project_id),
            owner: placement.owner,
            priority: placement.priority,
            queued_at,
            resources: &placement.resources,
            floor: floor(intent),
        }
    }

    pub fn ask(&self, listed: &Listed) -> Ask {
        let option = |class: &str| {
            let mut option = vec![(Key::milli(class), Amount::from(self.resources.milli))];
            // Memory counts where the tenant's quota lists it.
            if listed.memory.contains(&(self.tenant, class.to_owned())) {
                let memory = Key { class: class.into(), resource: Resource::MemoryBytes };
                let bytes = Amount::try_from(self.resources.memory_bytes).unwrap_or(MAX_AMOUNT);
                option.push((memory, bytes.min(MAX_AMOUNT)));
            }
            option
        };
        let group = match self.owner {
            // What is lent can be taken back, whatever its borrower calls the least.
            WorkloadOwner::Endpoint(endpoint) => {
                Some(Group { endpoint, min_replicas: self.floor, guaranteed: 0 })
            }
            WorkloadOwner::Job(_) => None,
        };
        Ask {
            id: self.id,
            tenant: self.tenant,
            project: self.project,
            priority: self.priority,
            queued_at: self.queued_at,
            options: self.resources.classes().map(option).collect(),
            count: 1,
            min_count: None,
            group,
            budget: Vec::new(),
            hold: None,
            kind: 0,
        }
    }
}
