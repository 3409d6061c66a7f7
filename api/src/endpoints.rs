//! Endpoints: intent, written here; the scheduler makes it true.

use axum::extract::State;
use axum::response::Response;
use domain::accelerators::{CPU_CLASS, ResourceRequest};
use domain::endpoints::{Endpoint, MAX_REPLICAS};
use domain::models::{ModelVersion, Sha256Digest};
use domain::outbox::Topic;
use domain::principals::Caller;
use domain::tenants::Slug;
use domain::workloads::ENDPOINT_PRIORITY;
use domain::{EndpointId, ProjectId};
use serde::{Deserialize, Serialize};
use store::TenantTx;
use store::endpoints::{EndpointRef, NewEndpoint};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, IfMatch, Tagged, TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
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
    let rows = store::endpoints::list(&mut scope.read(&app).await?, paging.after()?, paging.fetch()).await?;
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
    /// Higher goes first, among the tenant's and where tenants compete; seen on
    /// its workloads.
    #[serde(default = "endpoint_priority")]
    #[schema(default = 100, minimum = -1000, maximum = 1000)]
    priority: i32,
}

fn endpoint_priority() -> i32 {
    ENDPOINT_PRIORITY
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
) -> Result<Response> {
    check_replicas(new.replicas)?;
    let mut change = scope.change(&app).await?;
    let project = project(&mut change, &scope.caller, new.project.as_ref()).await?;
    let version = version(&mut change, &new).await?;
    let resources = resources(&mut change, new.resources, &version).await?;
    let endpoint = NewEndpoint {
        project,
        name: &new.name,
        version: &version,
        replicas: new.replicas,
        resources: &resources,
        priority: fields::priority(new.priority)?,
    };
    let endpoint = store::endpoints::create(&mut change, endpoint, app.clock.now()).await?;
    let detail =
        serde_json::json!({ "name": endpoint.name, "digest": version.digest, "replicas": endpoint.replicas });
    note(&mut change, endpoint.id, detail).await?;
    change.tag(endpoint.revision);
    change.created(&endpoint).await
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

/// The project that is named, else the key's, else the only one that the caller
/// may deploy in. Row-level security hides the others.
async fn project(tx: &mut TenantTx, caller: &Caller, named: Option<&Slug>) -> Result<ProjectId> {
    Ok(match (named, caller.project()) {
        (Some(slug), _) => {
            let named = store::projects::by_slug(tx, slug).await;
            named.map_err(|e| missing(e, "project", "names no project of this tenant that you may use"))?.id
        }
        (None, Some(own)) => own,
        (None, None) => match store::projects::list(tx, None, 2).await?.as_slice() {
            [only] => only.id,
            [] => return Err(ApiError::field("project", "the tenant has no project yet; create one first")),
            _ => return Err(ApiError::field("project", "the tenant has several projects; name one")),
        },
    })
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
) -> Result<Tagged<Endpoint>> {
    let mut tx = scope.read(&app).await?;
    let id = store::endpoints::resolve(&mut tx, &reference(&endpoint)?).await?;
    let endpoint = store::endpoints::get(&mut tx, id).await?;
    let revision = endpoint.revision;
    Ok(Tagged(endpoint, revision))
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
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateEndpoint>,
) -> Result<Response> {
    check_replicas(update.replicas)?;
    let mut change = scope.change(&app).await?;
    let id = store::endpoints::resolve(&mut change, &reference(&endpoint)?).await?;
    let endpoint = store::endpoints::scale(&mut change, id, update.replicas, expected).await?;
    note(&mut change, id, serde_json::json!({ "replicas": update.replicas })).await?;
    change.tag(endpoint.revision);
    change.ok(&endpoint).await
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
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let id = store::endpoints::resolve(&mut change, &reference(&endpoint)?).await?;
    store::endpoints::delete(&mut change, id, app.clock.now()).await?;
    note(&mut change, id, serde_json::json!({})).await?;
    change.done().await
}

/// Records what is done to an endpoint, and tells the scheduler and the gateways.
async fn note(change: &mut Change<TenantTx>, id: EndpointId, detail: serde_json::Value) -> Result<()> {
    change.record(format!("endpoint:{id}"), detail).await?;
    change.publish(Topic::Desired, id).await
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
