//! Tenants: created by the platform, each visible to itself.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use domain::projects::SANDBOX;
use domain::tenants::{Classification, Language, Retention, Slug, Tenant};
use serde::Deserialize;
use serde_json::json;
use store::tenants::NewTenant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, Tagged};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_tenants, create_tenant)).routes(routes!(get_tenant))
}

/// The tenants the caller may know of: all for the platform, else its own.
#[utoipa::path(get, path = "/api/v1/tenants", tag = "tenants", params(PageQuery),
    responses((status = 200, body = Page<Tenant>)))]
async fn list_tenants(
    scope: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Tenant>>> {
    let paging = page.of(List { name: "tenants", tenant: scope.tenant, pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let rows = store::tenants::list(&mut scope.read(&app).await?, after.as_deref(), paging.fetch()).await?;
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
    /// Its name in other languages, by language tag.
    #[serde(default)]
    names: BTreeMap<Language, String>,
    /// The zones its work and data may be in; empty for all.
    #[serde(default)]
    #[schema(max_items = 64)]
    zones: Vec<String>,
    /// How secret its data may be; `internal` unless given.
    #[serde(default)]
    classification: Classification,
    /// How long its data is kept; until it is deleted unless given.
    #[serde(default)]
    retention: Retention,
    /// Whether it is protected from deletion.
    #[serde(default)]
    delete_protection: bool,
}

/// Create a tenant. For platform administrators.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", request_body = CreateTenant,
    responses((status = 201, body = Tenant)))]
async fn create_tenant(
    scope: Scope,
    State(app): State<App>,
    Json(new): Json<CreateTenant>,
) -> Result<Response> {
    let name = fields::name("name", &new.name)?;
    check(&new.names, &new.zones, &new.retention)?;
    let mut change = scope.system_change(&app).await?;
    let tenant = NewTenant {
        slug: &new.slug,
        name: &name,
        names: &new.names,
        zones: &new.zones,
        classification: new.classification,
        retention: new.retention,
        delete_protection: new.delete_protection,
    };
    let (tenant, sandbox) = store::tenants::create(&mut change, tenant, app.clock.now()).await?;
    change
        .record_in(
            tenant.id,
            "create_tenant",
            format!("tenant:{}", tenant.id),
            json!({ "slug": tenant.slug }),
        )
        .await?;
    change
        .record_in(tenant.id, "create_project", format!("project:{sandbox}"), json!({ "slug": SANDBOX }))
        .await?;
    change.tag(tenant.revision);
    change.created(&tenant).await
}

/// Most languages of a name, and most zones.
const MAX_LISTED: usize = 64;

fn check(names: &BTreeMap<Language, String>, zones: &[String], retention: &Retention) -> Result<()> {
    if names.len() > MAX_LISTED {
        return Err(ApiError::field("names", format!("must name at most {MAX_LISTED} languages")));
    }
    for name in names.values() {
        fields::name("names", name)?;
    }
    if zones.len() > MAX_LISTED || zones.iter().any(|zone| zone.parse::<Slug>().is_err()) {
        return Err(ApiError::field("zones", format!("must be at most {MAX_LISTED} short names")));
    }
    match retention.wrong_field() {
        Some(field) => Err(ApiError::field(field, format!("must be between 1 and {}", Retention::MAX_DAYS))),
        None => Ok(()),
    }
}

/// One tenant, by its short name.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = Slug, Path, description = "Short name")),
    responses((status = 200, body = Tenant)))]
async fn get_tenant(scope: Scope, State(app): State<App>, Path(slug): Path<Slug>) -> Result<Tagged<Tenant>> {
    let tenant = store::tenants::by_slug(&mut scope.read(&app).await?, &slug).await?;
    let revision = tenant.revision;
    Ok(Tagged(tenant, revision))
}
