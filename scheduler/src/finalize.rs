//! The end of jobs: chunks that no worker could finish fail, and when nothing
//! runs any more the results become files. The files of a job always have the
//! same names and content, so a scheduler that is killed in the middle, or is
//! no longer the leader, does no harm: whoever commits first ends the job.

use bytes::Bytes;
use domain::files::{File, FilePurpose};
use domain::inference::FailureKind;
use domain::jobs::{MAX_CHUNK_ATTEMPTS, MAX_OUTPUT_BYTES, assembled_file_id, line_request_id};
use domain::openai::{BatchOutput, ErrorBody, ErrorObject};
use domain::{Clock, JobId, LeaseToken, TenantId};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use store::jobs::finishing::{self, EndingJob, ExhaustedChunk};
use store::leadership::{Term, fence};
use store::objects::{Objects, PutError};
use store::results::{LineResult, Outcome};
use store::{Store, StoreError, audit};
use tracing::{info, warn};

/// Jobs and chunks that one turn takes on.
const BATCH: i64 = 32;
/// Results held in memory at a time.
const PAGE_ROWS: i64 = 256;

/// Why a turn failed. The next does the same work again.
#[derive(Debug, thiserror::Error)]
pub enum FinalizeError {
    /// The database, or reading an input.
    #[error("the database or the object store failed")]
    Store(#[from] StoreError),
    /// Writing an output.
    #[error("the output of job {job} could not be written")]
    Write {
        /// The job.
        job: JobId,
        /// Why.
        #[source]
        source: PutError,
    },
}

impl FinalizeError {
    /// Another scheduler leads: this one has no more to do.
    pub fn is_not_leader(&self) -> bool {
        matches!(self, Self::Store(StoreError::NotLeader))
    }
}

/// What one turn works with.
#[derive(Clone, Copy)]
struct At<'a> {
    store: &'a Store,
    objects: &'a Objects,
    clock: &'a Clock,
    term: Term,
}

impl At<'_> {
    fn actor(self) -> String {
        format!("scheduler:{}", self.term.epoch)
    }
}

/// One turn. A job that cannot be ended keeps no other from its end.
pub async fn tick(store: &Store, objects: &Objects, clock: &Clock, term: Term) -> Result<(), FinalizeError> {
    let at = At { store, objects, clock, term };
    let mut first_error = None;
    let mut tx = store.system().await?;
    let exhausted = finishing::exhausted(&mut tx, BATCH).await?;
    tx.commit().await?;
    for chunk in exhausted {
        keep_first(&mut first_error, fail_chunk(at, &chunk).await);
    }
    let mut tx = store.system().await?;
    let ending = finishing::ending(&mut tx, BATCH).await?;
    tx.commit().await?;
    for job in ending {
        keep_first(&mut first_error, end_job(at, &job).await);
    }
    first_error.map_or(Ok(()), Err)
}

fn keep_first(first: &mut Option<FinalizeError>, result: Result<(), FinalizeError>) {
    match result {
        // Somebody else was faster.
        Ok(()) | Err(FinalizeError::Store(StoreError::Conflict(_))) => {}
        Err(e) if first.is_none() => *first = Some(e),
        Err(e) => warn!(error = &e as &dyn std::error::Error, "Another job could not be ended"),
    }
}

/// Gives every line of a chunk that was leased too often an error.
async fn fail_chunk(at: At<'_>, chunk: &ExhaustedChunk) -> Result<(), FinalizeError> {
    let key = File::object_key(chunk.tenant_id, chunk.input_file_id);
    let range = chunk.range.first_byte..chunk.range.first_byte + chunk.range.bytes;
    let bytes = at.objects.get_range(&key, range).await?;
    let message = format!(
        "the line was given to a worker {MAX_CHUNK_ATTEMPTS} times, and none of them finished its chunk"
    );
    let (status_code, mut error) = ErrorObject::of_failure(FailureKind::Internal, "");
    error.message = message;
    error.code = Some("workers_lost".to_owned());
    let body = json!(ErrorBody::from(error));
    let results: Vec<LineResult> = chunk
        .range
        .lines_in(&bytes)
        .map(|(line, text)| LineResult {
            line,
            custom_id: custom_id(text),
            // No lease names these lines any more; the job does.
            request_id: line_request_id(LeaseToken(chunk.job_id.0), line),
            status_code,
            body: body.clone(),
        })
        .collect();
    let now = at.clock.now();
    let (job, index) = (chunk.job_id, chunk.index);
    let mut event =
        audit::allowed(Some(chunk.tenant_id), now, at.actor(), "fail_chunk", format!("job:{job}"));
    event.detail = json!({"chunk": index, "lines": results.len(), "attempts": MAX_CHUNK_ATTEMPTS});
    let mut tx = at.store.system().await?;
    fence(&mut tx, at.term.epoch).await?;
    finishing::fail_chunk(&mut tx, chunk, &results, now).await?;
    audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    warn!(job.id = %job, chunk = index, "Chunk {index} of job {job} was leased too often; its lines failed");
    Ok(())
}

/// The line was checked when the job was created.
fn custom_id(line: &[u8]) -> String {
    let line: Value = serde_json::from_slice(line).unwrap_or_default();
    line["custom_id"].as_str().unwrap_or_default().to_owned()
}

/// Assembles the files and ends the job.
async fn end_job(at: At<'_>, job: &EndingJob) -> Result<(), FinalizeError> {
    let output = assemble(at, job, Outcome::Answers).await?;
    let errors = assemble(at, job, Outcome::Failures).await?;
    let now = at.clock.now();
    let mut tx = at.store.system().await?;
    fence(&mut tx, at.term.epoch).await?;
    let ended = finishing::finish(&mut tx, job, output.as_ref(), errors.as_ref(), now).await?;
    let mut event =
        audit::allowed(Some(job.tenant_id), now, at.actor(), "finish_job", format!("job:{}", job.id));
    event.detail = json!({
        "state": ended,
        "completed": job.lines.completed,
        "failed": job.lines.failed,
        "total": job.lines.total,
        "output_file": output.as_ref().map(|f| f.id),
        "output_sha256": output.as_ref().map(|f| f.sha256),
        "error_file": errors.as_ref().map(|f| f.id),
        "error_sha256": errors.as_ref().map(|f| f.sha256),
    });
    audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    let lines = job.lines;
    info!(
        job.id = %job.id,
        "Job {} is {}: {} of {} lines answered, {} failed", job.id, ended.as_str(), lines.completed, lines.total, lines.failed
    );
    Ok(())
}

/// Writes the results of one kind into their file; `None` if there are none.
async fn assemble(at: At<'_>, job: &EndingJob, outcome: Outcome) -> Result<Option<File>, FinalizeError> {
    let (lines, name) = match outcome {
        Outcome::Answers => (job.lines.completed, "output"),
        Outcome::Failures => (job.lines.failed, "errors"),
    };
    if lines == 0 || !job.keeps_files {
        return Ok(None);
    }
    let id = assembled_file_id(job.id, name);
    let body = pages(at.store.clone(), job.tenant_id, job.id, outcome).map_ok(|page| written(&page));
    let stored = at
        .objects
        .put(&File::object_key(job.tenant_id, id), body.boxed(), MAX_OUTPUT_BYTES)
        .await
        .map_err(|source| FinalizeError::Write { job: job.id, source })?;
    Ok(Some(File {
        id,
        tenant_id: job.tenant_id,
        project_id: job.project_id,
        purpose: FilePurpose::BatchOutput,
        filename: format!("batch_{}_{name}.jsonl", job.id.0.simple()),
        bytes: stored.bytes,
        sha256: stored.sha256,
        created_at: at.clock.now(),
    }))
}

/// Results in order of their lines, a page in a transaction of its own.
fn pages(
    store: Store,
    tenant: TenantId,
    job: JobId,
    outcome: Outcome,
) -> impl Stream<Item = Result<Vec<LineResult>, StoreError>> + Send {
    stream::try_unfold(Some(0), move |from| {
        let store = store.clone();
        async move {
            let Some(from) = from else { return Ok(None) };
            let mut tx = store.system().await?;
            let page = store::results::page(&mut tx, tenant, job, outcome, from, PAGE_ROWS).await?;
            tx.commit().await?;
            let next = page.last().map(|last| last.line + 1);
            Ok(next.map(|next| (page, Some(next))))
        }
    })
}

fn written(page: &[LineResult]) -> Bytes {
    let mut text = Vec::new();
    for result in page {
        let line = BatchOutput::new(
            result.request_id,
            result.custom_id.clone(),
            result.status_code,
            result.body.clone(),
        );
        serde_json::to_writer(&mut text, &line).expect("texts and numbers are written to memory");
        text.push(b'\n');
    }
    text.into()
}
