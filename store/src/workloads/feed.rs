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
use crate::{Store, StoreError, SystemTx, Tx};

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
    pub(super) tenants: Vec<Uuid>,
    quotas: bool,
    workers: Vec<Uuid>,
    pub(super) endpoints: Vec<Uuid>,
    pub(super) jobs: Vec<Uuid>,
    pub(super) workloads: Vec<Uuid>,
    pub(super) placements: Vec<Uuid>,
}

impl Ids {
    /// Everything but workers that is, or is wanted.
    pub(super) async fn all(tx: &mut SystemTx) -> Result<Self, StoreError> {
        Ok(Self {
            tenants: query_scalar!("SELECT id FROM tenants WHERE status <> 'deleted'")
                .fetch_all(tx.conn())
                .await?,
            endpoints: query_scalar!("SELECT id FROM endpoints WHERE deleted_at IS NULL AND replicas > 0")
                .fetch_all(tx.conn())
                .await?,
            jobs: query_scalar!("SELECT id FROM jobs WHERE ended_at IS NULL AND state = 'in_progress'")
                .fetch_all(tx.conn())
                .await?,
            workloads: query_scalar!("SELECT id FROM workloads WHERE state <> 'ended'")
                .fetch_all(tx.conn())
                .await?,
            placements: query_scalar!("SELECT id FROM placements WHERE state <> 'ended'")
                .fetch_all(tx.conn())
                .await?,
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
                "tenant" => changed.tenants.push(row.id),
                "quotas" => changed.quotas = true,
                "worker" => changed.workers.push(row.id),
                "endpoint" => changed.endpoints.push(row.id),
                "job" => changed.jobs.push(row.id),
                "workload" => changed.workloads.push(row.id),
                _ => changed.placements.push(row.id),
            }
        }
        Ok(changed)
    }

    /// A worker is to be read as well.
    pub fn worker(&mut self, id: WorkerId) {
        self.workers.push(id.0);
    }

    /// Is to be read as well: what a decision concerns that was refused.
    pub fn concerned(&mut self, decision: &Decision) {
        match decision {
            Decision::DeclareLost { worker, .. } => self.worker(*worker),
            Decision::EndPlacement { placement, worker, .. } => {
                self.placements.push(placement.0);
                self.worker(*worker);
            }
            Decision::CreateWorkloads { owner, .. } => match owner {
                WorkloadOwner::Endpoint(id) => self.endpoints.push(id.0),
                WorkloadOwner::Job(id) => self.jobs.push(id.0),
            },
            Decision::Drain { placement, .. } | Decision::Evict { placement, .. } => {
                self.placements.push(placement.0);
            }
            Decision::EndWorkload { workload, .. }
            | Decision::Place { workload, .. }
            | Decision::Wait { workload, .. } => self.workloads.push(workload.0),
        }
    }

    /// Is to be read as well: what others name.
    pub fn join(&mut self, other: Self) {
        self.tenants.extend(other.tenants);
        self.quotas |= other.quotas;
        self.workers.extend(other.workers);
        self.endpoints.extend(other.endpoints);
        self.jobs.extend(other.jobs);
        self.workloads.extend(other.workloads);
        self.placements.extend(other.placements);
    }
}

/// What changed since a moment, and what else is asked for, as it is now.
pub async fn changes(
    store: &Store,
    since: &Moment,
    also: Ids,
    limits: ShareLimits,
) -> Result<(Vec<Change>, Moment), StoreError> {
    let mut tx = repeatable_read(store).await?;
    let found = read(&mut tx, since, also, limits).await?;
    tx.commit().await?;
    Ok(found)
}

/// The same, and everything, of one moment: they must agree.
pub async fn changes_and_all(
    store: &Store,
    since: &Moment,
    also: Ids,
    leading_since: Timestamp,
    limits: ShareLimits,
    fair_sharing: bool,
) -> Result<(Vec<Change>, Snapshot, Moment), StoreError> {
    let mut tx = repeatable_read(store).await?;
    let (changes, moment) = read(&mut tx, since, also, limits).await?;
    let all = snapshot::read(&mut tx, leading_since, limits, fair_sharing).await?;
    tx.commit().await?;
    Ok((changes, all, moment))
}

async fn read(
    tx: &mut SystemTx,
    since: &Moment,
    also: Ids,
    limits: ShareLimits,
) -> Result<(Vec<Change>, Moment), StoreError> {
    let moment = Moment::of(tx).await?;
    let mut ids = Ids::changed(tx, since).await?;
    ids.join(also);
    let mut changes = Vec::new();
    if !ids.tenants.is_empty() {
        let mut found = snapshot::tenants(tx, &ids.tenants).await?;
        let tenants = ids.tenants.iter().map(|id| TenantId(*id));
        changes.extend(tenants.map(|id| Change::Tenant(id, found.remove(&id))));
    }
    if ids.quotas {
        changes.push(Change::Quotas(snapshot::quota_nodes(tx).await?));
    }
    if !ids.workers.is_empty() {
        let found = workers::read(tx, Selection::of(&ids.workers)).await?;
        let mut gone: BTreeSet<Uuid> = ids.workers.into_iter().collect();
        for worker in found {
            gone.remove(&worker.id.0);
            changes.push(Change::Worker(worker.id, Some(worker)));
        }
        changes.extend(gone.into_iter().map(|id| Change::Worker(WorkerId(id), None)));
    }
    if !ids.endpoints.is_empty() {
        let mut found = snapshot::endpoints(tx, &ids.endpoints).await?;
        let owners = ids.endpoints.iter().map(|id| WorkloadOwner::Endpoint(EndpointId(*id)));
        changes.extend(owners.map(|owner| Change::Intent(owner, found.remove(&owner))));
    }
    if !ids.jobs.is_empty() {
        let mut found = snapshot::jobs(tx, &ids.jobs, limits).await?;
        let owners = ids.jobs.iter().map(|id| WorkloadOwner::Job(JobId(*id)));
        changes.extend(owners.map(|owner| Change::Intent(owner, found.remove(&owner))));
    }
    if !ids.workloads.is_empty() {
        let mut gone: BTreeSet<Uuid> = ids.workloads.iter().copied().collect();
        for workload in snapshot::workloads(tx, &ids.workloads).await? {
            gone.remove(&workload.id.0);
            changes.push(Change::Workload(workload.id, Some(workload)));
        }
        changes.extend(gone.into_iter().map(|id| Change::Workload(WorkloadId(id), None)));
    }
    if !ids.placements.is_empty() {
        let mut found = snapshot::placements(tx, &ids.placements).await?;
        let placements = ids.placements.iter().map(|id| PlacementId(*id));
        changes.extend(placements.map(|id| Change::Placement(id, found.remove(&id))));
    }
    Ok((changes, moment))
}

/// Forgets what was noted before a moment: whoever plans has read it, and who
/// comes after reads everything.
pub async fn prune(tx: &mut SystemTx, before: &Moment) -> Result<(), StoreError> {
    query!("DELETE FROM planner_changes WHERE xid < pg_snapshot_xmin($1::text::pg_snapshot)", before.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}
