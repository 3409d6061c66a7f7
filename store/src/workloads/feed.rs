//! What changed since a moment, of what is planned from. Triggers note in
//! `planner_changes` what each transaction changed; a reader asks for what its
//! last snapshot did not see, however long the transaction took to commit.

use std::collections::BTreeSet;

use domain::planner::{Change, Decision, ShareLimits, Snapshot};
use domain::workloads::WorkloadOwner;
use domain::{EndpointId, JobId, PlacementId, TenantId, Timestamp, WorkerId, WorkloadId};
use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::{repeatable_read, snapshot};
use crate::workers::{self, Selection};
use crate::{Store, StoreError, SystemTx, Tx, budgets};

/// Which transactions a snapshot sees, as PostgreSQL writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

impl Moment {
    pub(super) async fn of(tx: &mut SystemTx) -> Result<Self, StoreError> {
        let now = query_scalar!(r#"SELECT pg_current_snapshot()::text AS "moment!""#).fetch_one(tx.conn());
        Ok(Self(now.await?))
    }
}

/// Things to be read, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub(super) tenants: BTreeSet<Uuid>,
    quotas: bool,
    budgets: BTreeSet<Uuid>,
    /// Placements are to end, by which budgets change.
    ends: bool,
    workers: BTreeSet<Uuid>,
    pub(super) endpoints: BTreeSet<Uuid>,
    pub(super) jobs: BTreeSet<Uuid>,
    pub(super) workloads: BTreeSet<Uuid>,
    pub(super) placements: BTreeSet<Uuid>,
}

impl Ids {
    /// Everything but workers that is, or is wanted.
    pub(super) async fn all(tx: &mut SystemTx) -> Result<Self, StoreError> {
        Ok(Self {
            tenants: query_scalar!("SELECT id FROM tenants WHERE status <> 'deleted'")
                .fetch_all(tx.conn())
                .await?
                .into_iter()
                .collect(),
            endpoints: query_scalar!("SELECT id FROM endpoints WHERE deleted_at IS NULL AND replicas > 0")
                .fetch_all(tx.conn())
                .await?
                .into_iter()
                .collect(),
            jobs: query_scalar!("SELECT id FROM jobs WHERE ended_at IS NULL AND state = 'in_progress'")
                .fetch_all(tx.conn())
                .await?
                .into_iter()
                .collect(),
            workloads: query_scalar!("SELECT id FROM workloads WHERE NOT ended")
                .fetch_all(tx.conn())
                .await?
                .into_iter()
                .collect(),
            placements: query_scalar!("SELECT id FROM placements WHERE ended_at IS NULL")
                .fetch_all(tx.conn())
                .await?
                .into_iter()
                .collect(),
            ..Self::default()
        })
    }

    async fn changed(tx: &mut SystemTx, since: &Moment) -> Result<Self, StoreError> {
        let rows = query!(
            "SELECT DISTINCT kind, id FROM planner_changes
             WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
               AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)",
            since.0,
        )
        .fetch_all(tx.conn())
        .await?;
        let mut changed = Self::default();
        for row in rows {
            match row.kind.as_str() {
                "tenant" => changed.tenants.insert(row.id),
                "quotas" => !std::mem::replace(&mut changed.quotas, true),
                "budgets" => changed.budgets.insert(row.id),
                "worker" => changed.workers.insert(row.id),
                "endpoint" => changed.endpoints.insert(row.id),
                "job" => changed.jobs.insert(row.id),
                "workload" => changed.workloads.insert(row.id),
                _ => changed.placements.insert(row.id),
            };
        }
        Ok(changed)
    }

    /// A worker is to be read as well.
    pub fn worker(&mut self, id: WorkerId) {
        self.workers.insert(id.0);
    }

    /// A tenant's budgets are to be read as well.
    pub fn budgets(&mut self, tenant: TenantId) {
        self.budgets.insert(tenant.0);
    }

    /// Is to be read as well: what a decision concerns.
    pub fn concerned(&mut self, decision: &Decision) {
        match decision {
            Decision::DeclareLost { worker, .. } => self.workers.insert(worker.0),
            Decision::EndPlacement { placement, worker, .. } => {
                self.ends = true;
                self.workers.insert(worker.0);
                self.placements.insert(placement.0)
            }
            Decision::CreateWorkloads { owner: WorkloadOwner::Endpoint(id), .. } => {
                self.endpoints.insert(id.0)
            }
            Decision::CreateWorkloads { owner: WorkloadOwner::Job(id), .. } => self.jobs.insert(id.0),
            Decision::Drain { placement, .. } | Decision::Evict { placement, .. } => {
                self.placements.insert(placement.0)
            }
            Decision::EndWorkload { workload, .. }
            | Decision::Place { workload, .. }
            | Decision::Wait { workload, .. } => self.workloads.insert(workload.0),
        };
    }

    /// Whether nothing is to be read.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes out those that are among others.
    fn take(&mut self, others: &Self) -> Self {
        let take = |ids: &mut BTreeSet<Uuid>, others: &BTreeSet<Uuid>| {
            let both = &*ids & others;
            *ids = &*ids - others;
            both
        };
        Self {
            tenants: take(&mut self.tenants, &others.tenants),
            quotas: others.quotas && std::mem::take(&mut self.quotas),
            // What ends was counted as spent when that was decided.
            budgets: if others.ends { std::mem::take(&mut self.budgets) } else { BTreeSet::new() },
            ends: false,
            workers: take(&mut self.workers, &others.workers),
            endpoints: take(&mut self.endpoints, &others.endpoints),
            jobs: take(&mut self.jobs, &others.jobs),
            workloads: take(&mut self.workloads, &others.workloads),
            placements: take(&mut self.placements, &others.placements),
        }
    }

    /// Is to be read as well: what others name.
    pub fn join(&mut self, other: Self) {
        self.tenants.extend(other.tenants);
        self.quotas |= other.quotas;
        self.budgets.extend(other.budgets);
        self.workers.extend(other.workers);
        self.endpoints.extend(other.endpoints);
        self.jobs.extend(other.jobs);
        self.workloads.extend(other.workloads);
        self.placements.extend(other.placements);
    }
}

/// What changed.
pub struct Changed {
    /// To be told to a planner.
    pub changes: Vec<Change>,
    /// When it was so.
    pub moment: Moment,
    /// What changed too, but was not to be read yet.
    pub later: Ids,
}

/// What changed since a moment, and what else is asked for, as it is now; but not
/// what is still `changing`. What budgets have spent is that of the period of `now`.
pub async fn changes(
    store: &Store,
    since: &Moment,
    also: Ids,
    changing: &Ids,
    limits: ShareLimits,
    now: Timestamp,
) -> Result<Changed, StoreError> {
    let mut tx = repeatable_read(store).await?;
    let moment = Moment::of(&mut tx).await?;
    let mut ids = Ids::changed(&mut tx, since).await?;
    ids.join(also);
    let later = ids.take(changing);
    let changes = read(&mut tx, ids, limits, now).await?;
    tx.commit().await?;
    Ok(Changed { changes, moment, later })
}

/// The same, and everything, of one moment: they must agree.
pub async fn changes_and_all(
    store: &Store,
    since: &Moment,
    also: Ids,
    leading_since: Timestamp,
    limits: ShareLimits,
    fair_sharing: bool,
    now: Timestamp,
) -> Result<(Vec<Change>, Snapshot, Moment), StoreError> {
    let mut tx = repeatable_read(store).await?;
    let moment = Moment::of(&mut tx).await?;
    let mut ids = Ids::changed(&mut tx, since).await?;
    ids.join(also);
    let changes = read(&mut tx, ids, limits, now).await?;
    let all = snapshot::read(&mut tx, leading_since, limits, fair_sharing, now).await?;
    tx.commit().await?;
    Ok((changes, all, moment))
}

async fn read(
    tx: &mut SystemTx,
    ids: Ids,
    limits: ShareLimits,
    now: Timestamp,
) -> Result<Vec<Change>, StoreError> {
    let list = |ids: &BTreeSet<Uuid>| ids.iter().copied().collect::<Vec<_>>();
    let mut changes = Vec::new();
    if !ids.tenants.is_empty() {
        let mut found = snapshot::tenants(tx, &list(&ids.tenants)).await?;
        let tenants = ids.tenants.iter().map(|id| TenantId(*id));
        changes.extend(tenants.map(|id| Change::Tenant(id, found.remove(&id))));
    }
    if ids.quotas {
        changes.push(Change::Quotas(snapshot::quota_nodes(tx).await?));
    }
    if !ids.budgets.is_empty() {
        let mut found = budgets::of_time(tx, Some(&list(&ids.budgets)), now).await?;
        let tenants = ids.budgets.iter().map(|id| TenantId(*id));
        changes.extend(tenants.map(|id| Change::Budgets(id, found.remove(&id).unwrap_or_default())));
    }
    if !ids.workers.is_empty() {
        let found = workers::read(tx, Selection::of(&list(&ids.workers))).await?;
        let mut gone = ids.workers;
        for worker in found {
            gone.remove(&worker.id.0);
            changes.push(Change::Worker(worker.id, Some(worker)));
        }
        changes.extend(gone.into_iter().map(|id| Change::Worker(WorkerId(id), None)));
    }
    if !ids.endpoints.is_empty() {
        let mut found = snapshot::endpoints(tx, &list(&ids.endpoints)).await?;
        let owners = ids.endpoints.iter().map(|id| WorkloadOwner::Endpoint(EndpointId(*id)));
        changes.extend(owners.map(|owner| Change::Intent(owner, found.remove(&owner))));
    }
    if !ids.jobs.is_empty() {
        let mut found = snapshot::jobs(tx, &list(&ids.jobs), limits).await?;
        let owners = ids.jobs.iter().map(|id| WorkloadOwner::Job(JobId(*id)));
        changes.extend(owners.map(|owner| Change::Intent(owner, found.remove(&owner))));
    }
    if !ids.workloads.is_empty() {
        let found = snapshot::workloads(tx, &list(&ids.workloads)).await?;
        let mut gone = ids.workloads;
        for workload in found {
            gone.remove(&workload.id.0);
            changes.push(Change::Workload(workload.id, Some(workload)));
        }
        changes.extend(gone.into_iter().map(|id| Change::Workload(WorkloadId(id), None)));
    }
    if !ids.placements.is_empty() {
        let mut found = snapshot::placements(tx, &list(&ids.placements)).await?;
        let placements = ids.placements.iter().map(|id| PlacementId(*id));
        changes.extend(placements.map(|id| Change::Placement(id, found.remove(&id))));
    }
    Ok(changes)
}

/// Forgets what was noted before a moment: whoever plans has read it, and who
/// comes after reads everything.
pub async fn prune(tx: &mut SystemTx, before: &Moment) -> Result<(), StoreError> {
    query!("DELETE FROM planner_changes WHERE xid < pg_snapshot_xmin($1::text::pg_snapshot)", before.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}
