//! Which transactions changed what, and which of them a reader has not seen: as
//! PostgreSQL's snapshots and the triggers of `planner_changes` say it.

use std::collections::BTreeSet;

use domain::planner::{Decision, Snapshot};
use domain::workloads::WorkloadOwner;
use domain::{PlacementId, TenantId, WorkerId, WorkloadId};

/// A transaction, numbered in the order in which they begin.
pub type Xid = u64;

/// Something that is to be read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noted {
    Tenant(TenantId),
    Quotas,
    Worker(WorkerId),
    Owner(WorkloadOwner),
    Workload(WorkloadId),
    Placement(PlacementId),
}

/// Which transactions a reader sees.
#[derive(Clone, Debug)]
pub struct Moment {
    next: Xid,
    running: BTreeSet<Xid>,
}

impl Moment {
    fn sees(&self, xid: Xid) -> bool {
        xid < self.next && !self.running.contains(&xid)
    }

    /// All before it are over.
    fn oldest(&self) -> Xid {
        self.running.first().copied().unwrap_or(self.next)
    }
}

#[derive(Default)]
pub struct Feed {
    next: Xid,
    running: BTreeSet<Xid>,
    /// What transactions that are over noted.
    noted: BTreeSet<(Xid, Noted)>,
}

impl Feed {
    pub fn begin(&mut self) -> Xid {
        let xid = self.next;
        self.next += 1;
        self.running.insert(xid);
        xid
    }

    pub fn end(&mut self, xid: Xid, noted: impl IntoIterator<Item = Noted>) {
        self.running.remove(&xid);
        self.noted.extend(noted.into_iter().map(|noted| (xid, noted)));
    }

    pub fn now(&self) -> Moment {
        Moment { next: self.next, running: self.running.clone() }
    }

    pub fn changed(&self, since: &Moment) -> BTreeSet<Noted> {
        let noted = self.noted.iter();
        noted
            .filter(|(xid, _)| *xid >= since.oldest() && !since.sees(*xid))
            .map(|(_, noted)| *noted)
            .collect()
    }

    pub fn prune(&mut self, before: &Moment) {
        self.noted.retain(|(xid, _)| *xid >= before.oldest());
    }
}

/// What a decision that was refused concerns.
pub fn concerned(decision: &Decision, doubted: &mut BTreeSet<Noted>) {
    match decision {
        Decision::DeclareLost { worker, .. } => {
            doubted.insert(Noted::Worker(*worker));
        }
        Decision::EndPlacement { placement, worker, .. } => {
            doubted.extend([Noted::Placement(*placement), Noted::Worker(*worker)]);
        }
        Decision::CreateWorkloads { owner, .. } => {
            doubted.insert(Noted::Owner(*owner));
        }
        Decision::Drain { placement, .. } | Decision::Evict { placement, .. } => {
            doubted.insert(Noted::Placement(*placement));
        }
        Decision::EndWorkload { workload, .. }
        | Decision::Place { workload, .. }
        | Decision::Wait { workload, .. } => {
            doubted.insert(Noted::Workload(*workload));
        }
    }
}

/// What the triggers note of a transaction: not that a worker was heard, nor
/// that a reason was told.
pub fn differences(before: &Snapshot, after: &Snapshot) -> BTreeSet<Noted> {
    let mut noted = BTreeSet::new();
    if before.quotas != after.quotas {
        noted.insert(Noted::Quotas);
    }
    noted.extend(other(&before.tenants, &after.tenants, Clone::clone).map(Noted::Tenant));
    noted.extend(other(&before.intents, &after.intents, Clone::clone).map(Noted::Owner));
    let workload = |w: &domain::workloads::Workload| (w.state, w.generation, w.priority, w.queued_at);
    noted.extend(other(&before.workloads, &after.workloads, workload).map(Noted::Workload));
    noted.extend(
        other(&before.placements, &after.placements, |p| (p.state, p.failures, p.failed_at))
            .map(Noted::Placement),
    );
    let worker = |w: &domain::workers::Worker| {
        let devices = w
            .devices
            .iter()
            .map(|d| (d.id, d.memory_bytes, d.milli, d.available_memory_bytes))
            .collect::<Vec<_>>();
        (w.zone.clone(), w.cordoned, w.clearance, w.live, w.revision, devices)
    };
    noted.extend(other(&before.workers, &after.workers, worker).map(Noted::Worker));
    noted
}

/// Keys whose values are new, gone or other than before.
fn other<'a, K: Copy + Ord, V, P: PartialEq>(
    before: &'a std::collections::BTreeMap<K, V>,
    after: &'a std::collections::BTreeMap<K, V>,
    part: impl Fn(&V) -> P + 'a,
) -> impl Iterator<Item = K> + 'a {
    let gone = before.keys().filter(|key| !after.contains_key(key)).copied();
    let changed = after
        .iter()
        .filter(move |(key, value)| before.get(key).is_none_or(|old| part(old) != part(value)))
        .map(|(key, _)| *key);
    changed.chain(gone)
}
