//! What the played workers write: the same rows as `store::workers::report` and
//! the end of a job write, for any number of workers and jobs at once.

use anyhow::Result;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::Workers;
use crate::database::rows;

/// `$1`: workers of which there is news.
pub(super) const LOOK: &str = "
    SELECT p.id, p.tenant_id, w.job_id, p.state = 'draining', p.evicted_for IS NOT NULL
    FROM placements p JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
    WHERE p.worker_id = ANY($1) AND p.state IN ('assigned', 'draining')";

/// `$1`: placements.
pub(super) const READY: &str = "
    WITH ready AS (
        UPDATE placements SET state = 'ready' WHERE id = ANY($1) AND state = 'assigned' RETURNING worker_id
    )
    INSERT INTO outbox (topic, subject, created_at)
    SELECT DISTINCT 'placements', worker_id::text, now() FROM ready";

/// `$1`, `$2`: tenants and jobs, whose files are not assembled.
pub(super) const FINISH: &str = "
    WITH of AS (SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS of (tenant, job)), chunks AS (
        UPDATE job_chunks c SET state = 'done', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
        FROM of WHERE c.tenant_id = of.tenant AND c.job_id = of.job
    ), jobs AS (
        UPDATE jobs j SET state = 'completed', completed_lines = total_lines, ended_at = now()
        FROM of WHERE j.tenant_id = of.tenant AND j.id = of.job RETURNING j.id
    )
    INSERT INTO outbox (topic, subject, created_at) SELECT 'desired', id::text, now() FROM jobs";

/// `$1`: placements that workers have let go of.
pub(super) const RELEASE: &str = "
    WITH over AS (
        UPDATE placements SET state = 'ended', ended_at = now(), detail = 'drained'
        WHERE id = ANY($1) AND ended_at IS NULL RETURNING id, tenant_id, workload_id, worker_id, generation
    ), waits AS (
        UPDATE workloads w SET state = 'pending' FROM over
        WHERE w.tenant_id = over.tenant_id AND w.id = over.workload_id AND w.state = 'placed'
    ), audited AS (
        INSERT INTO audit_events (id, tenant_id, at, actor, action, object, verdict, detail)
        SELECT gen_random_uuid(), tenant_id, now(), 'worker:' || worker_id, 'end_placement', 'placement:' || id, 'allowed',
            jsonb_build_object('workload', workload_id, 'worker', worker_id, 'generation', generation, 'why', 'drained')
        FROM over
    )
    INSERT INTO outbox (topic, subject, created_at)
    SELECT DISTINCT 'placements', worker_id::text, now() FROM over";

/// `$1`: workers that are heard. In their order, in which the scheduler locks them.
pub(super) const HEARD: &str = "
    WITH heard AS (SELECT id FROM workers WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)
    UPDATE workers w SET live = true, seen_at = GREATEST(w.seen_at, now()) FROM heard WHERE w.id = heard.id";

/// Adds workers, all in one zone and one pool. Their identifiers, in order.
pub(super) async fn join(su: &mut PgConnection, workers: &Workers) -> Result<Vec<Uuid>> {
    let Workers { count, devices, class, milli, .. } = workers;
    let sql = format!(
        "WITH joined AS (
             INSERT INTO workers (id, name, pool, zone, address, credential_hash, seen_at, created_at)
             SELECT gen_random_uuid(), 'worker-' || n, 'default', 'here', 'http://127.0.0.1:1',
                 sha256(n::text::bytea), now(), now()
             FROM generate_series(1, {count}) AS n RETURNING id
         ), devices AS (
             INSERT INTO devices (id, worker_id, ordinal, class, memory_bytes, milli)
             SELECT gen_random_uuid(), id, ordinal, '{class}', {memory}, {milli}
             FROM joined, generate_series(0, {devices} - 1) AS ordinal
         )
         SELECT id FROM joined ORDER BY id",
        memory = 1_u64 << 50,
    );
    Ok(rows(su, &sql).await?.iter().map(|row| row.get(0)).collect())
}
