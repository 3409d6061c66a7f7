//! Projects of a tenant.

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::projects::{Project, ProjectLimits};
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use store::projects::ProjectChange;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{IfMatch, Tagged, TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_projects, create_project)).routes(routes!(
        get_project,
        update_project,
        delete_project
    ))
}

/// The tenant's projects.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<Project>)))]
async fn list_projects(
    scope: TenantScope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Project>>> {
    let paging = page.of(List { name: "projects", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let rows = store::projects::list(&mut scope.read(&app).await?, after.as_deref(), paging.fetch()).await?;
    Ok(Json(paging.page(rows, |project| project.slug.to_string())))
}

/// A project to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateProject {
    /// Short name, unique in the tenant.
    slug: Slug,
    /// Name for people.
    name: String,
    /// What it may have at once.
    #[serde(default)]
    limits: ProjectLimits,
}

/// Create a project. For administrators of the tenant.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", params(TenantParam),
    request_body = CreateProject, responses((status = 201, body = Project)))]
async fn create_project(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateProject>,
) -> Result<Response> {
    let name = fields::name("name", &new.name)?;
    let mut change = scope.change(&app).await?;
    let project = store::projects::create(&mut change, &new.slug, &name, new.limits, app.clock.now()).await?;
    change.record(format!("project:{}", project.id), json!({ "slug": project.slug })).await?;
    change.tag(project.revision);
    change.created(&project).await
}

/// One project, by its short name.
#[utoipa::path(get, path = "/api/v1/projects/{project}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    responses((status = 200, body = Project)))]
async fn get_project(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Tagged<Project>> {
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?;
    let revision = project.revision;
    Ok(Tagged(project, revision))
}

/// What to change of a project. Fields that are not named stay as they are.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateProject {
    /// Name for people.
    name: Option<String>,
    /// What it may have at once. What it has already stays.
    limits: Option<UpdateLimits>,
}

/// Limits of a project; `null` is no bound of its own.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::option_option, reason = "not named, null, and a value are three things")]
struct UpdateLimits {
    /// Endpoints.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>)]
    endpoints: Option<Option<u32>>,
    /// API keys that are neither revoked nor expired.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>)]
    api_keys: Option<Option<u32>>,
    /// Jobs that have not ended.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>)]
    open_jobs: Option<Option<u32>>,
    /// Requests a minute of all its keys together, by each replica of the API.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>)]
    requests_per_minute: Option<Option<u32>>,
}

/// Change a project. For administrators of the tenant.
#[utoipa::path(patch, path = "/api/v1/projects/{project}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    request_body = UpdateProject, responses((status = 200, body = Project)))]
async fn update_project(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateProject>,
) -> Result<Response> {
    let name = update.name.as_deref().map(|name| fields::name("name", name)).transpose()?;
    let limits = update.limits.unwrap_or_default();
    let change_of = ProjectChange {
        name: name.as_deref(),
        endpoints: limits.endpoints,
        api_keys: limits.api_keys,
        open_jobs: limits.open_jobs,
        requests_per_minute: limits.requests_per_minute,
    };
    let mut change = scope.change(&app).await?;
    let project = store::projects::update(&mut change, &slug, change_of, expected).await?;
    change
        .record(
            format!("project:{}", project.id),
            json!({ "name": project.name, "limits": project.limits, "revision": project.revision }),
        )
        .await?;
    if limits.requests_per_minute.is_some() {
        // Known with each of the project's keys.
        change.refresh(Topic::Tenants, scope.tenant.0).await?;
    }
    change.tag(project.revision);
    change.ok(&project).await
}

/// Delete a project and revoke its keys. Refused while it has endpoints or jobs
/// that have not ended. For administrators of the tenant.
#[utoipa::path(delete, path = "/api/v1/projects/{project}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    responses((status = 204)))]
async fn delete_project(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let (project, revoked) = store::projects::delete(&mut change, &slug, app.clock.now()).await?;
    let detail = json!({ "slug": project.slug, "revoked_keys": revoked });
    change.record(format!("project:{}", project.id), detail).await?;
    // Its keys are dead, and its members have one project less.
    change.refresh(Topic::Tenants, scope.tenant.0).await?;
    change.done().await
}
