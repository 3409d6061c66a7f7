//! Tenants: created by the platform, each visible to itself.

use axum::extract::State;
use axum::http::StatusCode;
use domain::tenants::{Slug, Tenant};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{Admin, Authenticated};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::Result;
use crate::state::App;
use crate::{audit, fields};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_tenants, create_tenant)).routes(routes!(get_tenant))
}

/// The tenants the caller may know of: all for the platform, else its own.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants", params(PageQuery),
    responses((status = 200, body = Page<Tenant>)))]
async fn list_tenants(
    Authenticated(caller): Authenticated,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Tenant>>> {
    let paging = page.of(List { name: "tenants", tenant: caller.tenant, pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let rows = match caller.tenant {
        Some(own) => {
            store::tenants::list(&mut app.store.tenant(own).await?, after.as_deref(), paging.fetch()).await?
        }
        None => {
            store::tenants::list(&mut app.store.system().await?, after.as_deref(), paging.fetch()).await?
        }
    };
    Ok(Json(paging.page(rows, |tenant| tenant.slug.to_string())))
}

/// A tenant to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateTenant {
    /// Short unique name used in commands and URLs.
    slug: Slug,
    /// Name for people.
    name: String,
}

/// Create a tenant. For platform administrators.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, body = Tenant)))]
async fn create_tenant(
    Admin(caller): Admin,
    State(app): State<App>,
    Json(new): Json<CreateTenant>,
) -> Result<(StatusCode, Json<Tenant>)> {
    let name = fields::name("name", &new.name)?;
    let mut tx = app.store.system().await?;
    let tenant = store::tenants::create(&mut tx, &new.slug, &name, app.clock.now()).await?;
    let event =
        audit::event(&app, &caller, Some(tenant.id), "create_tenant", format!("tenant:{}", tenant.id));
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(tenant)))
}

/// One tenant, by its short name.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = Slug, Path, description = "Short name")),
    responses((status = 200, body = Tenant)))]
async fn get_tenant(
    Authenticated(caller): Authenticated,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Json<Tenant>> {
    let tenant = match caller.tenant {
        Some(own) => store::tenants::by_slug(&mut app.store.tenant(own).await?, &slug).await?,
        None => store::tenants::by_slug(&mut app.store.system().await?, &slug).await?,
    };
    Ok(Json(tenant))
}
