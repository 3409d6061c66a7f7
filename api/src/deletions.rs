//! Deletions of tenants: how far each is, and the certificates.

use axum::extract::State;
use domain::TenantId;
use domain::certificates::SigningKey;
use domain::deletions::TenantDeletion;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_tenant_deletions))
        .routes(routes!(get_tenant_deletion))
        .routes(routes!(get_installation))
}

/// Deletions of tenants, newest tenant first. For administrators and auditors of the platform.
#[utoipa::path(get, path = "/api/v1/tenant-deletions", tag = "tenants", params(PageQuery),
    responses((status = 200, body = Page<TenantDeletion>)))]
async fn list_tenant_deletions(
    _: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<TenantDeletion>>> {
    let paging = page.of(List { name: "tenant-deletions", tenant: None, pepper: &app.pepper })?;
    let mut tx = app.store.system().await?;
    let rows = store::deletions::list(&mut tx, paging.after()?, paging.fetch()).await?;
    Ok(Json(paging.page(rows, |deletion| deletion.tenant_id.to_string())))
}

/// How far the deletion of a tenant is, and in the end its certificate. For
/// administrators and auditors of the platform.
#[utoipa::path(get, path = "/api/v1/tenant-deletions/{deletion}", tag = "tenants",
    params(("deletion" = TenantId, Path, description = "Identifier of the tenant")),
    responses((status = 200, body = TenantDeletion)))]
async fn get_tenant_deletion(
    _: Scope,
    State(app): State<App>,
    Path(id): Path<TenantId>,
) -> Result<Json<TenantDeletion>> {
    Ok(Json(store::deletions::get(&mut app.store.system().await?, id).await?))
}

/// This installation.
#[derive(Serialize, utoipa::ToSchema)]
struct Installation {
    /// Version of this program.
    version: &'static str,
    /// Ed25519 public key that certificates of deletion are signed with, in hexadecimal.
    certificate_public_key: String,
}

/// This installation, and the public key of its certificates.
#[utoipa::path(get, path = "/api/v1/installation", tag = "tenants",
    responses((status = 200, body = Installation)))]
async fn get_installation(_: Scope, State(app): State<App>) -> Json<Installation> {
    Json(Installation {
        version: env!("CARGO_PKG_VERSION"),
        certificate_public_key: SigningKey::derive(&app.pepper).public_key(),
    })
}
