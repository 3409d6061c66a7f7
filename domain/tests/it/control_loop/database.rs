//! The database: one moment after the other, with what store's SQL checks. A
//! scheduler's transaction proves its epoch when it begins and holds the row of
//! the leadership until it ends.

mod applying;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use domain::planner::{Change, PlanId, Recorded, Snapshot};
use domain::workloads::WorkloadOwner;
use domain::{Timestamp, WorkerId};
use uuid::Uuid;

use super::feed::{Feed, Moment, Noted, Xid, differences};
use super::ledger::Ledger;

pub use workers::Joining;

/// A connection of a scheduler, on which it leads or would.
pub type Connection = u64;

/// Why a transaction changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotLeader,
    Conflict(&'static str),
}

/// A scheduler's transaction that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Tx {
    xid: Xid,
    pub epoch: i64,
}

pub struct Database {
    /// What the tables say that are planned from.
    pub facts: Snapshot,
    /// Endpoints and jobs that are over: nothing is made for them.
    pub over: BTreeSet<WorkloadOwner>,
    pub ledger: Ledger,
    pub epoch: i64,
    /// Who has the advisory lock.
    pub holder: Option<Connection>,
    pub open: BTreeSet<Connection>,
    /// Transactions that hold the row of the leadership.
    sharing: BTreeSet<Xid>,
    pub feed: Feed,
    pub plans: BTreeMap<PlanId, Recorded>,
    /// What each worker's process shows, and what its former one did until when.
    credentials: BTreeMap<WorkerId, u64>,
    former: BTreeMap<u64, (WorkerId, Timestamp)>,
    ids: u128,
    /// What is other than before, since somebody last looked.
    pub changed: BTreeSet<Noted>,
}

impl Database {
    pub fn new() -> Self {
        Self {
            facts: Snapshot::empty(Timestamp::UNIX_EPOCH),
            over: BTreeSet::new(),
            ledger: Ledger::default(),
            epoch: 0,
            holder: None,
            open: BTreeSet::new(),
            sharing: BTreeSet::new(),
            feed: Feed::default(),
            plans: BTreeMap::new(),
            credentials: BTreeMap::new(),
            former: BTreeMap::new(),
            ids: 0,
            changed: BTreeSet::new(),
        }
    }

    pub fn id<T: From<Uuid>>(&mut self) -> T {
        self.ids += 1;
        Uuid::from_u128(self.ids).into()
    }

    /// A connection ends, and with it its lock.
    pub fn close(&mut self, connection: Connection) {
        self.open.remove(&connection);
        if self.holder == Some(connection) {
            self.holder = None;
        }
    }

    /// Takes the lock, if nobody has it.
    pub fn try_lock(&mut self, connection: Connection) -> bool {
        if self.holder.is_none() {
            self.holder = Some(connection);
        }
        self.holder == Some(connection)
    }

    /// Begins a term, unless a transaction of the last one is under way.
    pub fn raise_epoch(&mut self) -> Option<i64> {
        self.sharing.is_empty().then(|| {
            self.epoch += 1;
            self.epoch
        })
    }

    /// Begins a transaction of a term.
    pub fn fence(&mut self, epoch: i64) -> Result<Tx, Refused> {
        if epoch != self.epoch {
            return Err(Refused::NotLeader);
        }
        let xid = self.feed.begin();
        self.sharing.insert(xid);
        Ok(Tx { xid, epoch })
    }

    pub fn roll_back(&mut self, tx: Tx) {
        self.sharing.remove(&tx.xid);
        self.feed.end(tx.xid, []);
    }

    /// Ends a transaction of somebody who is no scheduler: all or nothing.
    pub fn commit<T>(
        &mut self,
        xid: Xid,
        act: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let before = self.facts.clone();
        let ledger = self.ledger.clone();
        let done = act(self);
        if done.is_err() {
            (self.facts, self.ledger) = (before, ledger);
            self.feed.end(xid, []);
            return done;
        }
        let noted = differences(&before, &self.facts);
        self.changed.extend(&noted);
        if noted.contains(&Noted::Quotas) {
            self.ledger = Ledger::new(&self.facts.quotas, self.facts.placements.values());
        }
        self.feed.end(xid, noted);
        done
    }

    /// Ends a scheduler's transaction.
    fn commit_fenced(
        &mut self,
        tx: Tx,
        act: impl FnOnce(&mut Self) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.sharing.remove(&tx.xid);
        self.commit(tx.xid, act)
    }

    /// Keeps the page of a plan.
    pub fn keep(&mut self, tx: Tx, page: &Recorded) -> Result<(), Refused> {
        self.commit_fenced(tx, |db| {
            if db.plans.contains_key(&page.plan) {
                return Err(Refused::Conflict("another planned in this epoch"));
            }
            db.plans.insert(page.plan, page.clone());
            Ok(())
        })
    }

    /// The plan after the last of an epoch.
    pub fn next_plan(&self, epoch: i64) -> PlanId {
        let of = |number| PlanId { epoch, number };
        let last = self.plans.range(of(0)..of(i64::MAX)).next_back();
        of(last.map_or(0, |(last, _)| last.number + 1))
    }

    /// Everything, and of which moment it is.
    pub fn snapshot(&self, leading_since: Timestamp) -> (Snapshot, Moment) {
        (Snapshot { leading_since, ..self.facts.clone() }, self.feed.now())
    }

    /// What changed since a moment, and what else is asked for; but what is still
    /// changing is only named.
    pub fn changes(
        &self,
        since: &Moment,
        also: BTreeSet<Noted>,
        changing: &BTreeSet<Noted>,
    ) -> (Vec<Change>, Moment, BTreeSet<Noted>) {
        let mut ids = self.feed.changed(since);
        ids.extend(also);
        let later = &ids & changing;
        ids.retain(|id| !later.contains(id));
        let facts = &self.facts;
        let change = |noted| match noted {
            Noted::Tenant(id) => Change::Tenant(id, facts.tenants.get(&id).cloned()),
            Noted::Quotas => Change::Quotas(facts.quotas.clone()),
            Noted::Worker(id) => Change::Worker(id, facts.workers.get(&id).cloned()),
            Noted::Owner(owner) => Change::Intent(owner, facts.intents.get(&owner).cloned()),
            Noted::Workload(id) => Change::Workload(id, facts.workloads.get(&id).cloned()),
            Noted::Placement(id) => Change::Placement(id, facts.placements.get(&id).cloned()),
        };
        (ids.into_iter().map(change).collect(), self.feed.now(), later)
    }
}
