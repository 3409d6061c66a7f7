//! Leases of chunks: who may run which lines until when, and the commit of
//! what came of it. A token that was lost or has expired commits nothing.
//!
//! Rows are locked in the order placement, budgets, job, chunk by who leases, and
//! chunk, budgets, job by who commits; who leases skips locked chunks, so nobody waits in a circle.

use std::time::Duration;

use domain::budgets::TokensShort;
use domain::jobs::{ChunkRange, MAX_CHUNK_ATTEMPTS};
use domain::models::Sha256Digest;
use domain::outbox::Topic;
use domain::workers::LEASE_TTL_SECS;
use domain::{FileId, JobId, LeaseToken, PlacementId, ProjectId, TenantId, Timestamp, WorkerId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::budgets::tokens;
use crate::results::LineResult;
use crate::usage::{ChunkUsage, LineUsage};
use crate::{StoreError, SystemTx, Tx, outbox, results, usage};

/// Leases ended in one statement.
const EXPIRE_BATCH: i64 = 1000;
const MAX_ATTEMPTS: i32 = MAX_CHUNK_ATTEMPTS.cast_signed();

/// A leased chunk and what is needed to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub tenant_id: TenantId,
    /// Whose budget.
    pub project_id: ProjectId,
    /// The job.
    pub job_id: JobId,
    /// The chunk's number in the job.
    pub index: u32,
    /// The operation each line asks for.
    pub operation: String,
    /// The name its lines use.
    pub model: String,
    /// The version that answers.
    pub version_digest: Sha256Digest,
    /// The input.
    pub input_file_id: FileId,
    /// Where the lines are in it.
    pub range: ChunkRange,
    /// Proves the lease.
    pub token: LeaseToken,
    /// When the lease ends.
    pub expires_at: Timestamp,
}

struct Row {
    tenant_id: Uuid,
    project_id: Uuid,
    job_id: Uuid,
    index: i32,
    operation: String,
    model: String,
    digest: Vec<u8>,
    input_file_id: Uuid,
    first_line: i64,
    lines: i32,
    first_byte: i64,
    bytes: i64,
    lease_token: Uuid,
    lease_expires_at: OffsetDateTime,
}

impl TryFrom<Row> for Chunk {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt =
            |column| StoreError::corrupt("job_chunks", column, format!("{}/{}", row.job_id, row.index));
        let big = |n: i64, column| u64::try_from(n).map_err(|_| corrupt(column));
        Ok(Self {
            tenant_id: TenantId(row.tenant_id),
            project_id: ProjectId(row.project_id),
            job_id: JobId(row.job_id),
            index: u32::try_from(row.index).map_err(|_| corrupt("index"))?,
            version_digest: super::digest(&row.digest).ok_or_else(|| corrupt("job_id"))?,
            input_file_id: FileId(row.input_file_id),
            range: ChunkRange {
                first_line: big(row.first_line, "first_line")?,
                lines: big(row.lines.into(), "lines")?,
                first_byte: big(row.first_byte, "first_byte")?,
                bytes: big(row.bytes, "bytes")?,
            },
            token: LeaseToken(row.lease_token),
            expires_at: row.lease_expires_at.into(),
            operation: row.operation,
            model: row.model,
        })
    }
}

/// What came of asking for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// One to run.
    Chunk(Box<Chunk>),
    /// There is nothing to lease.
    Nothing,
    /// A budget of tokens has too little left for the next.
    Short(TokensShort),
}

impl Leased {
    /// The chunk, if it is one.
    pub fn chunk(self) -> Option<Chunk> {
        match self {
            Self::Chunk(chunk) => Some(*chunk),
            Self::Nothing | Self::Short(_) => None,
        }
    }
}

/// Leases the first chunk that nobody holds, to a worker with a live placement
/// of this generation for the job. A lease reserves what its lines may come to of
/// the budgets of tokens; where that is more than a whole budget, all of it.
pub async fn lease(
    tx: &mut SystemTx,
    job: JobId,
    worker: WorkerId,
    placement: PlacementId,
    generation: i64,
    token: LeaseToken,
    now: Timestamp,
) -> Result<Leased, StoreError> {
    let share = query!(
        r#"SELECT p.tenant_id,
             EXISTS (SELECT FROM budgets b WHERE b.tenant_id = p.tenant_id AND b.class IS NULL) AS "budgeted!"
         FROM placements p
         JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
         WHERE p.id = $1 AND p.worker_id = $2 AND p.generation = $3 AND p.state IN ('assigned', 'ready')
           AND w.job_id = $4
         FOR SHARE OF p"#,
        placement.0,
        worker.0,
        generation,
        job.0,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::Conflict("the placement is over, or not a share of this job"))?;
    let tenant = share.tenant_id;
    if share.budgeted {
        tokens::lock(tx, TenantId(tenant)).await?;
    }
    // Held until the lease commits, so that a job that is being cancelled has
    // either no lease or one that can be seen.
    let open = query_scalar!(
        "SELECT id FROM jobs WHERE tenant_id = $1 AND id = $2 AND state = 'in_progress' FOR SHARE",
        tenant,
        job.0,
    )
    .fetch_optional(tx.conn())
    .await?;
    if open.is_none() {
        return Ok(Leased::Nothing);
    }
    if share.budgeted
        && let Some(short) = tokens::next_chunk_short(tx, TenantId(tenant), job, now).await?
    {
        return Ok(Leased::Short(short));
    }
    let leased = query_scalar!(
        "UPDATE job_chunks
         SET state = 'leased', lease_worker_id = $3, lease_token = $4, lease_expires_at = $5, attempts = attempts + 1
         WHERE tenant_id = $1 AND job_id = $2 AND index = (
             SELECT index FROM job_chunks
             WHERE tenant_id = $1 AND job_id = $2 AND attempts < $7
               AND (state = 'waiting' OR (state = 'leased' AND lease_expires_at <= $6))
             ORDER BY index LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING index",
        tenant,
        job.0,
        worker.0,
        token.0,
        OffsetDateTime::from(now + Duration::from_secs(LEASE_TTL_SECS)),
        OffsetDateTime::from(now),
        MAX_ATTEMPTS,
    )
    .fetch_optional(tx.conn())
    .await?;
    match leased {
        Some(index) => {
            let chunk = held(tx, job, index.unsigned_abs(), worker, token, now).await?;
            Ok(Leased::Chunk(Box::new(chunk)))
        }
        None => Ok(Leased::Nothing),
    }
}

/// The chunk that `worker` holds with `token`, or [`StoreError::LeaseLost`].
pub async fn held(
    tx: &mut SystemTx,
    job: JobId,
    index: u32,
    worker: WorkerId,
    token: LeaseToken,
    now: Timestamp,
) -> Result<Chunk, StoreError> {
    query_as!(
        Row,
        r#"SELECT c.tenant_id, j.project_id, c.job_id, c.index, j.operation, j.model, v.digest, j.input_file_id,
               c.first_line, c.lines, c.first_byte, c.bytes, c.lease_token AS "lease_token!",
               c.lease_expires_at AS "lease_expires_at!"
           FROM job_chunks c
           JOIN jobs j ON j.tenant_id = c.tenant_id AND j.id = c.job_id
           JOIN model_versions v ON v.id = j.version_id
           WHERE c.job_id = $1 AND c.index = $2 AND c.state = 'leased' AND c.lease_token = $3
             AND c.lease_worker_id = $4 AND c.lease_expires_at > $5"#,
        job.0,
        i32::try_from(index).map_err(|_| StoreError::LeaseLost)?,
        token.0,
        worker.0,
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::LeaseLost)?
    .try_into()
}

/// What came of asking to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lasts until then.
    Until(Timestamp),
    /// The job is being cancelled: the lease has ended now.
    Stop,
}

/// Makes a lease last longer, unless the job is being cancelled.
pub async fn renew(
    tx: &mut SystemTx,
    job: JobId,
    index: u32,
    worker: WorkerId,
    token: LeaseToken,
    now: Timestamp,
) -> Result<Renewal, StoreError> {
    let chunk = held(tx, job, index, worker, token, now).await?;
    let until = now + Duration::from_secs(LEASE_TTL_SECS);
    let renewed = query!(
        "UPDATE job_chunks c SET lease_expires_at = $4
         FROM jobs j
         WHERE c.tenant_id = $1 AND c.job_id = $2 AND c.index = $3 AND c.state = 'leased' AND c.lease_token = $5
           AND j.tenant_id = c.tenant_id AND j.id = c.job_id AND j.state = 'in_progress'",
        chunk.tenant_id.0,
        job.0,
        index.cast_signed(),
        OffsetDateTime::from(until),
        token.0,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if renewed == 1 {
        return Ok(Renewal::Until(until));
    }
    query!(
        "UPDATE job_chunks
         SET state = 'waiting', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         WHERE tenant_id = $1 AND job_id = $2 AND index = $3 AND state = 'leased' AND lease_token = $4",
        chunk.tenant_id.0,
        job.0,
        index.cast_signed(),
        token.0,
    )
    .execute(tx.conn())
    .await?;
    outbox::publish(tx, Topic::Desired, job, now).await?;
    Ok(Renewal::Stop)
}

/// Commits the results of a leased chunk, all or none, with what they used.
pub async fn complete(
    tx: &mut SystemTx,
    chunk: &Chunk,
    worker: WorkerId,
    results: &[LineResult],
    used: &[LineUsage],
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = query!(
        "UPDATE job_chunks
         SET state = 'done', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         WHERE tenant_id = $1 AND job_id = $2 AND index = $3 AND state = 'leased' AND lease_token = $4
           AND lease_worker_id = $5 AND lease_expires_at > $6",
        chunk.tenant_id.0,
        chunk.job_id.0,
        chunk.index.cast_signed(),
        chunk.token.0,
        worker.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if done != 1 {
        return Err(StoreError::LeaseLost);
    }
    let of = ChunkUsage {
        tenant_id: chunk.tenant_id,
        project_id: chunk.project_id,
        job_id: chunk.job_id,
        model: chunk.model.clone(),
        version_digest: chunk.version_digest,
        worker_id: worker,
    };
    usage::record_lines(tx, &of, used, now).await?;
    commit_results(tx, chunk.tenant_id, chunk.job_id, results, now).await
}

/// Inserts results and counts them; the last ones make the job `finalizing`.
pub(super) async fn commit_results(
    tx: &mut SystemTx,
    tenant: TenantId,
    job: JobId,
    lines: &[LineResult],
    now: Timestamp,
) -> Result<(), StoreError> {
    results::insert(tx, tenant, job, lines, now).await?;
    let answered = lines.iter().filter(|r| r.is_answer()).count();
    let count = |n: usize| i64::try_from(n).expect("a chunk is small");
    let state = query_scalar!(
        "UPDATE jobs SET completed_lines = completed_lines + $3, failed_lines = failed_lines + $4,
             state = CASE WHEN state = 'in_progress' AND completed_lines + failed_lines + $3 + $4 = total_lines
                 THEN 'finalizing' ELSE state END,
             finalizing_at = CASE WHEN completed_lines + failed_lines + $3 + $4 = total_lines
                 THEN $5 ELSE finalizing_at END
         WHERE tenant_id = $1 AND id = $2 AND state IN ('in_progress', 'cancelling')
         RETURNING state",
        tenant.0,
        job.0,
        count(answered),
        count(lines.len() - answered),
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::LeaseLost)?;
    if state != "in_progress" {
        outbox::publish(tx, Topic::Desired, job, now).await?;
    }
    Ok(())
}

/// Gives chunks whose lease has run out back; returns how many.
pub async fn expire_leases(tx: &mut SystemTx, now: Timestamp) -> Result<u64, StoreError> {
    let expired = query!(
        "UPDATE job_chunks c
         SET state = 'waiting', lease_worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
         FROM (
             SELECT tenant_id, job_id, index FROM job_chunks
             WHERE state = 'leased' AND lease_expires_at <= $1
             LIMIT $2 FOR UPDATE SKIP LOCKED
         ) old
         WHERE (c.tenant_id, c.job_id, c.index) = (old.tenant_id, old.job_id, old.index)",
        OffsetDateTime::from(now),
        EXPIRE_BATCH,
    )
    .execute(tx.conn())
    .await?;
    Ok(expired.rows_affected())
}
