//! What tenants, administrators and jobs change: each in a transaction that may
//! take its time.

use domain::accelerators::ResourceRequest;
use domain::planner::{Closed, Intent, TenantBounds};
use domain::quotas::{NodeId, NodeSpec, Quota, Reclaim, Strategy, WithinTenant};
use domain::tenants::Classification;
use domain::workloads::{ENDPOINT_PRIORITY, JOB_PRIORITY, WorkloadOwner};
use domain::{CohortId, EndpointId, JobId, ProjectId, TenantId, VersionId, WorkerId};
use uuid::Uuid;

use super::database::Database;
use super::feed::Xid;
use super::ledger::{Ledger, key};
use super::{Event, MILLI, SECOND, World};

/// Zones that workers are in.
pub const ZONES: [&str; 2] = ["north", "south"];
const COHORT: NodeId = NodeId::Cohort(CohortId(Uuid::from_u128(1 << 100)));
const MOST_OWNERS: usize = 6;
const GB: u64 = 1 << 30;

/// The tenants of every schedule; quotas bind all but the last.
pub const TENANTS: [TenantId; 3] = [
    TenantId(Uuid::from_u128(1 << 101)),
    TenantId(Uuid::from_u128(2 << 101)),
    TenantId(Uuid::from_u128(3 << 101)),
];

/// A change that somebody makes.
#[derive(Clone, Debug)]
pub enum Wish {
    Begin(WorkloadOwner, Box<Intent>),
    Scale(WorkloadOwner, u32),
    /// An endpoint is deleted, or a job is over.
    End(WorkloadOwner),
    Cordon(WorkerId, bool),
    Clear(WorkerId, Classification),
    Bound(TenantId, TenantBounds),
    Quota(Box<NodeSpec>),
}

impl Database {
    /// The tree that a schedule begins with.
    pub fn set_up_quotas(&mut self) {
        self.facts.quotas = vec![NodeSpec::new(COHORT, None)];
        self.ledger = Ledger::new(&self.facts.quotas, std::iter::empty());
    }

    fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Begin(owner, intent) => {
                self.facts.intents.insert(owner, *intent);
            }
            Wish::Scale(owner, count) => {
                if let Some(intent) = self.facts.intents.get_mut(&owner) {
                    (intent.count, intent.floor) = (count, (count / 2).max(1));
                }
            }
            Wish::End(owner) => {
                self.facts.intents.remove(&owner);
                self.over.insert(owner);
            }
            Wish::Cordon(worker, cordoned) => {
                let worker = self.facts.workers.get_mut(&worker).expect("workers stay");
                worker.cordoned = cordoned;
                worker.revision += 1;
            }
            Wish::Clear(worker, clearance) => {
                let worker = self.facts.workers.get_mut(&worker).expect("workers stay");
                worker.clearance = clearance;
                worker.revision += 1;
            }
            Wish::Bound(tenant, bounds) => {
                if bounds == TenantBounds::default() {
                    self.facts.tenants.remove(&tenant);
                } else {
                    self.facts.tenants.insert(tenant, bounds);
                }
            }
            Wish::Quota(node) => {
                self.facts.quotas.retain(|other| other.id != node.id);
                self.facts.quotas.push(*node);
            }
        }
    }
}

impl World {
    /// Somebody begins a transaction.
    pub fn wish(&mut self) {
        let Some(wish) = self.some_wish() else { return };
        self.say(|| format!("wish {wish:?}"));
        let xid = self.db.feed.begin();
        let most = if self.random.once_in(8) { 5 * SECOND } else { 20 * MILLI };
        self.later(MILLI, most, Event::Commit(xid, Box::new(wish)));
    }

    pub fn commit_wish(&mut self, xid: Xid, wish: Wish) {
        let done = self.db.commit(xid, |db| {
            db.fulfil(wish);
            Ok(())
        });
        done.expect("a wish is never refused");
        self.notice();
    }

    fn some_wish(&mut self) -> Option<Wish> {
        let owners: Vec<WorkloadOwner> = self.db.facts.intents.keys().copied().collect();
        let workers: Vec<WorkerId> = self.db.facts.workers.keys().copied().collect();
        let tenant = self.random.pick(&TENANTS)?;
        Some(match self.random.below(14) {
            0..=3 if owners.len() < MOST_OWNERS => self.some_owner(tenant),
            0..=5 => match self.random.pick(&owners)? {
                owner @ WorkloadOwner::Endpoint(_) => Wish::Scale(owner, self.random.few(1, 4)),
                // Its chunks are done.
                owner @ WorkloadOwner::Job(_) => Wish::Scale(owner, 0),
            },
            6 => Wish::End(self.random.pick(&owners)?),
            7 => Wish::Cordon(self.random.pick(&workers)?, self.random.once_in(2)),
            8 => {
                let closed = self.random.once_in(2).then_some(Closed::Suspended);
                Wish::Bound(tenant, TenantBounds { closed, ..TenantBounds::default() })
            }
            9 => {
                let zones = ZONES[..self.random.index(2)].iter().map(ToString::to_string).collect();
                Wish::Bound(tenant, TenantBounds { zones, ..TenantBounds::default() })
            }
            10 => Wish::Clear(self.random.pick(&workers)?, self.random.pick(&Classification::ALL)?),
            11 => {
                let classification = self.random.pick(&Classification::ALL)?;
                Wish::Bound(tenant, TenantBounds { classification, ..TenantBounds::default() })
            }
            _ => self.some_quota(tenant)?,
        })
    }

    fn some_owner(&mut self, tenant_id: TenantId) -> Wish {
        let (owner, priority, count) = if self.random.once_in(2) {
            (WorkloadOwner::Endpoint(self.db.id::<EndpointId>()), ENDPOINT_PRIORITY, self.random.few(1, 3))
        } else {
            (WorkloadOwner::Job(self.db.id::<JobId>()), JOB_PRIORITY, self.random.few(1, 2))
        };
        let milli = 250 * self.random.few(1, 6);
        let memory_bytes = self.random.between(1, 4) * GB;
        let intent = Intent {
            tenant_id,
            project_id: ProjectId(tenant_id.0),
            priority,
            version_id: self.db.id::<VersionId>(),
            resources: ResourceRequest {
                class: "cpu".to_owned(),
                alternatives: Vec::new(),
                memory_bytes,
                milli,
            },
            count,
            floor: 1,
        };
        Wish::Begin(owner, Box::new(intent))
    }

    fn some_quota(&mut self, tenant: TenantId) -> Option<Wish> {
        if tenant == TENANTS[2] {
            return None;
        }
        let mut node = NodeSpec::new(NodeId::Tenant(tenant), Some(COHORT));
        let nominal = i64::from(self.random.few(0, 6)) * 500;
        let lending_limit = self.random.once_in(3).then(|| i64::from(self.random.few(0, 2)) * 500);
        let borrowing_limit = self.random.once_in(3).then(|| i64::from(self.random.few(0, 3)) * 500);
        node.quotas.insert(key(), Quota { nominal, lending_limit, borrowing_limit });
        let policies = &mut node.policies;
        policies.within = self.random.pick(&[WithinTenant::Never, WithinTenant::LowerPriority])?;
        policies.reclaim = self.random.pick(&[Reclaim::Never, Reclaim::LowerPriority, Reclaim::Any])?;
        policies.strategy = self.random.pick(&[Strategy::BestEffortFifo, Strategy::StrictFifo])?;
        Some(Wish::Quota(Box::new(node)))
    }
}
