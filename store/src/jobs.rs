//! Jobs: created and read here by tenants; leased in [`leases`], ended in
//! [`finishing`].

pub mod finishing;
pub mod leases;

pub use leases::expire_leases;

use domain::accelerators::ResourceRequest;
use domain::jobs::{ChunkRange, Job, JobState, LineCounts};
use domain::models::{Manifest, Sha256Digest};
use domain::outbox::Topic;
use domain::{FileId, JobId, ProjectId, TenantId, Timestamp, VersionId};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pages::Ids;
use crate::projects::Limited;
use crate::{StoreError, SystemTx, TenantTx, Tx, outbox, projects};

/// What a name of a model means to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedModel {
    /// The version that will answer.
    pub version_id: VersionId,
    /// Its digest.
    pub digest: Sha256Digest,
    /// What it is.
    pub manifest: Manifest,
}

/// The version that `name` means: that of the tenant's endpoint, else the
/// newest of the tenant's own model, else the newest of the catalogue's. A model
/// is not meant where `endpoints_only`.
pub async fn resolve_model(
    tx: &mut TenantTx,
    name: &str,
    endpoints_only: bool,
) -> Result<Option<ResolvedModel>, StoreError> {
    let row = query!(
        r#"SELECT id AS "id!", digest AS "digest!", manifest AS "manifest!" FROM (
               SELECT 0 AS rank, v.id, v.digest, v.manifest, v.created_at
               FROM endpoints e JOIN model_versions v ON v.id = e.version_id
               WHERE e.name = $1 AND e.deleted_at IS NULL
               UNION ALL
               SELECT CASE WHEN m.tenant_id IS NULL THEN 2 ELSE 1 END, v.id, v.digest, v.manifest, v.created_at
               FROM models m JOIN model_versions v ON v.model_id = m.id
               WHERE m.name = $1 AND NOT $2
           ) found
           ORDER BY rank, created_at DESC, id DESC LIMIT 1"#,
        name,
        endpoints_only,
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| {
        let corrupt = |column| StoreError::corrupt("model_versions", column, row.id);
        Ok(ResolvedModel {
            version_id: VersionId(row.id),
            digest: digest(&row.digest).ok_or_else(|| corrupt("digest"))?,
            manifest: serde_json::from_value(row.manifest).map_err(|_| corrupt("manifest"))?,
        })
    })
    .transpose()
}

/// Names that [`resolve_model`] knows, for an error that helps.
pub async fn model_names(tx: &mut TenantTx, limit: i64) -> Result<Vec<String>, StoreError> {
    Ok(query_scalar!(
        r#"SELECT name AS "name!" FROM (
               SELECT name FROM endpoints WHERE deleted_at IS NULL
               UNION SELECT m.name FROM models m WHERE EXISTS (SELECT FROM model_versions v WHERE v.model_id = m.id)
           ) names ORDER BY name LIMIT $1"#,
        limit,
    )
    .fetch_all(tx.conn())
    .await?)
}

/// A job to create; its input was validated.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Identifier.
    pub id: JobId,
    /// Its project.
    pub project_id: ProjectId,
    /// The operation each line asks for.
    pub operation: String,
    /// The name its lines use.
    pub model: String,
    /// The version that answers.
    pub version_id: VersionId,
    /// What each share asks for.
    pub resources: ResourceRequest,
    /// Higher goes first.
    pub priority: i32,
    /// What it reads.
    pub input_file_id: FileId,
    /// Given by the caller.
    pub metadata: serde_json::Value,
}

/// Creates a job and its chunks, each with the most tokens that it can come to.
/// Refused if the input is deleted meanwhile.
pub async fn create(
    tx: &mut TenantTx,
    job: &NewJob,
    chunks: &[ChunkRange],
    tokens: &[i64],
    now: Timestamp,
) -> Result<(), StoreError> {
    projects::room(tx, job.project_id, Limited::OpenJobs, now).await?;
    let tenant = tx.tenant().0;
    let big = |n: u64| i64::try_from(n).map_err(|_| StoreError::Conflict("a number of the job is too large"));
    let small =
        |n: u64| i32::try_from(n).map_err(|_| StoreError::Conflict("a number of the job is too large"));
    query_scalar!("SELECT id FROM files WHERE id = $1 AND deleted_at IS NULL FOR SHARE", job.input_file_id.0)
        .fetch_optional(tx.conn())
        .await?
        .ok_or(StoreError::NotFound("file"))?;
    query!(
        "INSERT INTO jobs (id, tenant_id, project_id, operation, model, version_id, class, memory_bytes, milli,
             state, total_lines, input_file_id, metadata, created_at, priority, alternatives)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'in_progress', $10, $11, $12, $13, $14, $15)",
        job.id.0,
        tenant,
        job.project_id.0,
        job.operation,
        job.model,
        job.version_id.0,
        job.resources.class,
        big(job.resources.memory_bytes)?,
        small(job.resources.milli.into())?,
        big(chunks.iter().map(|c| c.lines).sum())?,
        job.input_file_id.0,
        job.metadata,
        OffsetDateTime::from(now),
        job.priority,
        &job.resources.alternatives,
    )
    .execute(tx.conn())
    .await?;
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, chunk) in chunks.iter().enumerate() {
        columns.0.push(small(index as u64)?);
        columns.1.push(big(chunk.first_line)?);
        columns.2.push(small(chunk.lines)?);
        columns.3.push(big(chunk.first_byte)?);
        columns.4.push(big(chunk.bytes)?);
    }
    query!(
        "INSERT INTO job_chunks (tenant_id, job_id, index, first_line, lines, first_byte, bytes, tokens)
         SELECT $1, $2, c.* FROM UNNEST($3::integer[], $4::bigint[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[])
             AS c",
        tenant,
        job.id.0,
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3,
        &columns.4,
        tokens,
    )
    .execute(tx.conn())
    .await?;
    outbox::publish(tx, Topic::Desired, job.id, now).await
}

/// One job.
pub async fn get(tx: &mut TenantTx, id: JobId) -> Result<Job, StoreError> {
    select(tx, Ids::only(id.0), 1).await?.pop().ok_or(StoreError::NotFound("job"))
}

/// Jobs, newest first, after (older than) the job `after`.
pub async fn list(tx: &mut TenantTx, after: Option<JobId>, limit: i64) -> Result<Vec<Job>, StoreError> {
    select(tx, Ids::before(after.map(|id| id.0)), limit).await
}

/// Asks a job to stop. `Conflict` if it ended, or all its lines did.
pub async fn cancel(tx: &mut TenantTx, id: JobId, now: Timestamp) -> Result<(), StoreError> {
    let changed = query!(
        "UPDATE jobs SET state = 'cancelling', cancelling_at = $2 WHERE id = $1 AND state = 'in_progress'",
        id.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    if changed == 0 {
        return match get(tx, id).await?.state {
            JobState::Completed | JobState::Finalizing => {
                Err(StoreError::Conflict("every line of the job has ended"))
            }
            JobState::Cancelled => Err(StoreError::Conflict("the job is cancelled already")),
            JobState::Cancelling => Err(StoreError::Conflict("the job is being cancelled already")),
            JobState::InProgress => Err(StoreError::Conflict("the job changed just now; try again")),
        };
    }
    outbox::publish(tx, Topic::Desired, id, now).await
}

/// Jobs ahead that are counted: a place further back says little, and telling it
/// would cost more the longer the queue is.
const MOST_AHEAD: i64 = 1000;

/// Place of a waiting job among the jobs of its tenant that wait for a device,
/// those of projects that the caller may not see too, from 1; `None` if it does
/// not wait, or more than `MOST_AHEAD` do before it.
pub async fn position(tx: &mut SystemTx, id: JobId) -> Result<Option<u64>, StoreError> {
    let ahead = query_scalar!(
        r#"SELECT (
               SELECT count(*) FROM (
                   SELECT FROM jobs o
                   WHERE o.tenant_id = j.tenant_id AND o.ended_at IS NULL AND o.state = 'in_progress'
                     AND (o.created_at, o.id) < (j.created_at, j.id)
                     AND NOT EXISTS (SELECT FROM workloads w
                         WHERE w.tenant_id = o.tenant_id AND w.job_id = o.id AND w.state = 'placed')
                   ORDER BY o.created_at LIMIT $2
               ) ahead
           ) AS "ahead!"
           FROM jobs j
           WHERE j.id = $1 AND j.state = 'in_progress'
             AND NOT EXISTS (SELECT FROM workloads w
                 WHERE w.tenant_id = j.tenant_id AND w.job_id = j.id AND w.state = 'placed')"#,
        id.0,
        MOST_AHEAD + 1,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(ahead.filter(|ahead| *ahead <= MOST_AHEAD).map(|n| n.unsigned_abs() + 1))
}

async fn select(tx: &mut TenantTx, ids: Ids, limit: i64) -> Result<Vec<Job>, StoreError> {
    // Of several shares, the one furthest along says how the job stands.
    let rows = query_as!(
        Row,
        r#"SELECT j.id, j.tenant_id, j.project_id, j.operation, j.model, j.version_id, v.digest, j.state,
               j.total_lines, j.completed_lines, j.failed_lines, j.input_file_id, j.output_file_id,
               j.error_file_id, j.metadata, j.created_at, j.cancelling_at, j.finalizing_at, j.ended_at,
               j.waits_for, s.reason AS "workload_reason?", s.placement AS "placement?", s.detail AS "placement_detail?"
           FROM jobs j
           JOIN model_versions v ON v.id = j.version_id
           LEFT JOIN LATERAL (
               SELECT w.reason, p.state AS placement, p.detail FROM workloads w
               LEFT JOIN placements p
                   ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.ended_at IS NULL
               WHERE w.tenant_id = j.tenant_id AND w.job_id = j.id AND NOT w.ended
               ORDER BY p.state = 'ready' DESC NULLS LAST, w.created_at LIMIT 1
           ) s ON true
           WHERE j.id BETWEEN $1 AND $2
           ORDER BY j.id DESC LIMIT $3"#,
        ids.from,
        ids.to,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

struct Row {
    id: Uuid,
    tenant_id: Uuid,
    project_id: Uuid,
    operation: String,
    model: String,
    version_id: Uuid,
    digest: Vec<u8>,
    state: String,
    total_lines: i64,
    completed_lines: i64,
    failed_lines: i64,
    input_file_id: Uuid,
    output_file_id: Option<Uuid>,
    error_file_id: Option<Uuid>,
    metadata: serde_json::Value,
    created_at: OffsetDateTime,
    cancelling_at: Option<OffsetDateTime>,
    finalizing_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
    waits_for: Option<String>,
    workload_reason: Option<String>,
    placement: Option<String>,
    placement_detail: Option<String>,
}

impl Row {
    fn reason(&self, state: JobState) -> Option<String> {
        let waits = "it waits for the scheduler";
        match (state, self.placement.as_deref()) {
            (JobState::InProgress, _) if self.waits_for.is_some() => self.waits_for.clone(),
            (JobState::Cancelling, _) => Some("lines that run are being stopped".to_owned()),
            (JobState::InProgress, Some("assigned")) => Some(
                self.placement_detail.clone().unwrap_or_else(|| "a worker is loading the model".to_owned()),
            ),
            (JobState::InProgress, Some("draining")) => Some("its worker is letting go of it".to_owned()),
            (JobState::InProgress, None) => {
                Some(self.workload_reason.clone().unwrap_or_else(|| waits.to_owned()))
            }
            _ => None,
        }
    }
}

impl TryFrom<Row> for Job {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("jobs", column, row.id);
        let state: JobState = row.state.parse().map_err(|_| corrupt("state"))?;
        let count = |n: i64, column| u64::try_from(n).map_err(|_| corrupt(column));
        Ok(Self {
            id: JobId(row.id),
            tenant_id: TenantId(row.tenant_id),
            project_id: ProjectId(row.project_id),
            version_id: VersionId(row.version_id),
            version_digest: digest(&row.digest).ok_or_else(|| corrupt("version_id"))?,
            state,
            reason: row.reason(state),
            position: None,
            lines: LineCounts {
                total: count(row.total_lines, "total_lines")?,
                completed: count(row.completed_lines, "completed_lines")?,
                failed: count(row.failed_lines, "failed_lines")?,
            },
            input_file_id: FileId(row.input_file_id),
            output_file_id: row.output_file_id.map(FileId),
            error_file_id: row.error_file_id.map(FileId),
            created_at: row.created_at.into(),
            cancelling_at: row.cancelling_at.map(Into::into),
            finalizing_at: row.finalizing_at.map(Into::into),
            ended_at: row.ended_at.map(Into::into),
            operation: row.operation,
            model: row.model,
            metadata: row.metadata,
        })
    }
}

fn digest(bytes: &[u8]) -> Option<Sha256Digest> {
    bytes.try_into().ok().map(Sha256Digest)
}
