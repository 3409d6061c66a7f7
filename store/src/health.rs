//! Can a prompt be answered: what runs, in numbers that name no tenant.

use domain::Timestamp;
use domain::workers::WORKER_LOST_SECS;
use sqlx::query;
use time::OffsetDateTime;

use crate::{StoreError, SystemTx, Tx};

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Workers that report.
    pub live_workers: u64,
    /// Endpoints that should answer.
    pub endpoints: u64,
    /// Endpoints of which at least one replica answers.
    pub ready_endpoints: u64,
    /// Endpoints that have no replica because nobody asks; a prompt brings one.
    pub resting_endpoints: u64,
    /// Why the endpoint that waits longest does, if one waits.
    pub waits_because: Option<String>,
}

/// Counts what runs.
pub async fn summary(tx: &mut SystemTx, now: Timestamp) -> Result<Summary, StoreError> {
    let seen = OffsetDateTime::from(now - std::time::Duration::from_secs(WORKER_LOST_SECS));
    let row = query!(
        r#"WITH wanted AS (
               SELECT e.tenant_id, e.id, e.created_at,
                   EXISTS (SELECT FROM workloads w
                           JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.state = 'ready'
                           JOIN workers k ON k.id = p.worker_id AND k.live AND k.seen_at >= $1
                           WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND w.version_id = e.version_id) AS ready
               FROM endpoints e WHERE e.deleted_at IS NULL AND e.replicas > 0
           )
           SELECT (SELECT count(*) FROM workers WHERE live AND seen_at >= $1) AS "live_workers!",
               (SELECT count(*) FROM wanted) AS "endpoints!",
               (SELECT count(*) FROM wanted WHERE ready) AS "ready_endpoints!",
               (SELECT count(*) FROM endpoints WHERE deleted_at IS NULL AND replicas = 0 AND min_replicas IS NOT NULL)
                   AS "resting_endpoints!",
               (SELECT coalesce(p.detail, w.reason)
                FROM wanted e
                JOIN workloads w ON w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND NOT w.ended
                LEFT JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.ended_at IS NULL
                WHERE NOT e.ready ORDER BY e.created_at, w.created_at LIMIT 1) AS waits_because"#,
        seen
    )
    .fetch_one(tx.conn())
    .await?;
    let count = |n: i64| n.unsigned_abs();
    Ok(Summary {
        live_workers: count(row.live_workers),
        endpoints: count(row.endpoints),
        ready_endpoints: count(row.ready_endpoints),
        resting_endpoints: count(row.resting_endpoints),
        waits_because: row.waits_because,
    })
}
