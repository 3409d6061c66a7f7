//! `/v1/files`: the files of `/api/v1/files`, in OpenAI's words.

use axum::extract::{Request, State};
use axum::response::Response;
use domain::FileId;
use domain::files::{File, FilePurpose};
use serde::{Deserialize, Serialize};
use store::TenantTx;
use store::files::Order;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::parse_id;
use crate::access::{Change, TenantScope};
use crate::extract::{Json, Path, Query};
use crate::files;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Most files of one page.
const MAX_PAGE: u32 = 1000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_openai_files))
        .merge(files::with_upload_limit(OpenApiRouter::new().routes(routes!(create_openai_file))))
        .routes(routes!(get_openai_file, delete_openai_file))
        .routes(routes!(download_openai_file))
}

/// A file, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OpenAiFile {
    /// `file-` and the identifier.
    id: String,
    /// `file`.
    object: &'static str,
    /// Size.
    bytes: u64,
    /// Unix seconds.
    created_at: i64,
    /// The name it was uploaded under.
    filename: String,
    /// `batch` or `batch_output`.
    purpose: &'static str,
    /// `processed`.
    status: &'static str,
}

impl From<File> for OpenAiFile {
    fn from(file: File) -> Self {
        Self {
            id: file_id(file.id),
            object: "file",
            bytes: file.bytes,
            created_at: file.created_at.unix_secs(),
            filename: file.filename,
            purpose: file.purpose.as_str(),
            status: "processed",
        }
    }
}

/// `file-…`
pub(super) fn file_id(id: FileId) -> String {
    format!("file-{}", id.0.simple())
}

/// The file that a path or a body names.
pub(super) fn parse_file_id(text: &str) -> Result<FileId> {
    parse_id(text, "file-").ok_or(ApiError::NotFound("file"))
}

/// Files, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OpenAiFileList {
    /// `list`.
    object: &'static str,
    /// The files.
    data: Vec<OpenAiFile>,
    /// Id of the first.
    first_id: Option<String>,
    /// Id of the last: pass it as `after` for the next page.
    last_id: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

/// A file that is gone.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OpenAiFileDeleted {
    /// The file.
    id: String,
    /// `file`.
    object: &'static str,
    /// `true`.
    deleted: bool,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only files of this purpose.
    purpose: Option<FilePurpose>,
    /// Id of the last file of the page before.
    after: Option<String>,
    /// Files per page; more than 1000 count as 1000.
    #[param(minimum = 0, maximum = 4_294_967_295_i64, format = Int64)]
    limit: Option<u32>,
    /// `desc` (newest first) or `asc`.
    order: Option<String>,
}

/// Upload a file
#[utoipa::path(post, path = "/v1/files", tag = "inference",
    request_body(content = files::Upload, content_type = "multipart/form-data"),
    responses((status = 200, body = OpenAiFile)))]
async fn create_openai_file(
    State(app): State<App>,
    scope: TenantScope,
    request: Request,
) -> Result<Response> {
    let answer = async |change: Change<TenantTx>, file: File| change.ok(&OpenAiFile::from(file)).await;
    files::receive(&app, &scope, None, request, answer).await
}

/// List files
#[utoipa::path(get, path = "/v1/files", tag = "inference", params(ListQuery),
    responses((status = 200, body = OpenAiFileList)))]
async fn list_openai_files(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<ListQuery>,
) -> Result<Json<OpenAiFileList>> {
    let order = match query.order.as_deref() {
        None | Some("desc") => Order::Newest,
        Some("asc") => Order::Oldest,
        Some(_) => return Err(ApiError::field("order", "order must be asc or desc")),
    };
    let after = query.after.as_deref().map(parse_file_id).transpose()?;
    let limit = query.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let mut tx = scope.read(&app).await?;
    let mut found = store::files::list(&mut tx, query.purpose, order, after, i64::from(limit) + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let data: Vec<OpenAiFile> = found.into_iter().map(Into::into).collect();
    Ok(Json(OpenAiFileList {
        object: "list",
        first_id: data.first().map(|f| f.id.clone()),
        last_id: data.last().map(|f| f.id.clone()),
        has_more,
        data,
    }))
}

/// Get a file's description
#[utoipa::path(get, path = "/v1/files/{file}", tag = "inference", params(("file" = String, Path)),
    responses((status = 200, body = OpenAiFile)))]
async fn get_openai_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<String>,
) -> Result<Json<OpenAiFile>> {
    let file = store::files::get(&mut scope.read(&app).await?, parse_file_id(&file)?).await?;
    Ok(Json(file.into()))
}

/// Delete a file
#[utoipa::path(delete, path = "/v1/files/{file}", tag = "inference", params(("file" = String, Path)),
    responses((status = 200, body = OpenAiFileDeleted)))]
async fn delete_openai_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<String>,
) -> Result<Response> {
    let id = parse_file_id(&file)?;
    let deleted = OpenAiFileDeleted { id: file_id(id), object: "file", deleted: true };
    files::delete(&app, &scope, id, async |change| change.ok(&deleted).await).await
}

/// Download a file's content
#[utoipa::path(get, path = "/v1/files/{file}/content", tag = "inference", params(("file" = String, Path)),
    responses((status = 200, content_type = "application/jsonl", body = String)))]
async fn download_openai_file(
    State(app): State<App>,
    scope: TenantScope,
    Path(file): Path<String>,
) -> Result<Response> {
    let file = store::files::get(&mut scope.read(&app).await?, parse_file_id(&file)?).await?;
    files::content(&app, &file).await
}
