//! Files of projects: uploads streamed to the object store, lists, downloads.
//! `/v1/files` says the same in OpenAI's words, with the code of this module.

use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::FileId;
use domain::files::{File, FilePurpose};
use domain::jobs::MAX_INPUT_BYTES;
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use store::files::Order;
use store::objects::{PutError, Stored};
use store::{StoreError, TenantTx};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Room in an upload for what is around the file.
const MULTIPART_OVERHEAD_BYTES: u64 = 64 << 10;
/// Longest value of a form field beside the file.
const MAX_FIELD_BYTES: usize = 256;
/// Longest name of a file.
const MAX_FILENAME_BYTES: usize = 255;
/// How long an upload may take in all.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_files))
        .merge(with_upload_limit(OpenApiRouter::new().routes(routes!(create_file))))
        .routes(routes!(get_file, delete_file))
        .routes(routes!(download_file))
}

/// Routes that take a file's bytes.
pub(crate) fn with_upload_limit(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let limit = usize::try_from(MAX_INPUT_BYTES + MULTIPART_OVERHEAD_BYTES).unwrap_or(usize::MAX);
    router.layer(DefaultBodyLimit::max(limit))
}

/// Fields of an upload.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the form in the API document")]
pub(crate) struct Upload {
    /// JSON Lines.
    #[schema(format = Binary, value_type = String, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// `batch`.
    purpose: FilePurpose,
}

/// Which project an object is created in.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProjectQuery {
    /// Project to act in, if the credential belongs to none and the tenant has several.
    project: Option<Slug>,
}

/// Upload a file
///
/// `multipart/form-data`, streamed to disk: the input of a job, as JSON Lines.
#[utoipa::path(post, path = "/api/v1/files", tag = "files", params(ProjectQuery),
    request_body(content = Upload, content_type = "multipart/form-data"),
    responses((status = 201, body = File)))]
async fn create_file(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<ProjectQuery>,
    request: Request,
) -> Result<Response> {
    receive(&app, &scope, query.project.as_ref(), request, async |change, file| change.created(&file).await)
        .await
}

/// List files, newest first
#[utoipa::path(get, path = "/api/v1/files", tag = "files", params(PageQuery),
    responses((status = 200, body = Page<File>)))]
async fn list_files(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<File>>> {
    let paging = query.of(List { name: "files", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let mut tx = scope.read(&app).await?;
    let limit = i64::from(paging.fetch());
    let found = store::files::list(&mut tx, None, Order::Newest, paging.after()?, limit).await?;
    Ok(Json(paging.page(found, |file| file.id.to_string())))
}

/// Get a file's description
#[utoipa::path(get, path = "/api/v1/files/{file}", tag = "files", params(("file" = FileId, Path)),
    responses((status = 200, body = File)))]
async fn get_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<FileId>,
) -> Result<Json<File>> {
    Ok(Json(store::files::get(&mut scope.read(&app).await?, file).await?))
}

/// Delete a file
///
/// Refused while a job that has not ended reads it.
#[utoipa::path(delete, path = "/api/v1/files/{file}", tag = "files", params(("file" = FileId, Path)),
    responses((status = 204)))]
async fn delete_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<FileId>,
) -> Result<Response> {
    delete(&app, &scope, file, async |change| change.done().await).await
}

/// Download a file's content
#[utoipa::path(get, path = "/api/v1/files/{file}/content", tag = "files", params(("file" = FileId, Path)),
    responses((status = 200, content_type = "application/jsonl", body = String)))]
async fn download_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<FileId>,
) -> Result<Response> {
    let file = store::files::get(&mut scope.read(&app).await?, file).await?;
    content(&app, &file).await
}

/// The project that a new object belongs to: that of the key, the one named,
/// or the only one the caller may use. Row-level security hides the others.
pub(crate) async fn project_of(
    scope: &TenantScope,
    tx: &mut TenantTx,
    named: Option<&Slug>,
) -> Result<domain::ProjectId> {
    if let Some(slug) = named {
        return Ok(store::projects::by_slug(tx, slug).await?.id);
    }
    if let Some(own) = scope.caller.project() {
        return Ok(own);
    }
    match store::projects::list(tx, None, 2).await?.as_slice() {
        [only] => Ok(only.id),
        [] => Err(ApiError::Conflict("the tenant has no project; create one first".to_owned())),
        _ => Err(ApiError::Malformed(
            "the tenant has several projects; name one with ?project=SLUG".to_owned(),
        )),
    }
}

/// Takes an upload in: content to the object store, then the file's row and
/// its audit record, then `answer`. What cannot be recorded is not kept.
pub(crate) async fn receive(
    app: &App,
    scope: &TenantScope,
    project: Option<&Slug>,
    request: Request,
    answer: impl AsyncFnOnce(Change<TenantTx>, File) -> Result<Response>,
) -> Result<Response> {
    let project_id = project_of(scope, &mut scope.read(app).await?, project).await?;
    let id = FileId::generate();
    let key = File::object_key(scope.tenant, id);
    let form = Multipart::from_request(request, app).await.map_err(|e| form_refused(&e))?;
    let kept = async {
        let (filename, stored) = tokio::time::timeout(UPLOAD_TIMEOUT, store_form(app, &key, form))
            .await
            .map_err(|_| ApiError::TimedOut)??;
        let file = File {
            id,
            tenant_id: scope.tenant,
            project_id,
            purpose: FilePurpose::Batch,
            filename,
            bytes: stored.bytes,
            sha256: stored.sha256,
            created_at: app.clock.now(),
        };
        let mut change = scope.change(app).await?;
        store::files::create(&mut *change, &file).await?;
        let detail = json!({"bytes": file.bytes, "sha256": file.sha256, "project": project_id});
        change.record(format!("file:{id}"), detail).await?;
        answer(change, file).await
    }
    .await;
    if kept.is_err() {
        forget(app, &key).await;
    }
    kept
}

/// Reads the form; its fields come in any order.
async fn store_form(app: &App, key: &str, mut form: Multipart) -> Result<(String, Stored)> {
    let (mut file, mut purpose) = (None, None);
    while let Some(field) = form.next_field().await.map_err(|e| form_broken(&e))? {
        match field.name().unwrap_or_default() {
            "file" if file.is_none() => {
                let filename = filename(&field);
                let stored =
                    app.objects.put(key, Box::pin(field), MAX_INPUT_BYTES).await.map_err(put_failed)?;
                file = Some((filename, stored));
            }
            "purpose" if purpose.is_none() => purpose = Some(short_text(field, "purpose").await?),
            name @ ("file" | "purpose") => return Err(ApiError::field(name, "is there twice")),
            name => {
                let name: String = name.chars().take(80).collect();
                return Err(ApiError::field(
                    name.clone(),
                    format!("{name:?} is not a known field; leave it out"),
                ));
            }
        }
    }
    match purpose.as_deref() {
        Some("batch") => {}
        Some(_) => return Err(ApiError::field("purpose", "the only purpose is batch")),
        None => return Err(ApiError::field("purpose", "purpose is required: batch")),
    }
    match file {
        Some((_, Stored { bytes: 0, .. })) => Err(ApiError::field("file", "the file is empty")),
        Some(kept) => Ok(kept),
        None => Err(ApiError::field("file", "file is required")),
    }
}

/// The name for people: without folders and what no text may hold.
fn filename(field: &Field<'_>) -> String {
    let given = field.file_name().unwrap_or_default();
    let base = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = base.chars().filter(|c| !c.is_control()).collect();
    name.truncate(name.floor_char_boundary(MAX_FILENAME_BYTES));
    if name.is_empty() { "input.jsonl".to_owned() } else { name }
}

async fn short_text(mut field: Field<'_>, name: &'static str) -> Result<String> {
    let mut bytes = Vec::new();
    while let Some(part) = field.chunk().await.map_err(|e| form_broken(&e))? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_FIELD_BYTES {
            return Err(ApiError::field(name, format!("{name} has at most {MAX_FIELD_BYTES} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::field(name, format!("{name} must be text")))
}

fn form_refused(e: &MultipartRejection) -> ApiError {
    ApiError::UnsupportedMediaType(format!("send multipart/form-data with file and purpose: {e}"))
}

fn form_broken(e: &MultipartError) -> ApiError {
    match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge { limit: MAX_INPUT_BYTES },
        _ => ApiError::Malformed(format!("the form cannot be read: {}", e.body_text())),
    }
}

fn put_failed(e: PutError) -> ApiError {
    match e {
        PutError::TooLarge { limit } => ApiError::TooLarge { limit },
        PutError::Interrupted(cause) => match cause.downcast::<MultipartError>() {
            Ok(cause) => form_broken(&cause),
            Err(_) => ApiError::Malformed("the upload broke off".to_owned()),
        },
        e @ PutError::Store(_) => ApiError::internal(e),
    }
}

/// Deletes a file and its content.
pub(crate) async fn delete(
    app: &App,
    scope: &TenantScope,
    id: FileId,
    answer: impl AsyncFnOnce(Change<TenantTx>) -> Result<Response>,
) -> Result<Response> {
    let mut change = scope.change(app).await?;
    let file = store::files::delete(&mut change, id, app.clock.now()).await?;
    change.record(format!("file:{id}"), json!({})).await?;
    let response = answer(change).await?;
    forget(app, &File::object_key(file.tenant_id, id)).await;
    Ok(response)
}

/// Content without a row is of no use to anybody; leaving it costs only space.
async fn forget(app: &App, key: &str) {
    if let Err(e) = app.objects.delete(key).await {
        tracing::warn!(object = key, error = chain(&e), "Cannot delete the content of a file");
    }
}

/// The content as it is, streamed.
pub(crate) async fn content(app: &App, file: &File) -> Result<Response> {
    let key = File::object_key(file.tenant_id, file.id);
    let (bytes, stream) = app.objects.get(&key).await.map_err(|e| match e {
        // Deleted between the row and here.
        StoreError::Objects(_) if file.bytes > 0 => ApiError::internal(e),
        e => e.into(),
    })?;
    let headers = [
        (CONTENT_TYPE, "application/jsonl".to_owned()),
        (CONTENT_LENGTH, bytes.to_string()),
        // Never shown by a browser: it is somebody's data.
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}.jsonl\"", file.id)),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}
