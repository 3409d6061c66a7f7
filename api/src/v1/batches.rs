//! `/v1/batches`: the jobs of `/api/v1/jobs`, in OpenAI's words.

use axum::extract::State;
use axum::response::Response;
use domain::JobId;
use domain::Timestamp;
use domain::jobs::{Job, JobState};
use domain::openai::Operation;
use domain::workloads::JOB_PRIORITY;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::files::{file_id, parse_file_id};
use super::parse_id;
use crate::access::TenantScope;
use crate::extract::{Json, Path, Query};
use crate::jobs::{self, Run};
use crate::problem::{ApiError, Result};
use crate::resources::AskedResources;
use crate::state::App;

/// Most batches of one page.
const MAX_PAGE: u32 = 100;
/// Batches of a page unless told.
const DEFAULT_PAGE: u32 = 20;
/// The only window that OpenAI's clients may name. Jobs end when they end.
const WINDOW: &str = "24h";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_batches, create_batch))
        .routes(routes!(get_batch))
        .routes(routes!(cancel_batch))
}

/// What to run, in OpenAI's words.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateBatch {
    /// A file of requests.
    input_file_id: String,
    /// What each line asks for.
    endpoint: Operation,
    /// `24h`.
    #[schema(pattern = "^24h$")]
    completion_window: String,
    /// Up to 16 pairs of text, returned as they are.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// A job, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Batch {
    /// `batch_` and the identifier.
    id: String,
    /// `batch`.
    object: &'static str,
    /// What each line asks for.
    endpoint: String,
    /// Always null: an input with errors makes no batch.
    #[schema(value_type = Option<Object>)]
    errors: Option<Value>,
    /// The input.
    input_file_id: String,
    /// `24h`.
    #[schema(pattern = "^24h$")]
    completion_window: &'static str,
    /// `in_progress`, `finalizing`, `completed`, `cancelling` or `cancelled`.
    status: &'static str,
    /// Answers, when done.
    output_file_id: Option<String>,
    /// Errors, when done and if there are any.
    error_file_id: Option<String>,
    /// Unix seconds, as all that follow.
    created_at: i64,
    /// When it was accepted.
    in_progress_at: i64,
    /// Always null: jobs do not expire.
    expires_at: Option<i64>,
    /// When every line had its result.
    finalizing_at: Option<i64>,
    /// When it was done.
    completed_at: Option<i64>,
    /// Always null.
    failed_at: Option<i64>,
    /// Always null.
    expired_at: Option<i64>,
    /// When it was asked to stop.
    cancelling_at: Option<i64>,
    /// When it had stopped.
    cancelled_at: Option<i64>,
    /// How far it is.
    request_counts: RequestCounts,
    /// Given by the caller.
    #[schema(value_type = Object)]
    metadata: Value,
}

/// How far a batch is, in lines.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RequestCounts {
    /// All lines.
    total: u64,
    /// Lines answered.
    completed: u64,
    /// Lines that ended in an error.
    failed: u64,
}

impl From<Job> for Batch {
    fn from(job: Job) -> Self {
        let secs = |at: Option<Timestamp>| at.map(Timestamp::unix_secs);
        let ended_as = |state| if job.state == state { secs(job.ended_at) } else { None };
        Self {
            id: format!("batch_{}", job.id.0.simple()),
            object: "batch",
            errors: None,
            input_file_id: file_id(job.input_file_id),
            completion_window: WINDOW,
            status: job.state.as_str(),
            output_file_id: job.output_file_id.map(file_id),
            error_file_id: job.error_file_id.map(file_id),
            created_at: job.created_at.unix_secs(),
            in_progress_at: job.created_at.unix_secs(),
            expires_at: None,
            finalizing_at: secs(job.finalizing_at),
            completed_at: ended_as(JobState::Completed),
            failed_at: None,
            expired_at: None,
            cancelling_at: secs(job.cancelling_at),
            cancelled_at: ended_as(JobState::Cancelled),
            request_counts: RequestCounts {
                total: job.lines.total,
                completed: job.lines.completed,
                failed: job.lines.failed,
            },
            endpoint: job.operation,
            metadata: job.metadata,
        }
    }
}

/// Jobs, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BatchList {
    /// `list`.
    object: &'static str,
    /// The batches.
    data: Vec<Batch>,
    /// Id of the first.
    first_id: Option<String>,
    /// Id of the last: pass it as `after` for the next page.
    last_id: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct BatchQuery {
    /// Id of the last batch of the page before.
    after: Option<String>,
    /// Batches per page; more than 100 count as 100.
    #[param(minimum = 0, maximum = 4_294_967_295_i64, format = Int64)]
    limit: Option<u32>,
}

fn parse_batch_id(text: &str) -> Result<JobId> {
    parse_id(text, "batch_").ok_or(ApiError::NotFound("batch"))
}

/// Run the lines of a file
#[utoipa::path(post, path = "/v1/batches", tag = "inference", request_body = CreateBatch,
    responses((status = 200, body = Batch)))]
async fn create_batch(
    State(app): State<App>,
    scope: TenantScope,
    Json(body): Json<CreateBatch>,
) -> Result<Response> {
    if body.completion_window != WINDOW {
        return Err(ApiError::field("completion_window", "completion_window must be 24h"));
    }
    let run = Run {
        input: parse_file_id(&body.input_file_id)?,
        operation: body.endpoint,
        priority: JOB_PRIORITY,
        metadata: body.metadata.unwrap_or_default(),
        resources: AskedResources::default(),
    };
    let (change, job) = jobs::create(&app, &scope, None, run).await?;
    change.ok(&Batch::from(job)).await
}

/// List batches, newest first
#[utoipa::path(get, path = "/v1/batches", tag = "inference", params(BatchQuery),
    responses((status = 200, body = BatchList)))]
async fn list_batches(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<BatchQuery>,
) -> Result<Json<BatchList>> {
    let after = query.after.as_deref().map(parse_batch_id).transpose()?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let mut found = store::jobs::list(&mut scope.read(&app).await?, after, i64::from(limit) + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let data: Vec<Batch> = found.into_iter().map(Into::into).collect();
    Ok(Json(BatchList {
        object: "list",
        first_id: data.first().map(|b| b.id.clone()),
        last_id: data.last().map(|b| b.id.clone()),
        has_more,
        data,
    }))
}

/// Get a batch
#[utoipa::path(get, path = "/v1/batches/{batch}", tag = "inference", params(("batch" = String, Path)),
    responses((status = 200, body = Batch)))]
async fn get_batch(
    State(app): State<App>,
    scope: TenantScope,
    Path(batch): Path<String>,
) -> Result<Json<Batch>> {
    let job = store::jobs::get(&mut scope.read(&app).await?, parse_batch_id(&batch)?).await?;
    Ok(Json(job.into()))
}

/// Cancel a batch
///
/// Lines that were answered keep their results.
#[utoipa::path(post, path = "/v1/batches/{batch}/cancel", tag = "inference", params(("batch" = String, Path)),
    responses((status = 200, body = Batch)))]
async fn cancel_batch(
    State(app): State<App>,
    scope: TenantScope,
    Path(batch): Path<String>,
) -> Result<Response> {
    let (change, job, cancelled) = jobs::cancel(&app, &scope, parse_batch_id(&batch)?).await?;
    let batch = Batch::from(job);
    if cancelled { change.ok(&batch).await } else { change.unchanged(&batch).await }
}
