//! Endpoints: intent, written here; the scheduler makes it true.

use axum::extract::State;
use axum::http::StatusCode;
use domain::accelerators::{CPU_CLASS, ResourceRequest};
use domain::endpoints::{Endpoint, MAX_REPLICAS};
use domain::models::{ModelVersion, Sha256Digest};
use domain::outbox::Topic;
use domain::principals::Caller;
use domain::tenants::Slug;
use domain::{EndpointId, ProjectId};
use serde::{Deserialize, Serialize};
use store::TenantTx;
use store::endpoints::{EndpointRef, NewEndpoint};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::keys::missing;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Share of a device that a replica asks for unless it says otherwise: half a core.
const DEFAULT_MILLI: u32 = 500;
/// No device has more thousandths.
const MAX_MILLI: u32 = 1_000_000;
/// No device has more memory.
const MAX_MEMORY_BYTES: u64 = 1 << 50;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_endpoints, create_endpoint)).routes(routes!(
        get_endpoint,
        update_endpoint,
        delete_endpoint
    ))
}

/// The tenant's endpoints, newest first.
#[utoipa::path(get, path = "/api/v1/endpoints", tag = "endpoints", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<Endpoint>)))]
async fn list_endpoints(
    scope: TenantScope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Endpoint>>> {
    let paging = page.of(List { name: "endpoints", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let rows = store::endpoints::list(&mut scope.tx(&app).await?, paging.after()?, paging.fetch()).await?;
    Ok(Json(paging.page(rows, |endpoint| endpoint.id.to_string())))
}

/// An endpoint to create.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateEndpoint {
    /// Unique in the tenant; what clients send as `model`.
    name: Slug,
    /// Name of the model to serve.
    model: Slug,
    /// Digest of the version to serve; the newest unless given.
    #[serde(default)]
    version: Option<Sha256Digest>,
    /// Short name of its project; may be left out with an API key, or when the
    /// tenant has one project.
    #[serde(default)]
    project: Option<Slug>,
    /// How many replicas should run; 1 unless given.
    #[serde(default = "one")]
    #[schema(default = 1, maximum = 1000)]
    replicas: u32,
    /// What each replica asks for; follows from the model unless given.
    #[serde(default)]
    resources: Option<ResourceRequest>,
}

fn one() -> u32 {
    1
}

/// Create an endpoint.
#[utoipa::path(post, path = "/api/v1/endpoints", tag = "endpoints", params(TenantParam),
    request_body = CreateEndpoint, responses((status = 201, body = Endpoint)))]
async fn create_endpoint(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateEndpoint>,
) -> Result<(StatusCode, Json<Endpoint>)> {
    check_replicas(new.replicas)?;
    let mut tx = scope.tx(&app).await?;
    let project = project(&mut tx, &scope.caller, new.project.as_ref()).await?;
    let version = version(&mut tx, &new).await?;
    let resources = resources(&mut tx, new.resources, &version).await?;
    let endpoint = NewEndpoint {
        project,
        name: &new.name,
        version: &version,
        replicas: new.replicas,
        resources: &resources,
    };
    let endpoint = store::endpoints::create(&mut tx, endpoint, app.clock.now()).await?;
    let detail =
        serde_json::json!({ "name": endpoint.name, "digest": version.digest, "replicas": endpoint.replicas });
    finish(tx, &app, &scope, "create_endpoint", endpoint.id, detail).await?;
    Ok((StatusCode::CREATED, Json(endpoint)))
}

fn check_replicas(replicas: u32) -> Result<()> {
    if replicas > MAX_REPLICAS {
        return Err(ApiError::field("replicas", format!("must be at most {MAX_REPLICAS}")));
    }
    Ok(())
}

async fn version(tx: &mut TenantTx, new: &CreateEndpoint) -> Result<ModelVersion> {
    let tenant = tx.tenant();
    let model = store::models::by_name(tx, Some(tenant), &new.model)
        .await
        .map_err(|e| missing(e, "model", "names no model of the catalogue or of this tenant"))?;
    store::models::version(tx, &model, new.version)
        .await
        .map_err(|e| missing(e, "version", "the model has no such version; list them with GET …/versions"))
}

/// The project that is named, else the key's, else the tenant's only one.
async fn project(tx: &mut TenantTx, caller: &Caller, named: Option<&Slug>) -> Result<ProjectId> {
    let project = match (named, caller.project) {
        (Some(slug), _) => {
            let named = store::projects::by_slug(tx, slug).await;
            named.map_err(|e| missing(e, "project", "names no project of this tenant"))?.id
        }
        (None, Some(own)) => own,
        (None, None) => match store::projects::list(tx, None, 2).await?.as_slice() {
            [only] => only.id,
            [] => return Err(ApiError::field("project", "the tenant has no project yet; create one first")),
            _ => return Err(ApiError::field("project", "the tenant has several projects; name one")),
        },
    };
    may_use(caller, project)?;
    Ok(project)
}

/// A key works for its own project only.
fn may_use(caller: &Caller, project: ProjectId) -> Result<()> {
    match caller.project {
        Some(own) if own != project => Err(ApiError::Forbidden("the API key belongs to another project")),
        _ => Ok(()),
    }
}

async fn resources(
    tx: &mut TenantTx,
    asked: Option<ResourceRequest>,
    version: &ModelVersion,
) -> Result<ResourceRequest> {
    let resources = asked.unwrap_or_else(|| ResourceRequest {
        class: CPU_CLASS.to_owned(),
        memory_bytes: version.manifest.engine_memory_bytes(),
        milli: DEFAULT_MILLI,
    });
    if !(1..=MAX_MILLI).contains(&resources.milli) {
        return Err(ApiError::field("resources.milli", format!("must be between 1 and {MAX_MILLI}")));
    }
    if !(1..=MAX_MEMORY_BYTES).contains(&resources.memory_bytes) {
        return Err(ApiError::field(
            "resources.memory_bytes",
            format!("must be between 1 and {MAX_MEMORY_BYTES}"),
        ));
    }
    if !store::accelerators::class_exists(tx, &resources.class).await? {
        return Err(ApiError::field("resources.class", "names no accelerator class"));
    }
    Ok(resources)
}

/// An identifier, or a name: no identifier of ours begins with a letter.
fn reference(text: &str) -> Result<EndpointRef> {
    if let Ok(id) = text.parse() {
        return Ok(EndpointRef::Id(id));
    }
    text.parse().map(EndpointRef::Name).map_err(|_| ApiError::NotFound("endpoint"))
}

/// One endpoint, by its name or identifier.
#[utoipa::path(get, path = "/api/v1/endpoints/{endpoint}", tag = "endpoints",
    params(TenantParam, ("endpoint" = String, Path, description = "Name or identifier")),
    responses((status = 200, body = Endpoint)))]
async fn get_endpoint(
    scope: TenantScope,
    State(app): State<App>,
    Path(endpoint): Path<String>,
) -> Result<Json<Endpoint>> {
    let mut tx = scope.tx(&app).await?;
    let id = store::endpoints::resolve(&mut tx, &reference(&endpoint)?).await?;
    Ok(Json(store::endpoints::get(&mut tx, id).await?))
}

/// What to change of an endpoint.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateEndpoint {
    /// How many replicas should run; 0 stops it.
    #[schema(maximum = 1000)]
    replicas: u32,
}

/// Scale an endpoint, by its name or identifier.
#[utoipa::path(patch, path = "/api/v1/endpoints/{endpoint}", tag = "endpoints",
    params(TenantParam, ("endpoint" = String, Path, description = "Name or identifier")),
    request_body = UpdateEndpoint, responses((status = 200, body = Endpoint)))]
async fn update_endpoint(
    scope: TenantScope,
    State(app): State<App>,
    Path(endpoint): Path<String>,
    Json(update): Json<UpdateEndpoint>,
) -> Result<Json<Endpoint>> {
    check_replicas(update.replicas)?;
    let mut tx = scope.tx(&app).await?;
    let id = own(&mut tx, &scope.caller, &endpoint).await?;
    let endpoint = store::endpoints::scale(&mut tx, id, update.replicas).await?;
    let detail = serde_json::json!({ "replicas": update.replicas });
    finish(tx, &app, &scope, "update_endpoint", id, detail).await?;
    Ok(Json(endpoint))
}

/// Delete an endpoint, by its name or identifier. Its replicas finish what
/// they answer.
#[utoipa::path(delete, path = "/api/v1/endpoints/{endpoint}", tag = "endpoints",
    params(TenantParam, ("endpoint" = String, Path, description = "Name or identifier")),
    responses((status = 204)))]
async fn delete_endpoint(
    scope: TenantScope,
    State(app): State<App>,
    Path(endpoint): Path<String>,
) -> Result<StatusCode> {
    let mut tx = scope.tx(&app).await?;
    let id = own(&mut tx, &scope.caller, &endpoint).await?;
    store::endpoints::delete(&mut tx, id, app.clock.now()).await?;
    finish(tx, &app, &scope, "delete_endpoint", id, serde_json::json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An endpoint that the caller may change.
async fn own(tx: &mut TenantTx, caller: &Caller, endpoint: &str) -> Result<EndpointId> {
    let id = store::endpoints::resolve(tx, &reference(endpoint)?).await?;
    may_use(caller, store::endpoints::get(tx, id).await?.project_id)?;
    Ok(id)
}

/// Audit, tell the scheduler and the gateways, commit.
async fn finish(
    mut tx: TenantTx,
    app: &App,
    scope: &TenantScope,
    action: &'static str,
    id: EndpointId,
    detail: serde_json::Value,
) -> Result<()> {
    let mut event = scope.event(app, action, format!("endpoint:{id}"));
    event.detail = detail;
    store::audit::record(&mut tx, &event).await?;
    store::outbox::publish(&mut tx, Topic::Desired, id, app.clock.now()).await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_named_by_identifier_or_name() {
        let id = EndpointId::generate();
        assert_eq!(reference(&id.to_string()).unwrap(), EndpointRef::Id(id));
        assert_eq!(reference("smollm2").unwrap(), EndpointRef::Name("smollm2".parse().unwrap()));
        assert!(reference("../x").is_err());
    }
}
