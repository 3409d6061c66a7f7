//! What a decision makes true: [`Snapshot::apply`](domain::planner::Snapshot),
//! and what the database looks at besides.

use domain::Timestamp;
use domain::planner::{Decision, Hold};
use domain::quotas::NodeId;
use domain::{PlacementId, WorkerId, WorkloadId};
use uuid::Uuid;

use super::{Database, Refused, Tx};

impl Database {
    /// Makes decisions of a plan true, in their order: all or none.
    pub fn apply(&mut self, tx: Tx, decisions: &[Decision], now: Timestamp) -> Result<(), Refused> {
        self.commit_fenced(tx, |db| decisions.iter().try_for_each(|decision| db.apply_one(decision, now)))
    }

    fn apply_one(&mut self, decision: &Decision, now: Timestamp) -> Result<(), Refused> {
        match decision {
            Decision::CreateWorkloads { owner, existing, .. } => {
                let open = self.facts.workloads.values().filter(|w| w.owner == *owner).count();
                expect(!self.over.contains(owner), "nobody wants these workloads any more")?;
                expect(open == *existing as usize, "the number of workloads has changed")?;
            }
            Decision::Evict { preemptor, .. } => {
                expect(self.facts.workloads.contains_key(preemptor), "nobody needs the room any more")?;
            }
            Decision::EndPlacement { placement, .. } => self.discount(*placement),
            Decision::Place { workload, worker, holds, .. } => self.may_place(*workload, *worker, holds)?,
            _ => {}
        }
        let ids = &mut self.ids;
        let mut id = || {
            *ids += 1;
            Uuid::from_u128(*ids)
        };
        let applied = self.facts.apply(decision, now, &mut id);
        applied.map(|_| ()).map_err(|_| Refused::Conflict("overtaken"))
    }

    /// Workers and tenants as they are now, devices and quotas.
    fn may_place(&mut self, id: WorkloadId, worker: WorkerId, holds: &[Hold]) -> Result<(), Refused> {
        let workload = self.facts.workloads.get(&id).ok_or(Refused::Conflict("the workload has ended"))?;
        let worker = self.facts.workers.get(&worker).ok_or(Refused::Conflict("no such worker"))?;
        expect(worker.live && !worker.cordoned, "a worker takes nothing new")?;
        if let Some(bounds) = self.facts.tenants.get(&workload.tenant_id) {
            let inside = bounds.zones.is_empty() || bounds.zones.iter().any(|z| z == worker.zone.as_str());
            expect(bounds.closed.is_none() && inside, "the tenant may begin nothing there")?;
        }
        expect(self.facts.is_cleared(workload.tenant_id, worker.id), "the worker is not cleared for it")?;
        for hold in holds {
            let device = worker.devices.iter().find(|device| device.id == hold.device_id);
            let device = device.ok_or(Refused::Conflict("a device is gone"))?;
            let fits = device.used_memory_bytes + hold.memory_bytes <= device.memory_bytes
                && device.used_milli + hold.milli <= device.milli;
            expect(fits, "the device has no room")?;
        }
        let (tenant, milli) = (NodeId::Tenant(workload.tenant_id), workload.resources.milli);
        expect(self.ledger.count(tenant, milli.into()), "no quota is left")
    }

    /// A placement that is about to end gives its quota back.
    fn discount(&mut self, id: PlacementId) {
        if let Some(placement) = self.facts.placements.get(&id) {
            let amount = -i64::from(placement.resources.milli);
            self.ledger.count(NodeId::Tenant(placement.tenant_id), amount);
        }
    }

    pub(super) fn end_placement(&mut self, id: PlacementId) {
        self.discount(id);
        self.facts.end_placement(id);
    }
}

fn expect(so: bool, otherwise: &'static str) -> Result<(), Refused> {
    if so { Ok(()) } else { Err(Refused::Conflict(otherwise)) }
}
