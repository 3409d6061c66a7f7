//! The end of jobs: chunks that nobody can finish, and the output files.

use domain::files::File;
use domain::jobs::{ChunkRange, JobState, LineCounts, MAX_CHUNK_ATTEMPTS};
use domain::outbox::Topic;
use domain::{FileId, JobId, ProjectId, TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use super::leases::commit_results;
use crate::results::LineResult;
use crate::{StoreError, SystemTx, Tx, files, outbox};

const MAX_ATTEMPTS: i32 = MAX_CHUNK_ATTEMPTS.cast_signed();
// The index of those, `job_chunks_exhausted`, and the query that goes by it name it.
const _: () = assert!(MAX_ATTEMPTS == 5);

/// A chunk that was leased too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExhaustedChunk {
    /// Whose.
    pub tenant_id: TenantId,
    /// The job.
    pub job_id: JobId,
    /// The chunk's number in the job.
    pub index: u32,
    /// The input.
    pub input_file_id: FileId,
    /// Where the lines are in it.
    pub range: ChunkRange,
}

/// Chunks that are leased no more because they were too often.
pub async fn exhausted(tx: &mut SystemTx, limit: i64) -> Result<Vec<ExhaustedChunk>, StoreError> {
    let rows = query!(
        "SELECT c.tenant_id, c.job_id, c.index, j.input_file_id, c.first_line, c.lines, c.first_byte, c.bytes
         FROM job_chunks c JOIN jobs j ON j.tenant_id = c.tenant_id AND j.id = c.job_id
         WHERE j.state = 'in_progress' AND c.state = 'waiting' AND c.attempts >= 5
         ORDER BY c.job_id, c.index LIMIT $1",
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let big = |n: i64, column| {
                u64::try_from(n).map_err(|_| {
                    StoreError::corrupt("job_chunks", column, format!("{}/{}", row.job_id, row.index))
                })
            };
            Ok(ExhaustedChunk {
                tenant_id: TenantId(row.tenant_id),
                job_id: JobId(row.job_id),
                index: row.index.unsigned_abs(),
                input_file_id: FileId(row.input_file_id),
                range: ChunkRange {
                    first_line: big(row.first_line, "first_line")?,
                    lines: big(row.lines.into(), "lines")?,
                    first_byte: big(row.first_byte, "first_byte")?,
                    bytes: big(row.bytes, "bytes")?,
                },
            })
        })
        .collect()
}

/// Ends a chunk that was leased too often with these results.
pub async fn fail_chunk(
    tx: &mut SystemTx,
    chunk: &ExhaustedChunk,
    results: &[LineResult],
    now: Timestamp,
) -> Result<(), StoreError> {
    let done = query!(
        "UPDATE job_chunks SET state = 'done'
         WHERE tenant_id = $1 AND job_id = $2 AND index = $3 AND state = 'waiting' AND attempts >= $4",
        chunk.tenant_id.0,
        chunk.job_id.0,
        chunk.index.cast_signed(),
        MAX_ATTEMPTS,
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if done != 1 {
        return Err(StoreError::Conflict("the chunk is not waiting any more"));
    }
    commit_results(tx, chunk.tenant_id, chunk.job_id, results, now).await
}

/// A job that nothing runs for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndingJob {
    /// The job.
    pub id: JobId,
    /// Whose.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// `Finalizing` or `Cancelling`.
    pub state: JobState,
    /// How far it got.
    pub lines: LineCounts,
    /// Whether its results become files; not of a tenant that is being deleted,
    /// which gets nothing new.
    pub keeps_files: bool,
}

/// Jobs whose files are to be assembled: every line has ended, or they were
/// asked to stop and nothing is leased.
pub async fn ending(tx: &mut SystemTx, limit: i64) -> Result<Vec<EndingJob>, StoreError> {
    let rows = query!(
        r#"SELECT j.id, j.tenant_id, j.project_id, j.state, j.total_lines, j.completed_lines, j.failed_lines,
             t.status IN ('active', 'suspended') AS "keeps_files!"
         FROM jobs j JOIN tenants t ON t.id = j.tenant_id
         WHERE j.state IN ('finalizing', 'cancelling') AND (j.state = 'finalizing' OR NOT EXISTS (
             SELECT FROM job_chunks c
             WHERE c.tenant_id = j.tenant_id AND c.job_id = j.id AND c.state = 'leased'))
         ORDER BY j.created_at LIMIT $1"#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = row.state.parse().map_err(|_| StoreError::corrupt("jobs", "state", row.id))?;
            Ok(EndingJob {
                id: JobId(row.id),
                tenant_id: TenantId(row.tenant_id),
                project_id: ProjectId(row.project_id),
                state,
                lines: LineCounts {
                    total: row.total_lines.unsigned_abs(),
                    completed: row.completed_lines.unsigned_abs(),
                    failed: row.failed_lines.unsigned_abs(),
                },
                keeps_files: row.keeps_files,
            })
        })
        .collect()
}

/// Records the assembled files and ends the job. `Conflict` if somebody else
/// ended it: both wrote the same.
pub async fn finish(
    tx: &mut SystemTx,
    job: &EndingJob,
    output: Option<&File>,
    errors: Option<&File>,
    now: Timestamp,
) -> Result<JobState, StoreError> {
    let ended = match job.state {
        JobState::Cancelling => JobState::Cancelled,
        _ => JobState::Completed,
    };
    for file in [output, errors].into_iter().flatten() {
        files::create(tx, file).await.map_err(|e| match e {
            StoreError::Exists(_) => StoreError::Conflict("the job has ended already"),
            e => e,
        })?;
    }
    let changed = query!(
        "UPDATE jobs j SET state = $4, output_file_id = $5, error_file_id = $6, ended_at = $7
         WHERE tenant_id = $1 AND id = $2 AND state = $3 AND completed_lines = $8 AND failed_lines = $9
           AND NOT EXISTS (SELECT FROM job_chunks c
               WHERE c.tenant_id = j.tenant_id AND c.job_id = j.id AND c.state = 'leased')",
        job.tenant_id.0,
        job.id.0,
        job.state.as_str(),
        ended.as_str(),
        output.map(|f| f.id.0),
        errors.map(|f| f.id.0),
        OffsetDateTime::from(now),
        job.lines.completed.cast_signed(),
        job.lines.failed.cast_signed(),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if changed != 1 {
        return Err(StoreError::Conflict("the job has ended already, or goes on"));
    }
    outbox::publish(tx, Topic::Desired, job.id, now).await?;
    Ok(ended)
}
