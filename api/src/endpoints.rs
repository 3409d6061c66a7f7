//! Endpoints: intent, written here; the scheduler makes it true.

use axum::extract::State;
use axum::response::Response;
use domain::autoscaling::{Range, Targets, limits};
use domain::endpoints::{Endpoint, MAX_REPLICAS};
use domain::models::{ModelVersion, Sha256Digest};
use domain::outbox::Topic;
use domain::principals::Caller;
use domain::tenants::Slug;
use domain::workloads::ENDPOINT_PRIORITY;
use domain::{EndpointId, ProjectId};
use serde::{Deserialize, Serialize};
use store::TenantTx;
use store::endpoints::{EndpointRef, NewEndpoint, Scale};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, IfMatch, Tagged, TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::keys::missing;
use crate::problem::{ApiError, Result};
use crate::resources::AskedResources;
use crate::state::App;

/// Share of a device that a replica asks for unless it says otherwise: half a core.
const DEFAULT_MILLI: u32 = 500;

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
    /// How many replicas should run; 1 unless given, and a fixed number unless the
    /// least and the most differ.
    #[serde(default)]
    #[schema(maximum = 1000)]
    replicas: Option<u32>,
    /// The least that the autoscaler may choose; 0 lets the last one go while
    /// nobody asks, and the next prompt waits for its return. 1 unless given.
    #[serde(default)]
    #[schema(maximum = 1000)]
    min_replicas: Option<u32>,
    /// The most that the autoscaler may choose. 1 unless given.
    #[serde(default)]
    #[schema(maximum = 1000)]
    max_replicas: Option<u32>,
    /// What the number follows, where the least and the most differ.
    #[serde(default)]
    scaling: Option<ScalingTargets>,
    /// What each replica asks for; follows from the model unless given.
    #[serde(default)]
    resources: AskedResources,
    /// Higher goes first, among the tenant's and where tenants compete; seen on
    /// its workloads.
    #[serde(default = "endpoint_priority")]
    #[schema(default = 100, minimum = -1000, maximum = 1000)]
    priority: i32,
}

fn endpoint_priority() -> i32 {
    ENDPOINT_PRIORITY
}

/// Targets of the autoscaler; those left out stay, or are the default.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ScalingTargets {
    /// Requests that wait for their first token, per replica.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    queued_per_replica: Option<u32>,
    /// Tokens of requests that are being answered, per replica.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000_000)]
    tokens_per_replica: Option<u32>,
    /// Time from a request to its first token, in milliseconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 600_000)]
    first_token_ms: Option<u32>,
    /// How long nobody must have asked before the last replica goes, in seconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 604_800)]
    idle_secs: Option<u32>,
}

impl ScalingTargets {
    fn onto(self, present: Targets) -> Result<Targets> {
        let pick =
            |field: &str, asked: Option<u32>, present, limits: std::ops::RangeInclusive<u32>| match asked {
                Some(n) if !limits.contains(&n) => Err(ApiError::field(
                    format!("scaling.{field}"),
                    format!("must be between {} and {}", limits.start(), limits.end()),
                )),
                asked => Ok(asked.unwrap_or(present)),
            };
        Ok(Targets {
            queued_per_replica: pick(
                "queued_per_replica",
                self.queued_per_replica,
                present.queued_per_replica,
                limits::QUEUED,
            )?,
            tokens_per_replica: pick(
                "tokens_per_replica",
                self.tokens_per_replica,
                present.tokens_per_replica,
                limits::TOKENS,
            )?,
            first_token_ms: pick(
                "first_token_ms",
                self.first_token_ms,
                present.first_token_ms,
                limits::FIRST_TOKEN_MS,
            )?,
            idle_secs: pick("idle_secs", self.idle_secs, present.idle_secs, limits::IDLE_SECS)?,
        })
    }
}

/// What a request says of replicas.
struct Asked {
    replicas: Option<u32>,
    min: Option<u32>,
    max: Option<u32>,
    targets: Option<ScalingTargets>,
}

impl Asked {
    /// With what it leaves out as it is at present. A number alone is fixed.
    fn onto(&self, present: Scale) -> Result<Scale> {
        let limited = |field: &str, n: Option<u32>| match n {
            Some(n) if n > MAX_REPLICAS => {
                Err(ApiError::field(field, format!("must be at most {MAX_REPLICAS}")))
            }
            n => Ok(n),
        };
        let (replicas, min, max) = (
            limited("replicas", self.replicas)?,
            limited("min_replicas", self.min)?,
            limited("max_replicas", self.max)?,
        );
        let targets = self.targets.unwrap_or_default().onto(present.targets)?;
        if min.is_none() && max.is_none() {
            let range = present.range.filter(|_| replicas.is_none());
            return Ok(Scale { replicas: replicas.unwrap_or(present.replicas), range, targets });
        }
        let known = present.range.unwrap_or(Range { min: present.replicas, max: present.replicas });
        let range = Range { min: min.unwrap_or(known.min), max: max.unwrap_or(known.max) };
        if range.min > range.max {
            let (field, detail) = if min.is_some() {
                ("min_replicas", format!("must be at most max_replicas, which is {}", range.max))
            } else {
                ("max_replicas", format!("must be at least min_replicas, which is {}", range.min))
            };
            return Err(ApiError::field(field, detail));
        }
        if replicas.is_some_and(|n| !(range.min..=range.max).contains(&n)) {
            let detail =
                format!("must be between min_replicas and max_replicas: {} to {}", range.min, range.max);
            return Err(ApiError::field("replicas", detail));
        }
        let replicas = replicas.unwrap_or(present.replicas).clamp(range.min, range.max);
        Ok(Scale { replicas, range: Some(range).filter(|range| range.min < range.max), targets })
    }
}

/// Create an endpoint.
#[utoipa::path(post, path = "/api/v1/endpoints", tag = "endpoints", params(TenantParam),
    request_body = CreateEndpoint, responses((status = 201, body = Endpoint)))]
async fn create_endpoint(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateEndpoint>,
) -> Result<Response> {
    let asked =
        Asked { replicas: new.replicas, min: new.min_replicas, max: new.max_replicas, targets: new.scaling };
    let scale = asked.onto(Scale { replicas: 1, range: None, targets: Targets::default() })?;
    let mut change = scope.change(&app).await?;
    let project = project(&mut change, &scope.caller, new.project.as_ref()).await?;
    let version = version(&mut change, &new).await?;
    let resources = new.resources.of(&mut change, &version.manifest, DEFAULT_MILLI).await?;
    let endpoint = NewEndpoint {
        project,
        name: &new.name,
        version: &version,
        replicas: scale.replicas,
        range: scale.range,
        targets: scale.targets,
        resources: &resources,
        priority: fields::priority(new.priority)?,
    };
    let endpoint = store::endpoints::create(&mut change, endpoint, app.clock.now()).await?;
    let mut detail = replicas(&endpoint);
    detail["name"] = serde_json::json!(endpoint.name);
    detail["digest"] = serde_json::json!(version.digest);
    note(&mut change, endpoint.id, detail).await?;
    change.tag(endpoint.revision);
    change.created(&endpoint).await
}

/// What is recorded of how many replicas are asked for.
fn replicas(endpoint: &Endpoint) -> serde_json::Value {
    let mut detail = serde_json::json!({ "replicas": endpoint.replicas });
    if endpoint.range().is_some() {
        detail["min_replicas"] = serde_json::json!(endpoint.min_replicas);
        detail["max_replicas"] = serde_json::json!(endpoint.max_replicas);
        detail["scaling"] = serde_json::json!(endpoint.scaling);
    }
    detail
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

/// What to change of an endpoint; what is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateEndpoint {
    /// How many replicas should run; 0 stops it. Alone, it fixes the number.
    #[serde(default)]
    #[schema(maximum = 1000)]
    replicas: Option<u32>,
    /// The least that the autoscaler may choose; 0 lets the last one go while
    /// nobody asks.
    #[serde(default)]
    #[schema(maximum = 1000)]
    min_replicas: Option<u32>,
    /// The most that the autoscaler may choose; the same as the least fixes the
    /// number.
    #[serde(default)]
    #[schema(maximum = 1000)]
    max_replicas: Option<u32>,
    /// What the number follows.
    #[serde(default)]
    scaling: Option<ScalingTargets>,
}

/// Scale an endpoint, by its name or identifier, or let it be scaled.
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
    let UpdateEndpoint { replicas: count, min_replicas: min, max_replicas: max, scaling: targets } = update;
    if count.is_none() && min.is_none() && max.is_none() && targets.is_none() {
        return Err(ApiError::Invalid(
            "nothing to change: send replicas, min_replicas, max_replicas or scaling".to_owned(),
        ));
    }
    let mut change = scope.change(&app).await?;
    let id = store::endpoints::resolve(&mut change, &reference(&endpoint)?).await?;
    let present = store::endpoints::lock(&mut change, id).await?;
    let present = Scale { replicas: present.replicas, range: present.range(), targets: present.scaling };
    let scale = Asked { replicas: count, min, max, targets }.onto(present)?;
    let endpoint = store::endpoints::scale(&mut change, id, scale, expected).await?;
    note(&mut change, id, replicas(&endpoint)).await?;
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

    fn fixed(replicas: u32) -> Scale {
        Scale { replicas, range: None, targets: Targets::default() }
    }

    fn asked(replicas: Option<u32>, min: Option<u32>, max: Option<u32>) -> Asked {
        Asked { replicas, min, max, targets: None }
    }

    #[test]
    fn a_number_alone_is_fixed_and_what_is_left_out_stays() {
        let onto = |asked: Asked, present| {
            let scale = asked.onto(present).unwrap();
            (scale.replicas, scale.range.map(|range| (range.min, range.max)))
        };
        assert_eq!(onto(asked(None, None, None), fixed(1)), (1, None));
        assert_eq!(onto(asked(Some(0), None, None), fixed(1)), (0, None));
        assert_eq!(onto(asked(None, Some(0), Some(4)), fixed(1)), (1, Some((0, 4))));
        assert_eq!(onto(asked(None, None, Some(4)), fixed(1)), (1, Some((1, 4))));
        assert_eq!(onto(asked(Some(3), Some(2), Some(4)), fixed(1)), (3, Some((2, 4))));
        assert_eq!(onto(asked(None, Some(2), Some(2)), fixed(5)), (2, None), "no choice is no range");
        let scaled = Scale { range: Some(Range { min: 1, max: 9 }), ..fixed(7) };
        assert_eq!(onto(asked(None, None, Some(5)), scaled), (5, Some((1, 5))));
        assert_eq!(onto(asked(Some(4), None, None), scaled), (4, None));
        let targets = ScalingTargets { idle_secs: Some(30), ..ScalingTargets::default() };
        let same = Asked { targets: Some(targets), ..asked(None, None, None) }.onto(scaled).unwrap();
        assert_eq!((same.replicas, same.range), (7, scaled.range));
        assert_eq!(same.targets, Targets { idle_secs: 30, ..Targets::default() });
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let field = |asked: Asked| match asked.onto(fixed(1)) {
            Err(ApiError::InvalidField { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(asked(Some(1001), None, None)), "replicas");
        assert_eq!(field(asked(None, Some(2), None)), "min_replicas");
        assert_eq!(field(asked(None, None, Some(0))), "max_replicas");
        assert_eq!(field(asked(None, Some(0), Some(1001))), "max_replicas");
        assert_eq!(field(asked(Some(5), Some(0), Some(4))), "replicas");
        let targets = ScalingTargets { idle_secs: Some(0), ..ScalingTargets::default() };
        assert_eq!(field(Asked { targets: Some(targets), ..asked(None, None, None) }), "scaling.idle_secs");
    }

    #[test]
    fn endpoints_are_named_by_identifier_or_name() {
        let id = EndpointId::generate();
        assert_eq!(reference(&id.to_string()).unwrap(), EndpointRef::Id(id));
        assert_eq!(reference("smollm2").unwrap(), EndpointRef::Name("smollm2".parse().unwrap()));
        assert!(reference("../x").is_err());
    }
}
