//! What a worker says of itself and of what it holds.

use domain::accelerators::settled;
use domain::outbox::Topic;
use domain::workers::{DeviceMemory, MAX_REPORTED_PLACEMENTS, ObservedState, PlacementReport};
use domain::{PlacementId, Timestamp, WorkerId};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{mark_seen, read_devices};
use crate::workloads::end_placements;
use crate::{StoreError, SystemTx, Tx, outbox};

/// Longest detail that is kept.
const MAX_DETAIL_CHARS: usize = 500;

/// Takes a worker's report. Reports of placements that are not the worker's,
/// of another generation, or over, change nothing. Returns whether anything
/// changed that gateways or the scheduler must see.
pub async fn report(
    tx: &mut SystemTx,
    worker: WorkerId,
    placements: &[PlacementReport],
    devices: &[DeviceMemory],
    now: Timestamp,
) -> Result<bool, StoreError> {
    if placements.len() > MAX_REPORTED_PLACEMENTS {
        return Err(StoreError::Conflict("a report names too many placements"));
    }
    let was_live = mark_seen(tx, worker, now).await?;
    let mut changed = !was_live;
    changed |= observe(tx, worker, placements, now).await?;
    changed |= unmentioned(tx, worker, placements).await?;
    changed |= believe(tx, worker, devices).await?;
    measure(tx, worker, placements, now).await?;
    let ended = drained(tx, worker, placements).await?;
    if !ended.is_empty() {
        changed = true;
        end_placements(tx, &ended, "drained", &format!("worker:{worker}"), now).await?;
    }
    if changed {
        outbox::publish(tx, Topic::Placements, worker, now).await?;
    }
    Ok(changed)
}

/// Writes what was observed of placements; returns whether readiness changed.
async fn observe(
    tx: &mut SystemTx,
    worker: WorkerId,
    placements: &[PlacementReport],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut rows = Rows::default();
    for report in placements {
        rows.ids.push(report.placement_id.0);
        rows.generations.push(report.generation);
        rows.states.push(if report.state == ObservedState::Ready { "ready" } else { "assigned" }.to_owned());
        rows.failures.push(i32::try_from(report.failures).unwrap_or(i32::MAX));
        rows.details.push(report.detail.as_deref().map_or_else(String::new, tidy));
    }
    // A draining placement stays so, whatever is said of it, until it ends.
    let changed = query!(
        r#"WITH reported AS (
             SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::integer[])
                 AS r (id, generation, state, detail, failures)
           ), before AS (
             SELECT p.id, p.state, p.failures AS failed_before, CASE WHEN p.state = 'draining' THEN p.state ELSE r.state END AS next,
                    NULLIF(r.detail, '') AS detail,
                    -- What is over is remembered: that it answers now may not last.
                    CASE WHEN r.failures > 0 THEN r.failures ELSE p.failures END AS failures,
                    CASE WHEN r.failures > 0 AND r.failures <> p.failures THEN $7 ELSE p.failed_at END AS failed_at
             FROM placements p JOIN reported r ON r.id = p.id AND r.generation = p.generation
             WHERE p.worker_id = $1 AND p.ended_at IS NULL
             FOR UPDATE OF p
           )
           UPDATE placements p SET state = before.next, detail = before.detail, failures = before.failures,
               failed_at = before.failed_at
           FROM before WHERE p.id = before.id AND (p.state, p.detail, p.failures, p.failed_at)
               IS DISTINCT FROM (before.next, before.detail, before.failures, before.failed_at)
           RETURNING before.state <> before.next OR before.failures <> before.failed_before AS "moved!""#,
        worker.0,
        &rows.ids,
        &rows.generations,
        &rows.states,
        &rows.details,
        &rows.failures,
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(changed.iter().any(|row| row.moved))
}

/// Keeps what was measured of devices, where that is other than was known.
async fn believe(tx: &mut SystemTx, worker: WorkerId, measured: &[DeviceMemory]) -> Result<bool, StoreError> {
    if measured.is_empty() {
        return Ok(false);
    }
    let (mut ids, mut available) = (Vec::new(), Vec::new());
    for device in read_devices(tx, &[worker.0]).await? {
        let Some(report) = measured.iter().find(|report| report.ordinal == device.ordinal) else { continue };
        let known = device.available_memory_bytes;
        let settled = settled(device.memory_bytes, known, report.available_bytes);
        if settled != known {
            ids.push(device.id.0);
            available.push(settled.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)));
        }
    }
    if ids.is_empty() {
        return Ok(false);
    }
    // In the order in which whoever places locks them.
    query!("SELECT id FROM devices WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", &ids)
        .fetch_all(tx.conn())
        .await?;
    query!(
        "UPDATE devices d SET available_memory_bytes = r.available
         FROM unnest($1::uuid[], $2::bigint[]) AS r (id, available) WHERE d.id = r.id",
        &ids,
        &available as &[Option<i64>],
    )
    .execute(tx.conn())
    .await?;
    Ok(true)
}

/// Keeps how busy replicas are, of endpoints that follow it.
async fn measure(
    tx: &mut SystemTx,
    worker: WorkerId,
    placements: &[PlacementReport],
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut ids, mut generations) = (Vec::new(), Vec::new());
    let (mut queued, mut tokens, mut first_tokens, mut idle) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for (report, load) in placements.iter().filter_map(|report| Some((report, report.load.as_ref()?))) {
        ids.push(report.placement_id.0);
        generations.push(report.generation);
        queued.push(number(load.queued_milli));
        tokens.push(number(load.tokens));
        first_tokens.push(load.first_token_ms.map(number));
        idle.push(number(load.idle_ms));
    }
    if ids.is_empty() {
        return Ok(());
    }
    query!(
        "INSERT INTO placement_loads (placement_id, endpoint_id, queued_milli, tokens, first_token_ms, idle_ms, reported_at)
         SELECT p.id, e.id, r.queued, r.tokens, r.first_token, r.idle, $8
         FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
             AS r (id, generation, queued, tokens, first_token, idle)
         JOIN placements p ON p.id = r.id AND p.generation = r.generation AND p.worker_id = $1 AND p.state = 'ready'
         JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
         JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
             AND e.min_replicas IS NOT NULL AND e.deleted_at IS NULL
         ON CONFLICT (placement_id) DO UPDATE SET queued_milli = excluded.queued_milli, tokens = excluded.tokens,
             first_token_ms = excluded.first_token_ms, idle_ms = excluded.idle_ms, reported_at = excluded.reported_at",
        worker.0,
        &ids,
        &generations,
        &queued,
        &tokens,
        &first_tokens as &[Option<i64>],
        &idle,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

#[derive(Default)]
struct Rows {
    ids: Vec<Uuid>,
    generations: Vec<i64>,
    states: Vec<String>,
    details: Vec<String>,
    failures: Vec<i32>,
}

/// What the worker does not mention it does not have.
async fn unmentioned(
    tx: &mut SystemTx,
    worker: WorkerId,
    placements: &[PlacementReport],
) -> Result<bool, StoreError> {
    let ids: Vec<Uuid> = placements.iter().map(|p| p.placement_id.0).collect();
    let changed = query!(
        "UPDATE placements SET state = 'assigned', detail = NULL
         WHERE worker_id = $1 AND state = 'ready' AND id <> ALL($2)",
        worker.0,
        &ids,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    Ok(changed > 0)
}

/// Draining placements that the worker has let go of.
async fn drained(
    tx: &mut SystemTx,
    worker: WorkerId,
    placements: &[PlacementReport],
) -> Result<Vec<(PlacementId, i64)>, StoreError> {
    let over = placements.iter().filter(|p| p.state == ObservedState::Ended);
    let (ids, generations): (Vec<Uuid>, Vec<i64>) = over.map(|p| (p.placement_id.0, p.generation)).unzip();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = query!(
        "SELECT p.id, p.generation FROM placements p
         JOIN unnest($2::uuid[], $3::bigint[]) AS r (id, generation) ON r.id = p.id AND r.generation = p.generation
         WHERE p.worker_id = $1 AND p.state = 'draining' ORDER BY p.id",
        worker.0,
        &ids,
        &generations,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (PlacementId(row.id), row.generation)).collect())
}

/// One line without control characters, of bounded length.
fn tidy(detail: &str) -> String {
    detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL_CHARS).collect()
}
