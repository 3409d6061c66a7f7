//! Workers: joining, reporting, what they are to hold, and the fleet page.

mod desired;
mod join;
mod report;

use std::time::Duration;

use domain::accelerators::Device;
use domain::tenants::{Classification, Slug};
use domain::workers::{WORKER_LOST_SECS, Worker};
use domain::{DeviceId, Timestamp, WorkerId};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

pub use desired::{desired, placed_file_bytes};
pub use join::join;
pub use report::report;

/// Whose credential this is the hash of.
pub async fn by_credential(
    tx: &mut SystemTx,
    credential_hash: &[u8; 32],
) -> Result<Option<WorkerId>, StoreError> {
    let id = query_scalar!("SELECT id FROM workers WHERE credential_hash = $1", credential_hash)
        .fetch_optional(tx.conn())
        .await?;
    Ok(id.map(WorkerId))
}

/// Workers by name, `limit` of those after `after`. `live` is whether they
/// reported lately, whatever the scheduler has declared yet.
pub async fn list(
    tx: &mut SystemTx,
    after: Option<&str>,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<Worker>, StoreError> {
    let mut workers =
        read(tx, Selection { after, limit: Some(i64::from(limit)), ..Selection::default() }).await?;
    for worker in &mut workers {
        worker.live &= heard_lately(worker, now);
    }
    Ok(workers)
}

/// One worker, by its name, as [`list`] shows it.
pub async fn get(tx: &mut SystemTx, name: &Slug, now: Timestamp) -> Result<Worker, StoreError> {
    let mut workers = read(tx, Selection { name: Some(name.as_str()), ..Selection::default() }).await?;
    let mut worker = workers.pop().ok_or(StoreError::NotFound("worker"))?;
    worker.live &= heard_lately(&worker, now);
    Ok(worker)
}

fn heard_lately(worker: &Worker, now: Timestamp) -> bool {
    now.since(worker.seen_at) <= Duration::from_secs(WORKER_LOST_SECS)
}

/// What to change of a worker; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerChange<'a> {
    /// Whether nothing new is placed on it. What is there stays.
    pub cordoned: Option<bool>,
    /// How secret the work may be that is placed on it. What is more secret must
    /// leave.
    pub clearance: Option<Classification>,
    /// The pool to put it into; `None` inside leaves that to the worker, from when it
    /// joins again.
    pub pool: Option<Option<&'a Slug>>,
}

/// Changes a worker, if it has the expected revision.
pub async fn update(
    tx: &mut SystemTx,
    name: &Slug,
    change: WorkerChange<'_>,
    expected: Option<i64>,
) -> Result<WorkerId, StoreError> {
    let row = query!("SELECT id, revision FROM workers WHERE name = $1 FOR UPDATE", name.as_str())
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("worker"))?;
    if expected.is_some_and(|expected| expected != row.revision) {
        return Err(StoreError::Stale);
    }
    query!(
        "UPDATE workers SET cordoned = COALESCE($2, cordoned), clearance = COALESCE($3, clearance),
             pool = COALESCE($5, pool), assigned_pool = CASE WHEN $4 THEN $5 ELSE assigned_pool END,
             revision = revision + 1
         WHERE id = $1",
        row.id,
        change.cordoned,
        change.clearance.map(Classification::as_str),
        change.pool.is_some(),
        change.pool.flatten().map(Slug::as_str),
    )
    .execute(tx.conn())
    .await?;
    Ok(row.id.into())
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Selection<'a> {
    name: Option<&'a str>,
    after: Option<&'a str>,
    limit: Option<i64>,
    ids: Option<&'a [Uuid]>,
}

impl<'a> Selection<'a> {
    /// These and no others.
    pub fn of(ids: &'a [Uuid]) -> Self {
        Self { ids: Some(ids), ..Self::default() }
    }
}

/// Workers with their devices, by name.
pub(crate) async fn read(tx: &mut SystemTx, which: Selection<'_>) -> Result<Vec<Worker>, StoreError> {
    let rows = query!(
        r#"SELECT id, name, pool, EXISTS (SELECT FROM pools p WHERE p.name = workers.pool) AS "dedicated!", zone, address,
                cordoned, clearance, live, seen_at, revision, created_at FROM workers
         WHERE ($1::text IS NULL OR name = $1) AND ($2::text IS NULL OR name > $2)
           AND ($4::uuid[] IS NULL OR id = ANY($4))
         ORDER BY name LIMIT $3"#,
        which.name,
        which.after,
        which.limit,
        which.ids,
    )
    .fetch_all(tx.conn())
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut devices = read_devices(tx, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |column| move |_| StoreError::corrupt("workers", column, row.id);
            let start = devices.partition_point(|d| d.worker_id.0 < row.id);
            let end = devices.partition_point(|d| d.worker_id.0 <= row.id);
            Ok(Worker {
                id: row.id.into(),
                name: row.name.parse().map_err(corrupt("name"))?,
                pool: row.pool.parse().map_err(corrupt("pool"))?,
                dedicated: row.dedicated,
                zone: row.zone.parse().map_err(corrupt("zone"))?,
                address: row.address,
                cordoned: row.cordoned,
                clearance: row
                    .clearance
                    .parse()
                    .map_err(|_| StoreError::corrupt("workers", "clearance", row.id))?,
                live: row.live,
                devices: devices.drain(start..end).collect(),
                seen_at: row.seen_at.into(),
                revision: row.revision,
                created_at: row.created_at.into(),
            })
        })
        .collect()
}

/// Devices of these workers, by worker and ordinal.
pub(crate) async fn read_devices(tx: &mut SystemTx, workers: &[Uuid]) -> Result<Vec<Device>, StoreError> {
    let rows = query!(
        "SELECT id, worker_id, ordinal, class, memory_bytes, milli, available_memory_bytes, used_memory_bytes, used_milli
         FROM devices
         WHERE worker_id = ANY($1) ORDER BY worker_id, ordinal",
        workers,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |column| move |_| StoreError::corrupt("devices", column, row.id);
            Ok(Device {
                id: DeviceId(row.id),
                worker_id: WorkerId(row.worker_id),
                ordinal: row.ordinal.try_into().map_err(corrupt("ordinal"))?,
                class: row.class,
                memory_bytes: row.memory_bytes.try_into().map_err(corrupt("memory_bytes"))?,
                milli: row.milli.try_into().map_err(corrupt("milli"))?,
                available_memory_bytes: row
                    .available_memory_bytes
                    .map(|bytes| bytes.try_into().map_err(corrupt("available_memory_bytes")))
                    .transpose()?,
                used_memory_bytes: row.used_memory_bytes.try_into().map_err(corrupt("used_memory_bytes"))?,
                used_milli: row.used_milli.try_into().map_err(corrupt("used_milli"))?,
            })
        })
        .collect()
}

/// Gives every chunk back that the worker has leased.
async fn release_leases(tx: &mut SystemTx, worker: WorkerId) -> Result<u64, StoreError> {
    Ok(query!(
        "UPDATE job_chunks SET state = 'waiting', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         WHERE lease_worker_id = $1 AND state = 'leased'",
        worker.0,
    )
    .execute(tx.conn())
    .await?
    .rows_affected())
}

/// Marks that the worker was heard.
///
/// Locks the row no more than needed: a lease, which refers to it while it
/// holds a placement, must not wait for it.
async fn mark_seen(tx: &mut SystemTx, worker: WorkerId, now: Timestamp) -> Result<bool, StoreError> {
    let was_live = query_scalar!(
        "UPDATE workers w SET live = true, seen_at = GREATEST(w.seen_at, $2)
         FROM (SELECT id, live FROM workers WHERE id = $1 FOR NO KEY UPDATE) before
         WHERE w.id = before.id RETURNING before.live",
        worker.0,
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?;
    was_live.ok_or(StoreError::NotFound("worker"))
}
