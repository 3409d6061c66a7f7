//! The fleet, for those who run it.

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::tenants::Slug;
use domain::workers::Worker;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{IfMatch, Scope, Tagged};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_workers)).routes(routes!(get_worker, update_worker))
}

/// Workers with their devices, by name. For platform administrators.
#[utoipa::path(get, path = "/api/v1/workers", tag = "workers", params(PageQuery),
    responses((status = 200, body = Page<Worker>)))]
async fn list_workers(
    _: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Worker>>> {
    let paging = page.of(List { name: "workers", tenant: None, pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let mut tx = app.store.system().await?;
    let workers = store::workers::list(&mut tx, after.as_deref(), paging.fetch(), app.clock.now()).await?;
    Ok(Json(paging.page(workers, |worker| worker.name.to_string())))
}

/// One worker. For platform administrators.
#[utoipa::path(get, path = "/api/v1/workers/{worker}", tag = "workers", params(("worker" = Slug, Path, description = "Name")),
    responses((status = 200, body = Worker)))]
async fn get_worker(_: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Tagged<Worker>> {
    let mut tx = app.store.system().await?;
    let worker = store::workers::get(&mut tx, &name, app.clock.now()).await?;
    let revision = worker.revision;
    Ok(Tagged(worker, revision))
}

/// What of a worker can be changed.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateWorker {
    /// Whether nothing new is placed on it. What is there stays.
    cordoned: bool,
}

/// Cordon a worker, or let work be placed on it again. For platform administrators.
#[utoipa::path(patch, path = "/api/v1/workers/{worker}", tag = "workers", params(("worker" = Slug, Path, description = "Name")),
    request_body = UpdateWorker, responses((status = 200, body = Worker)))]
async fn update_worker(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateWorker>,
) -> Result<Response> {
    let now = app.clock.now();
    let mut change = scope.system_change(&app).await?;
    let id = store::workers::set_cordoned(&mut change, &name, update.cordoned, expected).await?;
    change.record(format!("worker:{id}"), serde_json::json!({ "cordoned": update.cordoned })).await?;
    change.publish(Topic::Desired, id).await?;
    let worker = store::workers::get(&mut change, &name, now).await?;
    change.tag(worker.revision);
    change.ok(&worker).await
}
