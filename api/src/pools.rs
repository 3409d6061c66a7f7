//! Pools: workers that are dedicated to some tenants.

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::pools::{MAX_POOL_TENANTS, Pool};
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use store::StoreError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::access::Scope;
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_pools)).routes(routes!(get_pool, put_pool, delete_pool))
}

/// Pools that are dedicated to tenants, by name. For those who run the fleet.
#[utoipa::path(get, path = "/api/v1/pools", tag = "workers", params(PageQuery),
    responses((status = 200, body = Page<Pool>)))]
async fn list_pools(
    _: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Pool>>> {
    let paging = page.of(List { name: "pools", tenant: None, pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let mut tx = app.store.system().await?;
    let pools = store::pools::list(&mut tx, after.as_deref(), paging.fetch()).await?;
    Ok(Json(paging.page(pools, |pool| pool.name.to_string())))
}

/// One pool.
#[utoipa::path(get, path = "/api/v1/pools/{pool}", tag = "workers",
    params(("pool" = Slug, Path, description = "Name")), responses((status = 200, body = Pool)))]
async fn get_pool(_: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Json<Pool>> {
    Ok(Json(store::pools::get(&mut app.store.system().await?, &name).await?))
}

/// What a pool is to be.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutPool {
    /// For people.
    #[serde(default)]
    #[schema(max_length = 200)]
    description: Option<String>,
    /// Short names of the tenants that it is dedicated to.
    #[schema(max_items = 256)]
    tenants: Vec<Slug>,
}

/// Dedicate a pool to tenants, or to others. For platform administrators.
///
/// From now on only work of these tenants is placed on workers of the pool, and
/// theirs nowhere else but in pools that are dedicated to them. What runs is left to
/// run where it is. A pool without tenants takes nothing. Says all there is of it, so
/// it may be repeated and needs no If-Match.
#[utoipa::path(put, path = "/api/v1/pools/{pool}", tag = "workers",
    params(("pool" = Slug, Path, description = "Name")),
    request_body = PutPool, responses((status = 200, body = Pool)))]
async fn put_pool(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Json(put): Json<PutPool>,
) -> Result<Response> {
    let description = match put.description.as_deref() {
        None | Some("") => String::new(),
        Some(text) => fields::name("description", text)?,
    };
    if put.tenants.len() > MAX_POOL_TENANTS {
        return Err(ApiError::field("tenants", format!("must be at most {MAX_POOL_TENANTS}")));
    }
    let mut change = scope.system_change(&app).await?;
    let mut tenants = Vec::with_capacity(put.tenants.len());
    for slug in &put.tenants {
        match store::tenants::by_slug(&mut *change, slug).await {
            Ok(tenant) => tenants.push(tenant.id),
            Err(StoreError::NotFound(_)) => {
                return Err(ApiError::field("tenants", format!("there is no tenant {slug}")));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let pool = store::pools::put(&mut change, &name, &description, &tenants, app.clock.now()).await?;
    let detail = json!({ "description": pool.description, "tenants": pool.tenants });
    change.record(format!("pool:{name}"), detail).await?;
    change.publish(Topic::Desired, Uuid::nil()).await?;
    change.ok(&pool).await
}

/// Open a pool to everybody. For platform administrators.
///
/// Its workers keep its name, and what runs there. Its tenants may be everywhere.
#[utoipa::path(delete, path = "/api/v1/pools/{pool}", tag = "workers",
    params(("pool" = Slug, Path, description = "Name")), responses((status = 204)))]
async fn delete_pool(scope: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    store::pools::delete(&mut change, &name).await?;
    change.record(format!("pool:{name}"), json!({})).await?;
    change.publish(Topic::Desired, Uuid::nil()).await?;
    change.done().await
}
