//! What the quota planner is told of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{LivePlacement, Snapshot};
use crate::accelerators::ResourceRequest;
use crate::quotas::{
    Admissions, Amount, Ask, Group, Holding, HoldingStanding, Key, MAX_AMOUNT, NodeId, NodeSpec, Quota,
    Resource, Settings,
};
use crate::workloads::{Workload, WorkloadOwner};
use crate::{CohortId, ProjectId, TenantId, Timestamp, WorkloadId};

/// The cohort of those that no quota binds. It is in no database.
const UNBOUND: NodeId = NodeId::Cohort(CohortId(Uuid::nil()));

/// The planner with the snapshot's tree. Tenants outside of it are bound by
/// devices alone; they share one more tree, so that they wait in one order.
pub(super) fn admissions(snapshot: &Snapshot) -> Admissions {
    let mut nodes = snapshot.quotas.clone();
    let named: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let mut unbound: BTreeMap<TenantId, BTreeSet<&str>> = BTreeMap::new();
    let waiting = snapshot.workloads.values().map(|w| (w.tenant_id, &w.resources));
    let placed = snapshot.placements.values().map(|p| (p.tenant_id, &p.resources));
    for (tenant, resources) in waiting.chain(placed) {
        if !named.contains(&NodeId::Tenant(tenant)) {
            unbound.entry(tenant).or_default().insert(&resources.class);
        }
    }
    nodes.push(NodeSpec::new(UNBOUND, None));
    for (tenant, classes) in unbound {
        let mut node = NodeSpec::new(NodeId::Tenant(tenant), Some(UNBOUND));
        let all = Quota { nominal: MAX_AMOUNT, ..Quota::default() };
        node.quotas = classes.into_iter().map(|class| (Key::milli(class), all)).collect();
        nodes.push(node);
    }
    let settings = Settings { fair_sharing: snapshot.fair_sharing, history: None };
    Admissions::new(settings, nodes).expect("a tree is checked when it is stored")
}

/// What a workload that waits asks for.
pub(super) fn ask_of(snapshot: &Snapshot, workload: &Workload) -> Ask {
    let intent = snapshot.intents.get(&workload.owner);
    Wanted {
        id: workload.id,
        tenant: workload.tenant_id,
        project: intent.map(|intent| intent.project_id),
        owner: workload.owner,
        priority: workload.priority,
        queued_at: workload.queued_at,
        resources: &workload.resources,
    }
    .ask(snapshot)
}

/// What a workload holds, or is to hold, without a placement yet.
pub(super) fn held_by(
    snapshot: &Snapshot,
    workload: &Workload,
    since: Timestamp,
    standing: HoldingStanding,
) -> Holding {
    Holding { ask: ask_of(snapshot, workload), option: 0, count: 1, reserved_at: since, standing }
}

/// What a placement holds.
pub(super) fn holding(snapshot: &Snapshot, placement: &LivePlacement, standing: HoldingStanding) -> Holding {
    let wanted = Wanted {
        id: placement.workload_id,
        tenant: placement.tenant_id,
        project: Some(placement.project_id),
        owner: placement.owner,
        priority: placement.priority,
        queued_at: placement.since,
        resources: &placement.resources,
    };
    Holding { ask: wanted.ask(snapshot), option: 0, count: 1, reserved_at: placement.since, standing }
}

struct Wanted<'a> {
    id: WorkloadId,
    tenant: TenantId,
    project: Option<ProjectId>,
    owner: WorkloadOwner,
    priority: i32,
    queued_at: Timestamp,
    resources: &'a ResourceRequest,
}

impl Wanted<'_> {
    fn ask(&self, snapshot: &Snapshot) -> Ask {
        let class = &self.resources.class;
        let mut option = vec![(Key::milli(class), Amount::from(self.resources.milli))];
        // Memory counts where the tenant's quota lists it.
        let memory = Key { class: class.as_str().into(), resource: Resource::MemoryBytes };
        if snapshot.counts(self.tenant, &memory) {
            let bytes = Amount::try_from(self.resources.memory_bytes).unwrap_or(MAX_AMOUNT);
            option.push((memory, bytes.min(MAX_AMOUNT)));
        }
        let group = match self.owner {
            WorkloadOwner::Endpoint(endpoint) => Some(Group { endpoint, min_replicas: 1, guaranteed: 0 }),
            WorkloadOwner::Job(_) => None,
        };
        Ask {
            id: self.id,
            tenant: self.tenant,
            project: self.project,
            priority: self.priority,
            queued_at: self.queued_at,
            options: vec![option],
            count: 1,
            min_count: None,
            group,
            budget: Vec::new(),
            hold: None,
            kind: 0,
        }
    }
}
