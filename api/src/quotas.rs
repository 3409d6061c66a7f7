//! Quotas: a tree of cohorts, tenants and projects, and who may use how much of
//! each accelerator class.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::quotas::{Key, MAX_WEIGHT_MILLI, NodeId, Policies, Quota, QuotaLine, QuotaNode, quotas};
use domain::tenants::Slug;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::quotas::NewNode;
use store::{StoreError, SystemTx};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, Scope, TenantParam, TenantScope};
use crate::extract::{Json, Path};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_quotas))
        .routes(routes!(get_cohort, put_cohort, delete_cohort))
        .routes(routes!(get_tenant_quota, put_tenant_quota, delete_tenant_quota))
        .routes(routes!(get_project_quota, put_project_quota, delete_project_quota))
}

/// The quota tree, or a tenant's part of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct QuotaTree {
    /// Cohorts, then projects, then tenants, each by name; a tenant without
    /// quota is not among them, and is bound by devices alone.
    nodes: Vec<QuotaNode>,
}

/// What may be used of each accelerator class, and is: the whole tree for the
/// platform, else what is the tenant's own.
#[utoipa::path(get, path = "/api/v1/quotas", tag = "quotas", params(TenantParam),
    responses((status = 200, body = QuotaTree)))]
async fn get_quotas(scope: Scope, State(app): State<App>) -> Result<Json<QuotaTree>> {
    let nodes = store::quotas::tree(&mut app.store.system().await?, scope.tenant).await?;
    Ok(Json(QuotaTree { nodes }))
}

/// A cohort: lets those in it lend to each other.
#[utoipa::path(get, path = "/api/v1/cohorts/{cohort}", tag = "quotas",
    params(("cohort" = Slug, Path, description = "Name")), responses((status = 200, body = QuotaNode)))]
async fn get_cohort(_: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Json<QuotaNode>> {
    let mut tx = app.store.system().await?;
    let cohort = store::quotas::cohort(&mut tx, &name).await?;
    Ok(Json(store::quotas::node(&mut tx, cohort).await?))
}

/// What a cohort is to be.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutCohort {
    /// The cohort that it is in.
    #[serde(default)]
    parent: Option<Slug>,
    /// Its share of what is lent, in thousandths; 1000 is one.
    #[serde(default = "one")]
    #[schema(default = 1000, maximum = 1_000_000)]
    weight_milli: u32,
    /// Quota of its own, for all below it.
    #[serde(default)]
    #[schema(max_items = 64)]
    quotas: Vec<QuotaLine>,
}

/// What a tenant is to have.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutTenantQuota {
    /// The cohort in which it lends and borrows; null for neither.
    #[serde(default)]
    cohort: Option<Slug>,
    /// Its share of what is lent, in thousandths; 1000 is one.
    #[serde(default = "one")]
    #[schema(default = 1000, maximum = 1_000_000)]
    weight_milli: u32,
    /// What it may do to get room.
    #[serde(default)]
    policies: Policies,
    /// What it may use. It borrows only of what is listed, be it with 0.
    #[schema(max_items = 64)]
    quotas: Vec<QuotaLine>,
}

/// Most that a project may use of its tenant's.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutProjectQuota {
    /// Limits; what is not listed is bound by the tenant's quota alone.
    #[schema(max_items = 64)]
    quotas: Vec<QuotaLine>,
}

fn one() -> u32 {
    1000
}

fn lines(lines: &[QuotaLine]) -> Result<BTreeMap<Key, Quota>> {
    quotas(lines).map_err(|e| ApiError::field("quotas", e.to_string()))
}

fn weight(weight_milli: u32) -> Result<u32> {
    if weight_milli > MAX_WEIGHT_MILLI {
        return Err(ApiError::field("weight_milli", format!("must be at most {MAX_WEIGHT_MILLI}")));
    }
    Ok(weight_milli)
}

/// The cohort that a field names.
async fn named(tx: &mut SystemTx, field: &str, name: Option<&Slug>) -> Result<Option<NodeId>> {
    let Some(name) = name else { return Ok(None) };
    match store::quotas::cohort(tx, name).await {
        Ok(cohort) => Ok(Some(cohort)),
        Err(StoreError::NotFound(_)) => {
            Err(ApiError::field(field, format!("there is no cohort {name}: make it first")))
        }
        Err(e) => Err(e.into()),
    }
}

/// What was refused, by the field that it is about.
fn refused(e: StoreError) -> ApiError {
    match e {
        StoreError::QuotaTree(why) => ApiError::field("parent", why),
        StoreError::NotFound(what @ "accelerator class") => ApiError::field(
            "quotas",
            format!("names an {what} that does not exist: GET /api/v1/accelerator-classes has all"),
        ),
        e => e.into(),
    }
}

/// Records and answers what a node is now.
async fn answer(
    mut change: Change<SystemTx>,
    object: String,
    node: &QuotaNode,
    body: &[QuotaLine],
) -> Result<Response> {
    let detail = json!({
        "parent": node.parent, "weight_milli": node.weight_milli, "policies": node.policies, "quotas": body,
    });
    change.record(object, detail).await?;
    change.publish(Topic::Desired, node.id).await?;
    change.ok(node).await
}

/// Make a cohort, or set what one is. For platform administrators.
///
/// Says all there is of it, so it may be repeated and needs no If-Match. It
/// holds at once; what runs is left to run, even beyond what is now allowed.
#[utoipa::path(put, path = "/api/v1/cohorts/{cohort}", tag = "quotas",
    params(("cohort" = Slug, Path, description = "Name")),
    request_body = PutCohort, responses((status = 200, body = QuotaNode)))]
async fn put_cohort(
    scope: Scope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    Json(put): Json<PutCohort>,
) -> Result<Response> {
    let (quotas, weight_milli) = (lines(&put.quotas)?, weight(put.weight_milli)?);
    let mut change = scope.system_change(&app).await?;
    let parent = named(&mut change, "parent", put.parent.as_ref()).await?;
    let new = NewNode { parent, weight_milli, policies: Policies::default(), quotas: &quotas };
    let now = app.clock.now();
    let node = store::quotas::put_cohort(&mut change, &name, &new, now).await.map_err(refused)?;
    answer(change, format!("cohort:{name}"), &node, &put.quotas).await
}

/// Delete a cohort that nothing is in. For platform administrators.
#[utoipa::path(delete, path = "/api/v1/cohorts/{cohort}", tag = "quotas",
    params(("cohort" = Slug, Path, description = "Name")), responses((status = 204)))]
async fn delete_cohort(scope: Scope, State(app): State<App>, Path(name): Path<Slug>) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    let cohort = store::quotas::cohort(&mut change, &name).await?;
    remove(change, cohort, format!("cohort:{name}")).await
}

async fn remove(mut change: Change<SystemTx>, node: NodeId, object: String) -> Result<Response> {
    store::quotas::remove(&mut change, node).await?;
    change.record(object, json!({})).await?;
    change.publish(Topic::Desired, node.id()).await?;
    change.done().await
}

/// What a tenant may use, and uses.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/quota", tag = "quotas",
    params(("tenant" = Slug, Path, description = "Short name")), responses((status = 200, body = QuotaNode)))]
async fn get_tenant_quota(scope: TenantScope, State(app): State<App>) -> Result<Json<QuotaNode>> {
    let mut tx = app.store.system().await?;
    Ok(Json(store::quotas::node(&mut tx, NodeId::Tenant(scope.tenant)).await?))
}

/// Set what a tenant may use. For platform administrators.
///
/// Says all there is of it, so it may be repeated and needs no If-Match. It
/// holds at once; what runs is left to run, even beyond what is now allowed.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/quota", tag = "quotas",
    params(("tenant" = Slug, Path, description = "Short name")),
    request_body = PutTenantQuota, responses((status = 200, body = QuotaNode)))]
async fn put_tenant_quota(
    scope: TenantScope,
    State(app): State<App>,
    Json(put): Json<PutTenantQuota>,
) -> Result<Response> {
    let (quotas, weight_milli) = (lines(&put.quotas)?, weight(put.weight_milli)?);
    let mut change = scope.system_change(&app).await?;
    let parent = named(&mut change, "cohort", put.cohort.as_ref()).await?;
    let new = NewNode { parent, weight_milli, policies: put.policies, quotas: &quotas };
    let now = app.clock.now();
    let node = store::quotas::put_tenant(&mut change, scope.tenant, &new, now).await.map_err(refused)?;
    answer(change, format!("tenant:{}", scope.tenant), &node, &put.quotas).await
}

/// Take a tenant and its projects out of the quota tree: devices alone bind it.
/// For platform administrators.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/quota", tag = "quotas",
    params(("tenant" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_tenant_quota(scope: TenantScope, State(app): State<App>) -> Result<Response> {
    let change = scope.system_change(&app).await?;
    remove(change, NodeId::Tenant(scope.tenant), format!("tenant:{}", scope.tenant)).await
}

/// Most that a project may use, and what it uses.
#[utoipa::path(get, path = "/api/v1/projects/{project}/quota", tag = "quotas",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    responses((status = 200, body = QuotaNode)))]
async fn get_project_quota(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Json<QuotaNode>> {
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    let mut tx = app.store.system().await?;
    Ok(Json(store::quotas::node(&mut tx, NodeId::Project(project)).await?))
}

/// Limit a project to a part of its tenant's quota. For administrators of the
/// tenant.
///
/// Says all there is of it, so it may be repeated and needs no If-Match. Projects
/// do not lend to each other: their limits may add up to more than the tenant has.
#[utoipa::path(put, path = "/api/v1/projects/{project}/quota", tag = "quotas",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")),
    request_body = PutProjectQuota, responses((status = 200, body = QuotaNode)))]
async fn put_project_quota(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
    Json(put): Json<PutProjectQuota>,
) -> Result<Response> {
    let quotas = lines(&put.quotas)?;
    if quotas.values().any(|quota| quota.lending_limit.is_some() || quota.borrowing_limit.is_some()) {
        return Err(ApiError::field(
            "quotas",
            "must name only what is nominal: projects neither lend nor borrow",
        ));
    }
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    let mut change = scope.system_change(&app).await?;
    let new = NewNode {
        parent: Some(NodeId::Tenant(scope.tenant)),
        weight_milli: one(),
        policies: Policies::default(),
        quotas: &quotas,
    };
    let now = app.clock.now();
    let node = store::quotas::put_project(&mut change, scope.tenant, project, &new, now).await;
    answer(change, format!("project:{project}"), &node.map_err(refused)?, &put.quotas).await
}

/// Bind a project by its tenant's quota alone. For administrators of the tenant.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/quota", tag = "quotas",
    params(TenantParam, ("project" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_project_quota(
    scope: TenantScope,
    State(app): State<App>,
    Path(slug): Path<Slug>,
) -> Result<Response> {
    let project = store::projects::by_slug(&mut scope.read(&app).await?, &slug).await?.id;
    let change = scope.system_change(&app).await?;
    remove(change, NodeId::Project(project), format!("project:{project}")).await
}
