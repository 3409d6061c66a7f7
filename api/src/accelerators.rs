//! Accelerator classes: the kinds of device that work may ask for.

use axum::extract::State;
use domain::accelerators::AcceleratorClass;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::cursor::Page;
use crate::extract::Json;
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_accelerator_classes))
}

/// Every accelerator class.
#[utoipa::path(get, path = "/api/v1/accelerator-classes", tag = "accelerator-classes",
    responses((status = 200, body = Page<AcceleratorClass>)))]
async fn list_accelerator_classes(_: Scope, State(app): State<App>) -> Result<Json<Page<AcceleratorClass>>> {
    let data = store::accelerators::classes(&mut app.store.system().await?).await?;
    Ok(Json(Page { items: data, next: None }))
}
