//! Members of projects: accounts of the tenant with a role in one project.

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::principals::Role;
use domain::projects::Member;
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_project_members)).routes(routes!(
        get_project_member,
        put_project_member,
        delete_project_member
    ))
}

/// Members of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/members", tag = "projects",
    params(TenantParam, PageQuery, ("project" = Slug, Path, description = "Short name")),
    responses((status = 200, body = Page<Member>)))]
async fn list_project_members(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Member>>> {
    let paging =
        page.of(List { name: "project-members", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let mut tx = scope.read(&app).await?;
    let project = store::projects::by_slug(&mut tx, &slug).await?.id;
    let rows = store::members::list(&mut tx, project, paging.after()?, paging.fetch()).await?;
    Ok(Json(paging.page(rows, |member| member.principal_id.to_string())))
}

/// One member of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/members/{account}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name"),
        ("account" = String, Path, description = "Identifier or login")),
    responses((status = 200, body = Member)))]
async fn get_project_member(
    scope: TenantScope,
    State(app): State<App>,
    Path((slug, account)): Path<(Slug, String)>,
) -> Result<Json<Member>> {
    let mut tx = scope.read(&app).await?;
    let project = store::projects::by_slug(&mut tx, &slug).await?.id;
    let account = store::members::account(&mut tx, &account).await?;
    Ok(Json(store::members::get(&mut tx, project, account).await?))
}

/// What a member may do.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutProjectMember {
    /// `developer`, `user` or `viewer`.
    role: Role,
}

/// Make an account a member of a project, or give it another role in it. For
/// administrators of the tenant.
///
/// Says all there is of a membership, so it may be repeated and needs no If-Match.
#[utoipa::path(put, path = "/api/v1/projects/{project}/members/{account}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name"),
        ("account" = String, Path, description = "Identifier or login")),
    request_body = PutProjectMember, responses((status = 200, body = Member)))]
async fn put_project_member(
    scope: TenantScope,
    State(app): State<App>,
    Path((slug, account)): Path<(Slug, String)>,
    Json(put): Json<PutProjectMember>,
) -> Result<Response> {
    if !put.role.is_of_project() {
        return Err(ApiError::field("role", "must be developer, user or viewer"));
    }
    let mut change = scope.change(&app).await?;
    let project = store::projects::by_slug(&mut change, &slug).await?.id;
    let account = store::members::account(&mut change, &account).await?;
    let member = store::members::put(&mut change, project, account, put.role, app.clock.now()).await?;
    change.record(format!("project:{project}"), json!({ "account": account, "role": put.role })).await?;
    change.refresh(Topic::Credentials, account.0).await?;
    change.ok(&member).await
}

/// Take an account out of a project. For administrators of the tenant.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/members/{account}", tag = "projects",
    params(TenantParam, ("project" = Slug, Path, description = "Short name"),
        ("account" = String, Path, description = "Identifier or login")),
    responses((status = 204)))]
async fn delete_project_member(
    scope: TenantScope,
    State(app): State<App>,
    Path((slug, account)): Path<(Slug, String)>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let project = store::projects::by_slug(&mut change, &slug).await?.id;
    let account = store::members::account(&mut change, &account).await?;
    store::members::remove(&mut change, project, account).await?;
    change.record(format!("project:{project}"), json!({ "account": account })).await?;
    change.refresh(Topic::Credentials, account.0).await?;
    change.done().await
}
