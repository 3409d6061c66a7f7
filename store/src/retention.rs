//! What tenants keep no longer: files by their age, results by that of their job.

use std::time::Duration;

use domain::tenants::Retention;
use domain::{FileId, TenantId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;

use crate::{StoreError, SystemTx, Tx};

/// Tenants that do not keep everything.
pub async fn tenants(tx: &mut SystemTx) -> Result<Vec<(TenantId, Retention)>, StoreError> {
    let rows = query!(
        r#"SELECT id, retention AS "retention: Json<Retention>" FROM tenants
           WHERE status IN ('active', 'suspended') AND retention <> '{}'"#
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (TenantId(row.id), row.retention.0)).collect())
}

/// Marks up to `limit` files deleted that are older than `age` and that no open
/// job reads. The caller erases their content, then commits: so nothing is
/// left behind by a process that dies.
pub async fn expire_files(
    tx: &mut SystemTx,
    tenant: TenantId,
    age: Duration,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<FileId>, StoreError> {
    let ids = query_scalar!(
        "UPDATE files SET deleted_at = $3 WHERE tenant_id = $1 AND id IN (
             SELECT f.id FROM files f
             WHERE f.tenant_id = $1 AND f.deleted_at IS NULL AND f.created_at < $2
               AND NOT EXISTS (SELECT FROM jobs j
                   WHERE j.tenant_id = f.tenant_id AND j.input_file_id = f.id AND j.ended_at IS NULL)
             LIMIT $4 FOR UPDATE SKIP LOCKED)
         RETURNING id",
        tenant.0,
        OffsetDateTime::from(now - age),
        OffsetDateTime::from(now),
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    // A job created while the rows were being locked holds its file's row, so
    // it is seen now.
    let read = query_scalar!(
        r#"SELECT count(*) AS "count!" FROM jobs WHERE tenant_id = $1 AND input_file_id = ANY($2) AND ended_at IS NULL"#,
        tenant.0,
        &ids,
    )
    .fetch_one(tx.conn())
    .await?;
    if read > 0 {
        return Err(StoreError::Conflict("a job began to read a file that was to go"));
    }
    Ok(ids.into_iter().map(FileId).collect())
}

/// Erases up to `limit` results of jobs that ended longer than `age` ago;
/// returns how many.
pub async fn expire_results(
    tx: &mut SystemTx,
    tenant: TenantId,
    age: Duration,
    limit: i64,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let before = OffsetDateTime::from(now - age);
    let jobs = query_scalar!(
        "SELECT id FROM jobs WHERE tenant_id = $1 AND ended_at < $2 AND results_erased_at IS NULL
         ORDER BY ended_at LIMIT 1000",
        tenant.0,
        before,
    )
    .fetch_all(tx.conn())
    .await?;
    let erased = query!(
        "DELETE FROM results WHERE tenant_id = $1 AND (job_id, line) IN (
             SELECT job_id, line FROM results WHERE tenant_id = $1 AND job_id = ANY($2) LIMIT $3)",
        tenant.0,
        &jobs,
        limit,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    query!(
        "UPDATE jobs j SET results_erased_at = $3 WHERE tenant_id = $1 AND id = ANY($2)
           AND NOT EXISTS (SELECT FROM results r WHERE r.tenant_id = j.tenant_id AND r.job_id = j.id)",
        tenant.0,
        &jobs,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok(erased)
}
