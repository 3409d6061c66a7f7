//! A worker joins, or joins again: its former process, if any, is out.

use domain::accelerators::{Device, DeviceReport};
use domain::outbox::Topic;
use domain::workers::{JoinRequest, MAX_DEVICES};
use domain::{DeviceId, PlacementId, Timestamp, WorkerId};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;

use super::{read_devices, release_leases};
use crate::workloads::end_placements;
use crate::{StoreError, SystemTx, Tx, audit, outbox};

/// Adds a worker, or replaces the process that had its name: the credential,
/// the leases and the readiness of the former one end. Placements stay and are
/// the new process's to make true, except those that its devices do not hold
/// any more.
pub async fn join(
    tx: &mut SystemTx,
    request: &JoinRequest,
    credential_hash: &[u8; 32],
    now: Timestamp,
) -> Result<WorkerId, StoreError> {
    if request.devices.len() > MAX_DEVICES {
        return Err(StoreError::TooManyDevices);
    }
    let id = query_scalar!(
        "INSERT INTO workers (id, name, pool, zone, address, credential_hash, seen_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (name) DO UPDATE SET pool = COALESCE(workers.assigned_pool, EXCLUDED.pool), zone = EXCLUDED.zone, address = EXCLUDED.address,
             credential_hash = EXCLUDED.credential_hash, live = true,
             seen_at = GREATEST(workers.seen_at, EXCLUDED.seen_at)
         RETURNING id",
        WorkerId::generate().0,
        request.name.as_str(),
        request.pool.as_str(),
        request.zone.as_str(),
        request.address,
        credential_hash,
        OffsetDateTime::from(now),
    )
    .fetch_one(tx.conn())
    .await?;
    let worker = WorkerId(id);
    let actor = format!("worker:{worker}");

    query!(
        "UPDATE placements SET state = 'assigned', detail = NULL WHERE worker_id = $1 AND state = 'ready'",
        worker.0,
    )
    .execute(tx.conn())
    .await?;
    match_devices(tx, worker, &request.devices, &actor, now).await?;
    let released = release_leases(tx, worker).await?;

    let mut event = audit::allowed(None, now, actor, "join_worker", format!("worker:{worker}"));
    event.detail = serde_json::json!({
        "name": request.name, "pool": request.pool, "zone": request.zone,
        "devices": request.devices, "released_leases": released,
    });
    audit::record(tx, &event).await?;
    for topic in [Topic::Credentials, Topic::Placements, Topic::Desired] {
        outbox::publish(tx, topic, worker, now).await?;
    }
    Ok(worker)
}

/// Makes the devices those that the worker reports. Where one is smaller,
/// another or gone, what does not fit on it any more ends and waits anew.
async fn match_devices(
    tx: &mut SystemTx,
    worker: WorkerId,
    reported: &[DeviceReport],
    actor: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    for device in read_devices(tx, &[worker.0]).await? {
        let report = reported.iter().find(|r| r.ordinal == device.ordinal && r.class == device.class);
        let (memory_bytes, milli) = report.map_or((0, 0), |r| (r.memory_bytes, r.milli));
        shrink(tx, &device, memory_bytes, milli, actor, now).await?;
        if report.is_none() {
            query!("DELETE FROM devices WHERE id = $1", device.id.0).execute(tx.conn()).await?;
        }
    }
    for report in reported {
        query!(
            "INSERT INTO devices (id, worker_id, ordinal, class, memory_bytes, milli) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (worker_id, ordinal) DO UPDATE SET memory_bytes = EXCLUDED.memory_bytes, milli = EXCLUDED.milli",
            DeviceId::generate().0,
            worker.0,
            i32::try_from(report.ordinal).map_err(|_| StoreError::TooManyDevices)?,
            report.class,
            i64::try_from(report.memory_bytes).unwrap_or(i64::MAX),
            i32::try_from(report.milli).unwrap_or(i32::MAX),
        )
        .execute(tx.conn())
        .await
        .map_err(unknown_class)?;
    }
    Ok(())
}

/// Ends the youngest placements of a device until the rest fits.
async fn shrink(
    tx: &mut SystemTx,
    device: &Device,
    memory_bytes: u64,
    milli: u32,
    actor: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut used_memory, mut used_milli) = (device.used_memory_bytes, device.used_milli);
    let holds = query!(
        "SELECT h.placement_id, h.memory_bytes, h.milli, p.generation
         FROM placement_devices h JOIN placements p ON p.tenant_id = h.tenant_id AND p.id = h.placement_id
         WHERE h.device_id = $1 ORDER BY p.created_at DESC, p.id DESC",
        device.id.0,
    )
    .fetch_all(tx.conn())
    .await?;
    let mut over = Vec::new();
    for hold in holds {
        if used_memory <= memory_bytes && used_milli <= milli {
            break;
        }
        over.push((PlacementId(hold.placement_id), hold.generation));
        used_memory = used_memory.saturating_sub(hold.memory_bytes.unsigned_abs());
        used_milli = used_milli.saturating_sub(hold.milli.unsigned_abs());
    }
    if over.is_empty() {
        return Ok(());
    }
    end_placements(tx, &over, "the device it was on has become smaller or is gone", actor, now).await
}

fn unknown_class(e: sqlx::Error) -> StoreError {
    match &e {
        sqlx::Error::Database(d) if d.is_foreign_key_violation() => StoreError::NotFound("accelerator class"),
        _ => e.into(),
    }
}
