//! What autoscaling goes by, and its choices. Held requests are told by gateways,
//! loads of replicas by workers (`workers::report`); both are measurements, kept
//! in tables that a crash empties.

use std::time::Duration;

use domain::audit::AuditEvent;
use domain::autoscaling::{Load, Range, STALE_AFTER, Targets};
use domain::outbox::Topic;
use domain::workers::RESTARTED_IN;
use domain::{EndpointId, TenantId, Timestamp};
use serde_json::json;
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::leadership::fence;
use crate::{Store, StoreError, SystemTx, Tx, audit, outbox};

/// An endpoint whose number of replicas is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Which.
    pub endpoint_id: EndpointId,
    /// Whose.
    pub tenant_id: TenantId,
    /// What is asked for: counts its changes.
    pub revision: i64,
    /// What may be chosen.
    pub range: Range,
    /// What it follows.
    pub targets: Targets,
    /// What was chosen last.
    pub replicas: u32,
    /// What was measured.
    pub load: Load,
}

/// Every endpoint whose number of replicas is chosen, and what was measured of it.
pub async fn read(store: &Store, now: Timestamp) -> Result<Vec<Scaled>, StoreError> {
    let mut tx = store.system().await?;
    let rows = query!(
        r#"SELECT e.id, e.tenant_id, e.revision, e.min_replicas AS "min!", e.max_replicas AS "max!", e.replicas,
               e.target_queued, e.target_tokens, e.target_first_token_ms, e.idle_secs,
               l.ready AS "ready!", l.measured AS "measured!", l.queued_milli AS "queued_milli!", l.tokens AS "tokens!",
               l.first_token_ms, l.idle_ms,
               (SELECT coalesce(sum(h.held), 0) FROM held_requests h
                WHERE h.endpoint_id = e.id AND h.told_at > $1) AS "held!"
           FROM endpoints e
           CROSS JOIN LATERAL (
               SELECT count(*) AS ready, count(m.placement_id) AS measured,
                   coalesce(sum(m.queued_milli), 0)::bigint AS queued_milli, coalesce(sum(m.tokens), 0)::bigint AS tokens,
                   avg(m.first_token_ms)::bigint AS first_token_ms, min(m.idle_ms) AS idle_ms
               FROM workloads w
               JOIN placements p ON p.workload_id = w.id AND p.tenant_id = w.tenant_id AND p.state = 'ready'
               LEFT JOIN placement_loads m ON m.placement_id = p.id AND m.reported_at > $1
               WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND NOT w.ended
           ) l
           WHERE e.min_replicas IS NOT NULL AND e.deleted_at IS NULL
           ORDER BY e.id"#,
        OffsetDateTime::from(now - STALE_AFTER),
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let small = |column, n: i32| {
                u32::try_from(n).map_err(|_| StoreError::corrupt("endpoints", column, row.id))
            };
            let measured = |n: i64| n.unsigned_abs();
            let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
            Ok(Scaled {
                endpoint_id: EndpointId(row.id),
                tenant_id: TenantId(row.tenant_id),
                revision: row.revision,
                range: Range { min: small("min_replicas", row.min)?, max: small("max_replicas", row.max)? },
                targets: Targets {
                    queued_per_replica: small("target_queued", row.target_queued)?,
                    tokens_per_replica: small("target_tokens", row.target_tokens)?,
                    first_token_ms: small("target_first_token_ms", row.target_first_token_ms)?,
                    idle_secs: small("idle_secs", row.idle_secs)?,
                },
                replicas: small("replicas", row.replicas)?,
                load: Load {
                    ready: count(row.ready),
                    measured: count(row.measured),
                    queued_milli: measured(row.queued_milli),
                    tokens: measured(row.tokens),
                    first_token_ms: row.first_token_ms.map(measured),
                    idle_ms: row.idle_ms.map(measured),
                    held: count(row.held),
                },
            })
        })
        .collect()
}

/// Another number of replicas for an endpoint.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Which.
    pub endpoint_id: EndpointId,
    /// The revision and the number that it was chosen from.
    pub expected: (i64, u32),
    /// How many.
    pub replicas: u32,
    /// Why, in plain words.
    pub why: String,
}

/// Makes those choices true whose endpoints are as they were when it was chosen,
/// each with its audit record. Returns which did.
///
/// [`StoreError::NotLeader`] when another leads.
pub async fn choose(
    tx: &mut SystemTx,
    epoch: i64,
    choices: &[Choice],
    now: Timestamp,
) -> Result<Vec<EndpointId>, StoreError> {
    fence(tx, epoch).await?;
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let ids: Vec<Uuid> = choices.iter().map(|choice| choice.endpoint_id.0).collect();
    let revisions: Vec<i64> = choices.iter().map(|choice| choice.expected.0).collect();
    let before: Vec<i32> = choices.iter().map(|choice| number(choice.expected.1)).collect();
    let replicas: Vec<i32> = choices.iter().map(|choice| number(choice.replicas)).collect();
    let whys: Vec<&str> = choices.iter().map(|choice| &*choice.why).collect();
    let chosen = query!(
        r#"UPDATE endpoints e SET replicas = c.replicas, scaled_why = c.why, scaled_at = $6
           FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::integer[], $5::text[])
               AS c (id, revision, before, replicas, why)
           WHERE e.id = c.id AND e.revision = c.revision AND e.replicas = c.before
             AND e.min_replicas IS NOT NULL AND e.deleted_at IS NULL
           RETURNING e.id, e.tenant_id, c.before AS "before!", c.replicas AS "replicas!", c.why AS "why!""#,
        &ids,
        &revisions,
        &before,
        &replicas,
        &whys as &[&str],
        OffsetDateTime::from(now),
    )
    .fetch_all(tx.conn())
    .await?;
    let mut events = Vec::with_capacity(chosen.len());
    for row in &chosen {
        let (actor, object) = (format!("scheduler:{epoch}"), format!("endpoint:{}", row.id));
        let event = audit::allowed(Some(row.tenant_id.into()), now, actor, "scale_endpoint", object);
        let detail = json!({ "from": row.before, "replicas": row.replicas, "why": row.why });
        events.push(AuditEvent { detail, ..event });
    }
    audit::record_all(tx, &events).await?;
    let ids: Vec<Uuid> = chosen.iter().map(|row| row.id).collect();
    outbox::publish_all(tx, Topic::Desired, &ids, now).await?;
    Ok(ids.into_iter().map(EndpointId).collect())
}

/// An endpoint for which a gateway holds requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub endpoint_id: EndpointId,
    /// How many, at least 1.
    pub requests: u32,
}

/// A gateway tells what it holds: all of it, which replaces what it told before.
/// Those of `news` are told to the autoscaler at once. Returns, for each endpoint
/// of which no replica can be had for now, why.
pub async fn hold(
    tx: &mut SystemTx,
    gateway: Uuid,
    held: &[Held],
    news: &[EndpointId],
    now: Timestamp,
) -> Result<Vec<(EndpointId, String)>, StoreError> {
    let ids: Vec<Uuid> = held.iter().map(|h| h.endpoint_id.0).collect();
    let counts: Vec<i32> = held.iter().map(|h| i32::try_from(h.requests).unwrap_or(i32::MAX)).collect();
    query!("DELETE FROM held_requests WHERE gateway_id = $1 AND endpoint_id <> ALL($2)", gateway, &ids)
        .execute(tx.conn())
        .await?;
    query!(
        "INSERT INTO held_requests (gateway_id, endpoint_id, held, told_at)
         SELECT $1, h.id, h.count, $4 FROM unnest($2::uuid[], $3::integer[]) AS h (id, count)
         ON CONFLICT (endpoint_id, gateway_id) DO UPDATE SET held = excluded.held, told_at = excluded.told_at",
        gateway,
        &ids,
        &counts,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    if !news.is_empty() {
        let news: Vec<Uuid> = news.iter().map(|id| id.0).collect();
        outbox::publish_all(tx, Topic::Demand, &news, now).await?;
    }
    stuck(tx, &ids).await
}

/// Those of these endpoints whose every replica waits for a reason, or fails.
async fn stuck(tx: &mut SystemTx, ids: &[Uuid]) -> Result<Vec<(EndpointId, String)>, StoreError> {
    let rows = query!(
        r#"SELECT w.endpoint_id AS "endpoint_id!", min(coalesce(split_part(p.detail, $2, 1), w.reason)) AS "why!"
           FROM workloads w
           JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
           LEFT JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.ended_at IS NULL
           WHERE w.endpoint_id = ANY($1) AND NOT w.ended
           GROUP BY w.endpoint_id
           HAVING bool_and(CASE WHEN p.id IS NULL THEN w.reason IS NOT NULL AND w.promised_at IS NULL
                                ELSE p.state = 'assigned' AND coalesce(strpos(p.detail, $2), 0) > 0 END)"#,
        ids,
        RESTARTED_IN,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (EndpointId(row.endpoint_id), row.why)).collect())
}

/// Forgets measurements that are older than `keep`.
pub async fn prune(tx: &mut SystemTx, now: Timestamp, keep: Duration) -> Result<(), StoreError> {
    let before = OffsetDateTime::from(now - keep);
    query!("DELETE FROM placement_loads WHERE reported_at < $1", before).execute(tx.conn()).await?;
    query!("DELETE FROM held_requests WHERE told_at < $1", before).execute(tx.conn()).await?;
    Ok(())
}
