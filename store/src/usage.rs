//! Usage: one row per answer, never changed.

use domain::models::Sha256Digest;
use domain::usage::{UsageRow, UsageSummary};
use domain::{JobId, ProjectId, RequestId, TenantId, Timestamp, UsageId, WorkerId};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

pub mod history;

use crate::error::exists;
use crate::{StoreError, SystemTx, TenantTx, Tx};

/// Most rows of a summary.
pub const MAX_SUMMARY_ROWS: i64 = 10_000;

/// Records one answer.
pub async fn record(tx: &mut impl Tx, row: &UsageRow) -> Result<(), StoreError> {
    query!(
        "INSERT INTO usage (id, tenant_id, project_id, key_id, endpoint_id, job_id, request_id, model,
             version_digest, worker_id, prompt_tokens, completion_tokens, accelerator_ms, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        row.id.0,
        row.tenant_id.0,
        row.project_id.0,
        row.key_id.map(|k| k.0),
        row.endpoint_id.map(|e| e.0),
        row.job_id.map(|j| j.0),
        row.request_id.0,
        row.model,
        &row.version_digest.0[..],
        row.worker_id.map(|w| w.0),
        i64::from(row.counts.prompt_tokens),
        i64::from(row.counts.completion_tokens),
        signed(row.accelerator_ms),
        OffsetDateTime::from(row.at),
    )
    .execute(tx.conn())
    .await
    .map_err(exists("the usage row"))?;
    Ok(())
}

/// Whose work the lines of one chunk were.
#[derive(Clone, Debug)]
pub struct ChunkUsage {
    /// Who pays.
    pub tenant_id: TenantId,
    /// Whose budget.
    pub project_id: ProjectId,
    /// The job.
    pub job_id: JobId,
    /// Name its lines use.
    pub model: String,
    /// The version that answered.
    pub version_digest: Sha256Digest,
    /// The worker that answered.
    pub worker_id: WorkerId,
}

/// What one line used.
#[derive(Clone, Copy, Debug)]
pub struct LineUsage {
    /// The request.
    pub request_id: RequestId,
    /// Tokens counted by the engine.
    pub counts: domain::inference::TokenCounts,
    /// Milliseconds on the accelerator.
    pub accelerator_ms: u64,
}

/// Records the answered lines of a chunk.
pub async fn record_lines(
    tx: &mut SystemTx,
    chunk: &ChunkUsage,
    lines: &[LineUsage],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = lines.iter().map(|_| UsageId::generate().0).collect();
    let requests: Vec<Uuid> = lines.iter().map(|l| l.request_id.0).collect();
    let prompt: Vec<i64> = lines.iter().map(|l| l.counts.prompt_tokens.into()).collect();
    let completion: Vec<i64> = lines.iter().map(|l| l.counts.completion_tokens.into()).collect();
    let ms: Vec<i64> = lines.iter().map(|l| signed(l.accelerator_ms)).collect();
    query!(
        "INSERT INTO usage (id, tenant_id, project_id, job_id, request_id, model, version_digest, worker_id,
             prompt_tokens, completion_tokens, accelerator_ms, at)
         SELECT l.id, $1, $2, $3, l.request_id, $4, $5, $6, l.prompt_tokens, l.completion_tokens, l.ms, $7
         FROM UNNEST($8::uuid[], $9::uuid[], $10::bigint[], $11::bigint[], $12::bigint[])
             AS l (id, request_id, prompt_tokens, completion_tokens, ms)",
        chunk.tenant_id.0,
        chunk.project_id.0,
        chunk.job_id.0,
        chunk.model,
        &chunk.version_digest.0[..],
        chunk.worker_id.0,
        OffsetDateTime::from(now),
        &ids,
        &requests,
        &prompt,
        &completion,
        &ms,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Usage from `from` up to, not including, `to`, summed by UTC day, project
/// and model, newest day first; of one project if given.
pub async fn summary(
    tx: &mut TenantTx,
    from: Timestamp,
    to: Timestamp,
    project: Option<ProjectId>,
) -> Result<Vec<UsageSummary>, StoreError> {
    let rows = query!(
        r#"SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS "day!", project_id, model,
               count(*) AS "requests!",
               sum(prompt_tokens)::bigint AS "prompt_tokens!",
               sum(completion_tokens)::bigint AS "completion_tokens!",
               sum(accelerator_ms)::bigint AS "accelerator_ms!"
           FROM usage
           WHERE at >= $1 AND at < $2 AND ($3::uuid IS NULL OR project_id = $3)
           GROUP BY 1, 2, 3
           ORDER BY 1 DESC, 2, 3
           LIMIT $4"#,
        OffsetDateTime::from(from),
        OffsetDateTime::from(to),
        project.map(|p| p.0),
        MAX_SUMMARY_ROWS,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| UsageSummary {
            day: row.day,
            project_id: ProjectId(row.project_id),
            model: row.model,
            requests: row.requests.unsigned_abs(),
            prompt_tokens: row.prompt_tokens.unsigned_abs(),
            completion_tokens: row.completion_tokens.unsigned_abs(),
            accelerator_ms: row.accelerator_ms.unsigned_abs(),
        })
        .collect())
}

/// Half of `u64` is enough milliseconds for anyone.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
