//! Models and their versions: the catalogue's by the platform, private ones by
//! their tenant. Files are registered by upload or, on the platform, by path.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use domain::models::{Manifest, ManifestFile, Model, ModelVersion, Sha256Digest};
use domain::outbox::Topic;
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, TenantParam};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result};
use crate::state::App;

mod ingest;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_models, create_model))
        .routes(routes!(get_model))
        .routes(routes!(list_model_versions, import_model_version))
        .routes(routes!(upload_model_version))
}

/// Models of the catalogue and the tenant's own, newest first.
#[utoipa::path(get, path = "/api/v1/models", tag = "models", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<Model>)))]
async fn list_models(
    scope: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Model>>> {
    let paging = page.of(List { name: "models", tenant: scope.tenant, pepper: &app.pepper })?;
    let (before, limit) = (paging.after()?, paging.fetch());
    let rows = store::models::list(&mut scope.read(&app).await?, scope.tenant, before, limit).await?;
    Ok(Json(paging.page(rows, |model| model.id.to_string())))
}

/// A model to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateModel {
    /// Unique in the catalogue, or in the tenant.
    name: Slug,
}

/// Create a model: private to the tenant or, by a platform administrator
/// without `tenant`, in the catalogue. For administrators.
#[utoipa::path(post, path = "/api/v1/models", tag = "models", params(TenantParam),
    request_body = CreateModel, responses((status = 201, body = Model)))]
async fn create_model(
    scope: Scope,
    State(app): State<App>,
    Json(new): Json<CreateModel>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let model = store::models::create(&mut *change, scope.tenant, &new.name, app.clock.now()).await?;
    change.record(format!("model:{}", model.id), json!({ "name": model.name })).await?;
    change.created(&model).await
}

/// One model, by its name: the tenant's own, else the catalogue's.
#[utoipa::path(get, path = "/api/v1/models/{model}", tag = "models",
    params(TenantParam, ("model" = Slug, Path, description = "Name")),
    responses((status = 200, body = Model)))]
async fn get_model(scope: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Json<Model>> {
    Ok(Json(find(&app, &scope, &name).await?))
}

async fn find(app: &App, scope: &Scope, name: &Slug) -> Result<Model> {
    Ok(store::models::by_name(&mut scope.read(app).await?, scope.tenant, name).await?)
}

/// A model that the caller may add versions to.
async fn find_own(app: &App, scope: &Scope, name: &Slug) -> Result<Model> {
    let model = find(app, scope, name).await?;
    if model.tenant_id != scope.tenant {
        return Err(ApiError::Forbidden(
            "this model is in the catalogue, which platform administrators keep, without ?tenant".to_owned(),
        ));
    }
    Ok(model)
}

/// Versions of a model, newest first.
#[utoipa::path(get, path = "/api/v1/models/{model}/versions", tag = "models",
    params(TenantParam, ("model" = Slug, Path, description = "Name"), PageQuery),
    responses((status = 200, body = Page<ModelVersion>)))]
async fn list_model_versions(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ModelVersion>>> {
    let paging = page.of(List { name: "model-versions", tenant: scope.tenant, pepper: &app.pepper })?;
    let (before, limit) = (paging.after()?, paging.fetch());
    let mut tx = scope.read(&app).await?;
    let model = store::models::by_name(&mut tx, scope.tenant, &name).await?;
    let rows = store::models::versions(&mut tx, &model, before, limit).await?;
    Ok(Json(paging.page(rows, |version| version.id.to_string())))
}

/// A version to register from a file on the server.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ImportModelVersion {
    /// Path of a GGUF file below one of the directories in the setting
    /// `api.model_import_dirs`.
    path: String,
    /// Refuse a file with another digest.
    #[serde(default)]
    sha256: Option<Sha256Digest>,
}

/// Register a version from a file on the server. For platform administrators.
/// A version with the same files is found rather than made twice: 200.
#[utoipa::path(post, path = "/api/v1/models/{model}/versions", tag = "models",
    params(TenantParam, ("model" = Slug, Path, description = "Name")), request_body = ImportModelVersion,
    responses((status = 200, description = "It was there", body = ModelVersion), (status = 201, body = ModelVersion)))]
async fn import_model_version(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Json(import): Json<ImportModelVersion>,
) -> Result<Response> {
    let model = find_own(&app, &scope, &name).await?;
    let path = ingest::importable(import.path, &app.settings.model_import_dirs).await?;
    let filename = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let file = tokio::fs::File::open(&path).await.map_err(ApiError::internal)?;
    let body = Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, ingest::READ_BYTES));
    register(app, scope, model, filename, import.sha256, body).await
}

/// What an upload is.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// Name of the file in the version, e.g. `model.gguf`.
    filename: String,
    /// Refuse an upload with another digest, e.g. one that broke.
    sha256: Option<Sha256Digest>,
}

/// Register a version by upload: the body is a GGUF file. For administrators.
/// A version with the same files is found rather than made twice: 200.
#[utoipa::path(post, path = "/api/v1/models/{model}/versions/upload", tag = "models",
    params(TenantParam, ("model" = Slug, Path, description = "Name"), UploadQuery),
    request_body(content_type = "application/octet-stream", description = "A GGUF file"),
    responses((status = 200, description = "It was there", body = ModelVersion), (status = 201, body = ModelVersion)))]
async fn upload_model_version(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Query(upload): Query<UploadQuery>,
    body: Body,
) -> Result<Response> {
    let model = find_own(&app, &scope, &name).await?;
    register(app, scope, model, upload.filename, upload.sha256, body).await
}

/// Stores a file and registers the version that consists of it, in a task of
/// its own: a client that hangs up leaves nothing half done.
async fn register(
    app: App,
    scope: Scope,
    model: Model,
    filename: String,
    expected: Option<Sha256Digest>,
    body: Body,
) -> Result<Response> {
    ingest::check_filename(&filename)?;
    let tasks = app.tasks.clone();
    let task = tasks.spawn(async move {
        let stored = ingest::store(&app, body, expected).await?;
        let file = ManifestFile { path: filename, sha256: stored.sha256, bytes: stored.bytes };
        let manifest = Manifest { format: "gguf".to_owned(), files: vec![file] };
        let mut change = scope.change(&app).await?;
        // The same content may be going with another tenant just now.
        store::deletions::hold_model_blob(&mut *change, stored.sha256).await?;
        if app.objects.size(&ingest::object_key(stored.sha256)).await?.is_none() {
            return Err(ApiError::Unavailable("the content was erased meanwhile; send it again".to_owned()));
        }
        let now = app.clock.now();
        let (version, new) = store::models::create_version(&mut *change, &model, &manifest, now).await?;
        if !new {
            return change.unchanged(&version).await;
        }
        let detail = json!({ "model": model.name, "digest": version.digest });
        change.record(format!("model_version:{}", version.id), detail).await?;
        change.publish(Topic::Desired, version.id).await?;
        change.created(&version).await
    });
    task.await.map_err(ApiError::internal)?
}
