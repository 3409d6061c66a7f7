//! What tenants keep no longer: files by their age, results and the files of
//! results by the end of their job.

use std::time::Duration;

use domain::tenants::Retention;
use domain::{FileId, TenantId, Timestamp};
use sqlx::types::Json;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

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
    spare_read(tx, tenant, &ids).await?;
    Ok(ids.into_iter().map(FileId).collect())
}

/// A job created while the rows were being locked holds its file's row, so it
/// is seen now.
async fn spare_read(tx: &mut SystemTx, tenant: TenantId, ids: &[Uuid]) -> Result<(), StoreError> {
    let read = query_scalar!(
        r#"SELECT count(*) AS "count!" FROM jobs WHERE tenant_id = $1 AND input_file_id = ANY($2) AND ended_at IS NULL"#,
        tenant.0,
        ids,
    )
    .fetch_one(tx.conn())
    .await?;
    if read > 0 {
        return Err(StoreError::Conflict("a job began to read a file that was to go"));
    }
    Ok(())
}

/// Jobs whose results one run erases.
const JOBS: i64 = 250;

/// Erases up to `limit` results of jobs that ended longer than `age` ago, and
/// marks the files of their answers and errors deleted unless an open job reads
/// them; returns how many results, and the files, whose content the caller
/// erases before it commits.
pub async fn expire_results(
    tx: &mut SystemTx,
    tenant: TenantId,
    age: Duration,
    limit: i64,
    now: Timestamp,
) -> Result<(u64, Vec<FileId>), StoreError> {
    let (before, now) = (OffsetDateTime::from(now - age), OffsetDateTime::from(now));
    let jobs = query_scalar!(
        "SELECT id FROM jobs WHERE tenant_id = $1 AND ended_at < $2 AND results_erased_at IS NULL
         ORDER BY ended_at LIMIT $3",
        tenant.0,
        before,
        JOBS,
    )
    .fetch_all(tx.conn())
    .await?;
    let files = query_scalar!(
        "UPDATE files SET deleted_at = $3 WHERE tenant_id = $1 AND id IN (
             SELECT f.id FROM jobs j JOIN files f
               ON f.tenant_id = j.tenant_id AND f.id IN (j.output_file_id, j.error_file_id)
             WHERE j.tenant_id = $1 AND j.id = ANY($2) AND f.deleted_at IS NULL
               AND NOT EXISTS (SELECT FROM jobs open
                   WHERE open.tenant_id = f.tenant_id AND open.input_file_id = f.id AND open.ended_at IS NULL)
             FOR UPDATE OF f SKIP LOCKED)
         RETURNING id",
        tenant.0,
        &jobs,
        now,
    )
    .fetch_all(tx.conn())
    .await?;
    spare_read(tx, tenant, &files).await?;
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
           AND NOT EXISTS (SELECT FROM results r WHERE r.tenant_id = j.tenant_id AND r.job_id = j.id)
           AND NOT EXISTS (SELECT FROM files f WHERE f.tenant_id = j.tenant_id
               AND f.id IN (j.output_file_id, j.error_file_id) AND f.deleted_at IS NULL)",
        tenant.0,
        &jobs,
        now,
    )
    .execute(tx.conn())
    .await?;
    Ok((erased, files.into_iter().map(FileId).collect()))
}
