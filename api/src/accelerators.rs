//! Accelerator classes: the kinds of device that work may ask for.

use axum::extract::State;
use axum::response::Response;
use domain::accelerators::{AcceleratorClass, CPU_CLASS};
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::cursor::Page;
use crate::extract::{Json, Path};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_accelerator_classes))
        .routes(routes!(put_accelerator_class, delete_accelerator_class))
}

/// Every accelerator class.
#[utoipa::path(get, path = "/api/v1/accelerator-classes", tag = "accelerator-classes",
    responses((status = 200, body = Page<AcceleratorClass>)))]
async fn list_accelerator_classes(_: Scope, State(app): State<App>) -> Result<Json<Page<AcceleratorClass>>> {
    let data = store::accelerators::classes(&mut app.store.system().await?).await?;
    Ok(Json(Page { items: data, next: None }))
}

/// What an accelerator class is to be.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutAcceleratorClass {
    /// For people, e.g. which devices are of it and what memory they have.
    #[schema(min_length = 1, max_length = 200)]
    description: String,
}

/// Make an accelerator class, or describe one. For platform administrators.
///
/// Workers join with devices of it from now on, and quotas and work may name it. Says
/// all there is of it, so it may be repeated and needs no If-Match.
#[utoipa::path(put, path = "/api/v1/accelerator-classes/{class}", tag = "accelerator-classes",
    params(("class" = Slug, Path, description = "Name, e.g. `nvidia-h100-80g`")),
    request_body = PutAcceleratorClass, responses((status = 200, body = AcceleratorClass)))]
async fn put_accelerator_class(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Json(put): Json<PutAcceleratorClass>,
) -> Result<Response> {
    let description = fields::name("description", &put.description)?;
    let mut change = scope.system_change(&app).await?;
    let class = store::accelerators::put_class(&mut change, &name, &description).await?;
    change.record(format!("accelerator_class:{name}"), json!({ "description": class.description })).await?;
    change.ok(&class).await
}

/// Delete an accelerator class that nothing names. For platform administrators.
///
/// Refused while a device, a quota or work names it, or did: records keep their
/// meaning. So is `cpu`, which every worker without accelerators is of.
#[utoipa::path(delete, path = "/api/v1/accelerator-classes/{class}", tag = "accelerator-classes",
    params(("class" = Slug, Path, description = "Name")), responses((status = 204)))]
async fn delete_accelerator_class(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
) -> Result<Response> {
    if name.as_str() == CPU_CLASS {
        return Err(ApiError::Conflict("the class of processors stays".to_owned()));
    }
    let mut change = scope.system_change(&app).await?;
    store::accelerators::delete_class(&mut change, &name).await?;
    change.record(format!("accelerator_class:{name}"), json!({})).await?;
    change.done().await
}
