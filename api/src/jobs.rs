//! Jobs: batch inference over the lines of a file. `/v1/batches` says the same
//! in OpenAI's words, with the code of this module.

use axum::extract::State;
use axum::response::Response;
use domain::jobs::{
    Job, JobState, MAX_METADATA_KEY_BYTES, MAX_METADATA_PAIRS, MAX_METADATA_VALUE_BYTES, SHARE_MILLI,
};
use domain::openai::Operation;
use domain::tenants::Slug;
use domain::workloads::JOB_PRIORITY;
use domain::{FileId, JobId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::TenantTx;
use store::jobs::{NewJob, ResolvedModel};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result};
use crate::resources::AskedResources;
use crate::state::App;
use crate::{fields, files};

mod validate;

/// Names told to who asks for a model that is not there.
const MAX_NAMES: i64 = 20;

/// Routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_jobs, create_job))
        .routes(routes!(get_job))
        .routes(routes!(cancel_job))
        .routes(routes!(download_job_results))
}

/// What to run.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateJob {
    /// An uploaded file of requests, as OpenAI's batches have them: JSON Lines
    /// of `custom_id`, `method`, `url` and `body`.
    input_file_id: FileId,
    /// What each line asks for.
    #[serde(default = "chat")]
    operation: Operation,
    /// Up to 16 pairs of text, returned as they are.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// Higher goes first, among the tenant's and where tenants compete; seen on
    /// its workloads.
    #[serde(default = "job_priority")]
    #[schema(default = 0, minimum = -1000, maximum = 1000)]
    priority: i32,
    /// What each share of the job asks for; follows from the model unless given.
    #[serde(default)]
    resources: AskedResources,
    /// Project to act in, if the credential belongs to none and the tenant has several.
    project: Option<Slug>,
}

fn job_priority() -> i32 {
    JOB_PRIORITY
}

fn chat() -> Operation {
    Operation::ChatCompletions
}

/// Run the lines of a file
///
/// Every line is checked first; if one is wrong, nothing is created and the
/// answer says which.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = CreateJob,
    responses((status = 201, body = Job)))]
async fn create_job(
    State(app): State<App>,
    scope: TenantScope,
    Json(body): Json<CreateJob>,
) -> Result<Response> {
    let priority = fields::priority(body.priority)?;
    let run = Run {
        input: body.input_file_id,
        operation: body.operation,
        priority,
        metadata: body.metadata,
        resources: body.resources,
    };
    let (change, job) = create(&app, &scope, body.project.as_ref(), run).await?;
    change.created(&job).await
}

/// List jobs, newest first
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(PageQuery),
    responses((status = 200, body = Page<Job>)))]
async fn list_jobs(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Job>>> {
    let paging = query.of(List { name: "jobs", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let mut tx = scope.read(&app).await?;
    let found = store::jobs::list(&mut tx, paging.after()?, i64::from(paging.fetch())).await?;
    Ok(Json(paging.page(found, |job| job.id.to_string())))
}

/// Get a job
///
/// With how far it is, and while it waits why and at which place.
#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, body = Job)))]
async fn get_job(State(app): State<App>, scope: TenantScope, Path(job): Path<JobId>) -> Result<Json<Job>> {
    Ok(Json(get(&app, &scope, job).await?))
}

/// Cancel a job
///
/// Lines that were answered keep their results. Cancelling twice is no error.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, body = Job)))]
async fn cancel_job(State(app): State<App>, scope: TenantScope, Path(job): Path<JobId>) -> Result<Response> {
    let (change, job, cancelled) = cancel(&app, &scope, job).await?;
    if cancelled { change.ok(&job).await } else { change.unchanged(&job).await }
}

/// Download a job's results
///
/// Answers as JSON Lines in the order of the input. Failures are in the file
/// that `error_file_id` names.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/results", tag = "jobs", params(("job" = JobId, Path)),
    responses((status = 200, content_type = "application/jsonl", body = String)))]
async fn download_job_results(
    State(app): State<App>,
    scope: TenantScope,
    Path(job): Path<JobId>,
) -> Result<Response> {
    let mut tx = scope.read(&app).await?;
    let job = store::jobs::get(&mut tx, job).await?;
    let Some(output) = job.output_file_id else {
        return Err(ApiError::Conflict(if job.state.is_final() {
            "no line of the job was answered; see the file that error_file_id names".to_owned()
        } else {
            "the job has not ended yet".to_owned()
        }));
    };
    let file = store::files::get(&mut tx, output).await?;
    drop(tx);
    files::content(&app, &file).await
}

/// What to run.
pub(crate) struct Run {
    /// The file of requests.
    pub input: FileId,
    /// What each line asks for.
    pub operation: Operation,
    /// Higher goes first.
    pub priority: i32,
    /// Pairs of text, returned as they are.
    pub metadata: Map<String, Value>,
    /// What each share asks for.
    pub resources: AskedResources,
}

/// Checks the input and creates the job; the caller answers, which makes it so.
pub(crate) async fn create(
    app: &App,
    scope: &TenantScope,
    project: Option<&Slug>,
    Run { input, operation, priority, metadata, resources }: Run,
) -> Result<(Change<TenantTx>, Job)> {
    check_metadata(&metadata)?;
    let mut tx = scope.read(app).await?;
    let project_id = files::project_of(scope, &mut tx, project).await?;
    let file = store::files::get(&mut tx, input).await?;
    // Reading may take seconds; no transaction is held meanwhile.
    drop(tx);
    let checked = validate::read(&app.objects, &file, operation).await?;

    let mut change = scope.change(app).await?;
    let version = resolve(&mut change, scope, &checked.model).await?;
    let resources = resources.of(&mut change, &version.manifest, SHARE_MILLI).await?;
    let now = app.clock.now();
    let new = NewJob {
        id: JobId::generate(),
        project_id,
        operation: operation.path().to_owned(),
        model: checked.model,
        version_id: version.version_id,
        resources,
        priority,
        input_file_id: input,
        metadata: Value::Object(metadata),
    };
    store::jobs::create(&mut change, &new, &checked.chunks, &checked.tokens, now).await?;
    let detail = json!({
        "input_file": input,
        "input_sha256": file.sha256,
        "lines": checked.chunks.iter().map(|c| c.lines).sum::<u64>(),
        "model": new.model,
        "version_digest": version.digest,
        "project": project_id,
    });
    change.record(format!("job:{}", new.id), detail).await?;
    let job = store::jobs::get(&mut change, new.id).await?;
    tracing::info!(job.id = %job.id, "Creating job {} of {} lines", job.id, job.lines.total);
    Ok((change, job))
}

/// The model of that name. One that a key is not bound to answers like one that
/// does not exist.
async fn resolve(tx: &mut TenantTx, scope: &TenantScope, name: &str) -> Result<ResolvedModel> {
    let bounds = scope.caller.bounds.as_ref();
    let may_use = |name: &str| bounds.is_none_or(|bounds| bounds.allows_endpoint(name));
    let endpoints_only = bounds.is_some_and(|bounds| bounds.endpoints.is_some());
    if may_use(name)
        && let Some(found) = store::jobs::resolve_model(tx, name, endpoints_only).await?
    {
        return Ok(found);
    }
    let mut names = store::jobs::model_names(tx, MAX_NAMES).await?;
    names.retain(|name| may_use(name));
    let known = if names.is_empty() {
        "none is registered".to_owned()
    } else {
        format!("there is: {}", names.join(", "))
    };
    Err(ApiError::field(
        "input_file_id",
        format!("the lines name the model {name:?}, which does not exist; {known}"),
    ))
}

/// The job, with its place while it waits.
pub(crate) async fn get(app: &App, scope: &TenantScope, id: JobId) -> Result<Job> {
    let mut job = store::jobs::get(&mut scope.read(app).await?, id).await?;
    if job.state == JobState::InProgress && job.reason.is_some() {
        // The queue is that of all projects; the place in it tells only how long it is.
        let mut tx = app.store.system().await?;
        job.position = store::jobs::position(&mut tx, id).await?;
    }
    Ok(job)
}

/// Asks the job to stop, unless it was asked already. Returns whether it was not.
pub(crate) async fn cancel(
    app: &App,
    scope: &TenantScope,
    id: JobId,
) -> Result<(Change<TenantTx>, Job, bool)> {
    let mut change = scope.change(app).await?;
    let job = store::jobs::get(&mut change, id).await?;
    if matches!(job.state, JobState::Cancelling | JobState::Cancelled) {
        return Ok((change, job, false));
    }
    store::jobs::cancel(&mut change, id, app.clock.now()).await?;
    change.record(format!("job:{id}"), json!({})).await?;
    let job = store::jobs::get(&mut change, id).await?;
    Ok((change, job, true))
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<()> {
    let wrong = |what: String| Err(ApiError::field("metadata", what));
    if metadata.len() > MAX_METADATA_PAIRS {
        return wrong(format!("metadata has at most {MAX_METADATA_PAIRS} pairs"));
    }
    for (key, value) in metadata {
        let Value::String(value) = value else {
            return wrong("metadata has only texts as values".to_owned());
        };
        if key.len() > MAX_METADATA_KEY_BYTES || value.len() > MAX_METADATA_VALUE_BYTES {
            return wrong(format!(
                "metadata has keys of at most {MAX_METADATA_KEY_BYTES} and values of at most \
                 {MAX_METADATA_VALUE_BYTES} bytes"
            ));
        }
        if key.contains('\0') || value.contains('\0') {
            return wrong("metadata must not contain the zero character".to_owned());
        }
    }
    Ok(())
}
