//! Projects of a tenant.

use axum::extract::State;
use axum::response::Response;
use domain::projects::{Project, ProjectLimits};
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Query};
use crate::fields;
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_projects, create_project))
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
