//! API keys of a tenant's projects. The secret is shown once and stored only
//! as a keyed hash.

use axum::extract::State;
use axum::response::Response;
use domain::keys::{ApiKey, CredentialKind, mint, shown_prefix};
use domain::principals::Role;
use domain::tenants::Slug;
use domain::{KeyId, Timestamp};
use serde::{Deserialize, Serialize};
use store::keys::NewKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_api_keys, create_api_key)).routes(routes!(revoke_api_key))
}

/// The tenant's keys, also revoked ones, newest first.
#[utoipa::path(get, path = "/api/v1/api-keys", tag = "api-keys", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<ApiKey>)))]
async fn list_api_keys(
    scope: TenantScope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ApiKey>>> {
    let paging = page.of(List { name: "api-keys", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let rows = store::keys::list(&mut scope.read(&app).await?, paging.after()?, paging.fetch()).await?;
    Ok(Json(paging.page(rows, |key| key.id.to_string())))
}

/// A key to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateApiKey {
    /// Short name of the project it works for.
    project: Slug,
    /// Name for people.
    name: String,
    /// When it stops working by itself.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// A key with its secret, which is never shown again.
#[derive(Serialize, utoipa::ToSchema)]
struct CreatedApiKey {
    /// The key.
    key: ApiKey,
    /// What programs send as `Authorization: Bearer …`.
    secret: String,
}

/// Create a key. For administrators of the tenant.
#[utoipa::path(post, path = "/api/v1/api-keys", tag = "api-keys", params(TenantParam),
    request_body = CreateApiKey, responses((status = 201, body = CreatedApiKey)))]
async fn create_api_key(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateApiKey>,
) -> Result<Response> {
    let (name, now) = (fields::name("name", &new.name)?, app.clock.now());
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiError::field("expires_at", "must be in the future"));
    }
    let secret = mint(CredentialKind::ApiKey, app.random());
    let mut change = scope.change(&app).await?;
    let project = store::projects::by_slug(&mut change, &new.project)
        .await
        .map_err(|e| missing(e, "project", "names no project of this tenant"))?;
    let key = NewKey {
        project: project.id,
        service_account: None,
        role: Role::Developer,
        endpoints: None,
        actions: None,
        networks: None,
        rotated_from: None,
        name: &name,
        prefix: shown_prefix(&secret),
        hash: &app.pepper.hash(&secret),
        expires_at: new.expires_at,
    };
    let key = store::keys::create(&mut change, key, now).await?;
    let detail = serde_json::json!({ "project": project.id, "prefix": key.prefix });
    change.record(format!("key:{}", key.id), detail).await?;
    change.created(&CreatedApiKey { key, secret }).await
}

/// A reference in a body that names nothing is a wrong field, not a wrong path.
pub(crate) fn missing(e: store::StoreError, field: &str, detail: &str) -> ApiError {
    match e {
        store::StoreError::NotFound(_) => ApiError::field(field, detail),
        e => e.into(),
    }
}

/// Revoke a key: it is refused within a second, everywhere. For administrators
/// of the tenant.
#[utoipa::path(delete, path = "/api/v1/api-keys/{key}", tag = "api-keys",
    params(TenantParam, ("key" = KeyId, Path, description = "Identifier")),
    responses((status = 200, body = ApiKey)))]
async fn revoke_api_key(
    scope: TenantScope,
    State(app): State<App>,
    Path(id): Path<KeyId>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let (key, ended) = store::keys::revoke(&mut change, id, app.clock.now()).await?;
    if !ended {
        return change.unchanged(&key).await;
    }
    change.revoke(id.0).await?;
    change.record(format!("key:{id}"), serde_json::json!({})).await?;
    change.ok(&key).await
}
