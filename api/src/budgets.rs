//! Budgets: what a tenant or a project may spend in a day or a month.

use axum::extract::State;
use axum::response::Response;
use domain::budgets::{BudgetLine, BudgetNode, check};
use domain::outbox::Topic;
use domain::tenants::Slug;
use domain::{ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{StoreError, SystemTx};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, Scope, TenantParam, TenantScope};
use crate::extract::{Json, Path};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_budgets))
        .routes(routes!(get_tenant_budgets, put_tenant_budgets, delete_tenant_budgets))
        .routes(routes!(get_project_budgets, put_project_budgets, delete_project_budgets))
}

/// Who may spend what.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Budgets {
    /// Tenants and projects that have budgets, by name, each tenant before its
    /// projects.
    nodes: Vec<BudgetNode>,
}

/// What a tenant or a project may spend.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutBudgets {
    /// All of its budgets: one for each class, and one for tokens. What is not
    /// listed is not limited.
    #[schema(max_items = 64)]
    budgets: Vec<BudgetLine>,
}

impl PutBudgets {
    fn lines(&self) -> Result<&[BudgetLine]> {
        check(&self.budgets).map_err(|e| ApiError::field("budgets", e.to_string()))?;
        Ok(&self.budgets)
    }
}

/// What may be spent in which period, and is: of all for the platform, else of
/// the tenant and its projects.
#[utoipa::path(get, path = "/api/v1/budgets", tag = "budgets", params(TenantParam),
    responses((status = 200, body = Budgets)))]
async fn get_budgets(scope: Scope, State(app): State<App>) -> Result<Json<Budgets>> {
    let now = app.clock.now();
    let nodes = store::budgets::list(&mut app.store.system().await?, scope.tenant, now).await?;
    Ok(Json(Budgets { nodes }))
}

async fn get(app: &App, tenant: TenantId, project: Option<ProjectId>) -> Result<Json<BudgetNode>> {
    let (now, mut tx) = (app.clock.now(), app.store.system().await?);
    Ok(Json(store::budgets::of_node(&mut tx, tenant, project, now).await?))
}

/// Whose budgets, in the audit log.
fn object(tenant: TenantId, project: Option<ProjectId>) -> String {
    project.map_or_else(|| format!("tenant:{tenant}"), |project| format!("project:{project}"))
}

async fn put(
    app: &App,
    mut change: Change<SystemTx>,
    tenant: TenantId,
    project: Option<ProjectId>,
    lines: &[BudgetLine],
) -> Result<Response> {
    let now = app.clock.now();
    let node = store::budgets::put(&mut change, tenant, project, lines, now).await.map_err(|e| match e {
        StoreError::NotFound(what @ "accelerator class") => ApiError::field(
            "budgets",
            format!("names an {what} that does not exist: GET /api/v1/accelerator-classes has all"),
        ),
        e => e.into(),
    })?;
    change.record(object(tenant, project), json!({ "budgets": lines })).await?;
    // Gateways read all their routes again: whether tokens are to be reserved.
    change.publish(Topic::Desired, "budgets").await?;
    change.ok(&node).await
}

async fn delete(
    mut change: Change<SystemTx>,
    tenant: TenantId,
    project: Option<ProjectId>,
) -> Result<Response> {
    store::budgets::remove(&mut change, tenant, project).await?;
    change.record(object(tenant, project), json!({})).await?;
    change.publish(Topic::Desired, "budgets").await?;
    change.done().await
}

/// What a tenant may spend, and has spent.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/budgets", tag = "budgets",
    params(("tenant" = Slug, Path, description = "Short name")), responses((status = 200, body = BudgetNode)))]
async fn get_tenant_budgets(scope: TenantScope, State(app): State<App>) -> Result<Json<BudgetNode>> {
    get(&app, scope.tenant, None).await
}

/// Set what a tenant may spend. For platform administrators.
///
/// Says all there is of it, so it may be repeated and needs no If-Match. It
/// holds at once, and what was spent in the period counts; what runs is left to
/// run, but nothing begins that reserves more than is left.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/budgets", tag = "budgets",
    params(("tenant" = Slug, Path, description = "Short name")),
    request_body = PutBudgets, responses((status = 200, body = BudgetNode)))]
async fn put_tenant_budgets(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<PutBudgets>,
) -> Result<Response> {
    let lines = new.lines()?;
    put(&app, scope.system_change(&app).await?, scope.tenant, None, lines).await
}

/// Take a tenant's budgets away: it may spend what it wants, its projects what
/// their own budgets allow. For platform administrators.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/budgets", tag = "budgets",
    params(("tenant" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_tenant_budgets(scope: TenantScope, State(app): State<App>) -> Result<Response> {
    delete(scope.system_change(&app).await?, scope.tenant, None).await
}

/// What a project may spend, and has spent.
#[utoipa::path(get, path = "/api/v1/projects/{project}/budgets", tag = "budgets",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    responses((status = 200, body = BudgetNode)))]
async fn get_project_budgets(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Json<BudgetNode>> {
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    get(&app, scope.tenant, Some(project)).await
}

/// Set what a project may spend, of what its tenant may. For administrators of
/// the tenant.
///
/// Says all there is of it, so it may be repeated and needs no If-Match. Budgets
/// of projects may add up to more than their tenant's; both must have enough left.
#[utoipa::path(put, path = "/api/v1/projects/{project}/budgets", tag = "budgets",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    request_body = PutBudgets, responses((status = 200, body = BudgetNode)))]
async fn put_project_budgets(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
    Json(new): Json<PutBudgets>,
) -> Result<Response> {
    let lines = new.lines()?;
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    put(&app, scope.system_change(&app).await?, scope.tenant, Some(project), lines).await
}

/// Bind a project by its tenant's budgets alone. For administrators of the
/// tenant.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/budgets", tag = "budgets",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_project_budgets(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Response> {
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    delete(scope.system_change(&app).await?, scope.tenant, Some(project)).await
}
