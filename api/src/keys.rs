//! API keys of a tenant's projects. The secret is shown once and stored only
//! as a keyed hash.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use domain::keys::{ApiKey, CredentialKind, mint, shown_prefix};
use domain::principals::Role;
use domain::tenants::Slug;
use domain::{KeyId, Timestamp};
use ipnet::IpNet;
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
    OpenApiRouter::new()
        .routes(routes!(list_api_keys, create_api_key))
        .routes(routes!(get_api_key, revoke_api_key))
        .routes(routes!(rotate_api_key))
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
    /// What it may do in its project: `developer`, `user` or `viewer`.
    #[serde(default = "developer")]
    #[schema(default = "developer")]
    role: Role,
    /// Short name of the service account it acts for. It can do no more than that account.
    #[serde(default)]
    service_account: Option<Slug>,
    /// Names of the endpoints it may send prompts to, 1 to 100; all of its project unless given.
    #[serde(default)]
    endpoints: Option<Vec<Slug>>,
    /// The operations, or groups of operations, it may use, 1 to 100; all of its role unless given.
    #[serde(default)]
    actions: Option<Vec<String>>,
    /// Networks it may come from, such as `10.1.0.0/16`, 1 to 100; anywhere unless given.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    networks: Option<Vec<IpNet>>,
    /// When it stops working by itself.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

fn developer() -> Role {
    Role::Developer
}

/// Most endpoints, actions or networks that a key is bound to.
const MAX_BOUNDS: usize = 100;

impl CreateApiKey {
    fn check(&self, app: &App) -> Result<()> {
        if !self.role.is_of_project() {
            return Err(ApiError::field("role", "must be developer, user or viewer"));
        }
        for (field, len) in [
            ("endpoints", self.endpoints.as_ref().map(Vec::len)),
            ("actions", self.actions.as_ref().map(Vec::len)),
            ("networks", self.networks.as_ref().map(Vec::len)),
        ] {
            if len.is_some_and(|len| !(1..=MAX_BOUNDS).contains(&len)) {
                let detail = format!("must have 1 to {MAX_BOUNDS} entries; leave it out for no bound");
                return Err(ApiError::field(field, detail));
            }
        }
        match self.actions.iter().flatten().find(|name| !app.policies.names(name)) {
            Some(name) => {
                let detail = format!(
                    "names {name}, which is neither an operation of /openapi.json nor a group of them"
                );
                Err(ApiError::field("actions", detail))
            }
            None => check_expiry(self.expires_at, app.clock.now()),
        }
    }
}

fn check_expiry(at: Option<Timestamp>, now: Timestamp) -> Result<()> {
    if at.is_some_and(|at| at <= now) {
        return Err(ApiError::field("expires_at", "must be in the future"));
    }
    Ok(())
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
    new.check(&app)?;
    let secret = mint(CredentialKind::ApiKey, app.random());
    let mut change = scope.change(&app).await?;
    let project = store::projects::by_slug(&mut change, &new.project)
        .await
        .map_err(|e| missing(e, "project", "names no project of this tenant"))?;
    let service_account = match &new.service_account {
        None => None,
        Some(account) => {
            let found = store::service_accounts::by_name(&mut change, account).await;
            Some(
                found
                    .map_err(|e| missing(e, "service_account", "names no service account of this tenant"))?
                    .id,
            )
        }
    };
    let key = NewKey {
        project: project.id,
        service_account,
        role: new.role,
        endpoints: new.endpoints.as_deref(),
        actions: new.actions.as_deref(),
        networks: new.networks.as_deref(),
        rotated_from: None,
        name: &name,
        prefix: shown_prefix(&secret),
        hash: &app.pepper.hash(&secret),
        expires_at: new.expires_at,
    };
    let key = store::keys::create(&mut change, key, now).await?;
    let detail = serde_json::json!({
        "project": project.id, "prefix": key.prefix, "role": key.role, "service_account": key.service_account_id,
        "endpoints": key.endpoints, "actions": key.actions, "networks": key.networks,
    });
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

/// One key, without its secret.
#[utoipa::path(get, path = "/api/v1/api-keys/{key}", tag = "api-keys",
    params(TenantParam, ("key" = KeyId, Path, description = "Identifier")),
    responses((status = 200, body = ApiKey)))]
async fn get_api_key(
    scope: TenantScope,
    State(app): State<App>,
    Path(id): Path<KeyId>,
) -> Result<Json<ApiKey>> {
    Ok(Json(store::keys::get(&mut scope.read(&app).await?, id).await?))
}

/// How to rotate a key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateApiKey {
    /// How long the old key goes on to work, in seconds; a day unless given, 30 days at most.
    #[serde(default = "a_day")]
    #[schema(default = 86_400, maximum = 2_592_000)]
    overlap_secs: u64,
    /// When the new key stops working by itself; as the old one unless given.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

const DAY_SECS: u64 = 86_400;
const MAX_OVERLAP_SECS: u64 = 30 * DAY_SECS;

fn a_day() -> u64 {
    DAY_SECS
}

/// Rotate a key
///
/// Makes a key with the same bounds; the old one ends after the overlap. At
/// most two keys of a chain work at a time.
#[utoipa::path(post, path = "/api/v1/api-keys/{key}/rotate", tag = "api-keys",
    params(TenantParam, ("key" = KeyId, Path, description = "Identifier")),
    request_body = RotateApiKey, responses((status = 201, body = CreatedApiKey)))]
async fn rotate_api_key(
    scope: TenantScope,
    State(app): State<App>,
    Path(id): Path<KeyId>,
    Json(rotate): Json<RotateApiKey>,
) -> Result<Response> {
    let now = app.clock.now();
    if rotate.overlap_secs > MAX_OVERLAP_SECS {
        return Err(ApiError::field("overlap_secs", format!("must be at most {MAX_OVERLAP_SECS}, 30 days")));
    }
    check_expiry(rotate.expires_at, now)?;
    let secret = mint(CredentialKind::ApiKey, app.random());
    let mut change = scope.change(&app).await?;
    let chain = store::keys::lock_chain(&mut change, id, now).await?;
    let old = chain.key;
    if old.revoked_at.is_some() || old.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiError::Conflict("the key does not work any more; create another".to_owned()));
    }
    if chain.has_live_neighbour {
        let detail = "two keys of this chain work already; revoke one, or wait until the older one ends";
        return Err(ApiError::Conflict(detail.to_owned()));
    }
    let new = NewKey {
        project: old.project_id,
        service_account: old.service_account_id,
        role: old.role,
        endpoints: old.endpoints.as_deref(),
        actions: old.actions.as_deref(),
        networks: old.networks.as_deref(),
        rotated_from: Some(id),
        name: &old.name,
        prefix: shown_prefix(&secret),
        hash: &app.pepper.hash(&secret),
        expires_at: rotate.expires_at.or(old.expires_at),
    };
    let key = store::keys::create(&mut change, new, now).await?;
    let ends = now + Duration::from_secs(rotate.overlap_secs);
    store::keys::expire(&mut change, id, ends).await?;
    // Who remembers the old one must learn when it ends.
    change.revoke(id.0).await?;
    let detail = serde_json::json!({ "rotated_from": id, "prefix": key.prefix, "old_ends": ends });
    change.record(format!("key:{}", key.id), detail).await?;
    change.created(&CreatedApiKey { key, secret }).await
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
