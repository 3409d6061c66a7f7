//! The fleet, for those who run it.

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::tenants::{Classification, Slug};
use domain::workers::Worker;
use serde::{Deserialize, Serialize};
use store::workers::WorkerChange;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{IfMatch, Scope, Tagged};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
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

/// What to change of a worker. Fields that are not named stay as they are.
#[derive(Debug, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::option_option, reason = "not named, null, and a value are three things")]
struct UpdateWorker {
    /// Whether nothing new is placed on it. What is there stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    cordoned: Option<bool>,
    /// How secret the work may be that is placed on it. What is more secret leaves it
    /// at once, and waits until another is cleared for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    clearance: Option<Classification>,
    /// The pool to put it into, whatever pool it names when it joins; null leaves that
    /// to the worker again. What is there stays.
    #[serde(default, deserialize_with = "fields::named", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Slug>)]
    pool: Option<Option<Slug>>,
}

/// Cordon a worker, let work be placed on it again, clear it for more or less secret
/// work, or put it into a pool. For platform administrators.
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
    let pool = update.pool.as_ref().map(Option::as_ref);
    let of = WorkerChange { cordoned: update.cordoned, clearance: update.clearance, pool };
    let id = store::workers::update(&mut change, &name, of, expected).await?;
    change.record(format!("worker:{id}"), serde_json::json!(update)).await?;
    change.publish(Topic::Desired, id).await?;
    let worker = store::workers::get(&mut change, &name, now).await?;
    change.tag(worker.revision);
    change.ok(&worker).await
}
