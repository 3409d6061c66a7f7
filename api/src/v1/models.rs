//! `/v1/models`: the endpoints of the caller's tenant.

use axum::extract::State;
use serde::Serialize;
use store::routes::ServedModel;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::TenantScope;
use crate::extract::{Json, Path};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_served_models)).routes(routes!(get_served_model))
}

/// An endpoint, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OpenAiModel {
    /// What to send as `model`.
    id: String,
    /// `model`.
    object: &'static str,
    /// Unix seconds.
    created: i64,
    /// The tenant.
    owned_by: String,
}

/// Endpoints, in OpenAI's words.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OpenAiModelList {
    /// `list`.
    object: &'static str,
    /// The endpoints.
    data: Vec<OpenAiModel>,
}

impl From<ServedModel> for OpenAiModel {
    fn from(m: ServedModel) -> Self {
        Self { id: m.name, object: "model", created: m.created_at.unix_secs(), owned_by: m.owned_by }
    }
}

/// Whether a key's bounds leave it this endpoint.
fn may_use(scope: &TenantScope, name: &str) -> bool {
    scope.caller.bounds.as_ref().is_none_or(|bounds| bounds.allows_endpoint(name))
}

/// List endpoints as models
///
/// What may be sent as `model`: the endpoints of the tenant.
#[utoipa::path(get, path = "/v1/models", tag = "inference", responses((status = 200, body = OpenAiModelList)))]
async fn list_served_models(State(app): State<App>, scope: TenantScope) -> Result<Json<OpenAiModelList>> {
    let mut served = store::routes::served(&mut scope.read(&app).await?, None).await?;
    served.retain(|s| may_use(&scope, &s.name));
    Ok(Json(OpenAiModelList { object: "list", data: served.into_iter().map(Into::into).collect() }))
}

/// Get an endpoint as a model
#[utoipa::path(get, path = "/v1/models/{model}", tag = "inference",
    params(("model" = String, Path, description = "Name of an endpoint")),
    responses((status = 200, body = OpenAiModel)))]
async fn get_served_model(
    State(app): State<App>,
    scope: TenantScope,
    Path(model): Path<String>,
) -> Result<Json<OpenAiModel>> {
    let served = store::routes::served(&mut scope.read(&app).await?, Some(&model)).await?;
    let found = served.into_iter().find(|s| may_use(&scope, &s.name)).ok_or(ApiError::NotFound("model"))?;
    Ok(Json(found.into()))
}
