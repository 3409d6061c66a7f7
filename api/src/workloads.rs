//! Workloads: what the scheduler sees of endpoints and jobs, where it put them,
//! and why.

use axum::extract::State;
use domain::WorkloadId;
use domain::explanations::WorkloadExplanation;
use domain::workloads::Workload;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_workloads)).routes(routes!(explain_workload))
}

/// Which workloads.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhichWorkloads {
    /// Only those that wait.
    #[serde(default)]
    waiting: bool,
    /// Most items to return, 1 to 200; 50 unless given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Workloads that are not over, newest first: replicas of endpoints and shares
/// of jobs, with why they wait.
#[utoipa::path(get, path = "/api/v1/workloads", tag = "workloads", params(TenantParam, WhichWorkloads),
    responses((status = 200, body = Page<Workload>)))]
async fn list_workloads(
    scope: TenantScope,
    State(app): State<App>,
    Query(which): Query<WhichWorkloads>,
) -> Result<Json<Page<Workload>>> {
    let name = if which.waiting { "waiting-workloads" } else { "workloads" };
    let page = PageQuery { cursor: which.cursor, limit: which.limit };
    let paging = page.of(List { name, tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let mut tx = scope.read(&app).await?;
    let after: Option<WorkloadId> = paging.after()?;
    let rows = store::workloads::list(&mut tx, which.waiting, after, i64::from(paging.fetch())).await?;
    Ok(Json(paging.page(rows, |workload| workload.id.to_string())))
}

/// Why a workload is where it is, or why it waits, its place in the queue, and
/// what would let it run.
#[utoipa::path(get, path = "/api/v1/workloads/{workload}/explanation", tag = "workloads",
    params(TenantParam, ("workload" = WorkloadId, Path)), responses((status = 200, body = WorkloadExplanation)))]
async fn explain_workload(
    scope: TenantScope,
    State(app): State<App>,
    Path(id): Path<WorkloadId>,
) -> Result<Json<WorkloadExplanation>> {
    let mut tx = scope.read(&app).await?;
    let mut system = app.store.system().await?;
    Ok(Json(store::workloads::explain(&mut tx, &mut system, id).await?))
}
