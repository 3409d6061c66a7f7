//! Tenants: created by the platform, each visible to itself.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use domain::deletions::TenantDeletion;
use domain::models::Sha256Digest;
use domain::outbox::Topic;
use domain::projects::SANDBOX;
use domain::tenants::{Classification, Language, Retention, Slug, Tenant, TenantStatus};
use serde::Deserialize;
use serde_json::json;
use store::tenants::{NewTenant, TenantChange};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{IfMatch, Scope, Tagged, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_tenants, create_tenant)).routes(routes!(
        get_tenant,
        update_tenant,
        delete_tenant
    ))
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

/// What to change of a tenant. Fields that are not named stay as they are.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateTenant {
    /// Name for people.
    name: Option<String>,
    /// Names in other languages, by language tag; `null` takes one away, those not named stay.
    names: Option<BTreeMap<Language, Option<String>>>,
    /// The zones its work and data may be in; empty for all. What runs elsewhere is not moved.
    #[schema(max_items = 64)]
    zones: Option<Vec<String>>,
    /// How secret its data may be.
    classification: Option<Classification>,
    /// How long its data is kept.
    retention: Option<UpdateRetention>,
    /// Whether it is protected from deletion.
    delete_protection: Option<bool>,
    /// `suspended`: what runs goes on and answers, nothing new begins. `active`: it works again.
    status: Option<Standing>,
}

/// How long data is kept; `null` is until it is deleted.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::option_option, reason = "not named, null, and a value are three things")]
struct UpdateRetention {
    /// Files that were uploaded or produced, from their creation.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    files_days: Option<Option<u32>>,
    /// Results of jobs, from the job's end.
    #[serde(default, deserialize_with = "fields::named")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 36500)]
    results_days: Option<Option<u32>>,
}

/// A status that a tenant can be given.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Active,
    Suspended,
}

/// Change a tenant, suspend it, or let it work again. For platform administrators.
#[utoipa::path(patch, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = Slug, Path, description = "Short name")),
    request_body = UpdateTenant, responses((status = 200, body = Tenant)))]
async fn update_tenant(
    scope: TenantScope,
    State(app): State<App>,
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateTenant>,
) -> Result<Response> {
    let name = update.name.as_deref().map(|name| fields::name("name", name)).transpose()?;
    let named =
        update.names.iter().flatten().filter_map(|(language, name)| Some((language.clone(), name.clone()?)));
    let retention = update.retention.unwrap_or_default();
    let rules = Retention {
        files_days: retention.files_days.flatten(),
        results_days: retention.results_days.flatten(),
    };
    check(&named.collect(), update.zones.as_deref().unwrap_or_default(), &rules)?;
    let change_of = TenantChange {
        name: name.as_deref(),
        names: update.names.as_ref(),
        zones: update.zones.as_deref(),
        classification: update.classification,
        files_days: retention.files_days,
        results_days: retention.results_days,
        delete_protection: update.delete_protection,
        status: update.status.map(|status| match status {
            Standing::Active => TenantStatus::Active,
            Standing::Suspended => TenantStatus::Suspended,
        }),
    };
    let mut change = scope.system_change(&app).await?;
    let (before, tenant) = store::tenants::update(&mut change, scope.tenant, change_of, expected).await?;
    if tenant.names.len() > MAX_LISTED {
        return Err(ApiError::field("names", format!("must name at most {MAX_LISTED} languages")));
    }
    change.record(format!("tenant:{}", tenant.id), differences(&before, &tenant)).await?;
    change.refresh(Topic::Tenants, tenant.id.0).await?;
    change.publish(Topic::Desired, tenant.id).await?;
    change.tag(tenant.revision);
    change.ok(&tenant).await
}

/// What an update changed, for its record.
fn differences(before: &Tenant, after: &Tenant) -> serde_json::Value {
    let fields = |tenant: &Tenant| match json!(tenant) {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    let before = fields(before);
    let changed = fields(after)
        .into_iter()
        .filter(|(name, value)| name != "revision" && before.get(name) != Some(value));
    serde_json::Value::Object(changed.collect())
}

/// How a tenant is deleted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteTenant {
    /// SHA-256 of the export that was taken before, for the certificate.
    export_sha256: Option<Sha256Digest>,
}

/// Delete a tenant with all that belongs to it. For platform administrators.
///
/// Its credentials stop at once, then its work; then its rows, files and models
/// are erased. `GET /api/v1/tenant-deletions/{id}` says how far it is, and in
/// the end holds a signed certificate. The record of acts is kept. Refused while
/// the tenant is protected. Asked again, it says how far it is.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}", tag = "tenants",
    params(("tenant" = Slug, Path, description = "Short name"), DeleteTenant),
    responses((status = 200, body = TenantDeletion)))]
async fn delete_tenant(
    scope: TenantScope,
    State(app): State<App>,
    Query(how): Query<DeleteTenant>,
) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    let (id, by) = (scope.tenant, scope.caller.actor());
    let (deletion, begun) =
        store::deletions::request(&mut change, id, &by, how.export_sha256, app.clock.now()).await?;
    if !begun {
        return change.unchanged(&deletion).await;
    }
    let detail = json!({ "slug": deletion.slug, "export_sha256": how.export_sha256 });
    change.record(format!("tenant:{id}"), detail).await?;
    change.refresh(Topic::Tenants, id.0).await?;
    change.publish(Topic::Desired, id).await?;
    change.ok(&deletion).await
}
