//! Restrictions: what a tenant forbids itself. The policies of a tenant with
//! its restrictions are read once and kept until a change is heard of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::response::Response;
use domain::outbox::Topic;
use domain::restrictions::{MAX, MAX_POLICY_BYTES, Restriction};
use domain::tenants::Slug;
use domain::{TenantId, Timestamp};
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::policy::TenantPolicies;
use super::{TenantParam, TenantScope};
use crate::cursor::Page;
use crate::extract::{Json, Path};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_restrictions, create_restriction))
        .routes(routes!(delete_restriction))
}

/// List what the tenant forbids itself.
#[utoipa::path(get, path = "/api/v1/access/restrictions", tag = "access", params(TenantParam),
    responses((status = 200, body = Page<Restriction>)))]
async fn list_restrictions(scope: TenantScope, State(app): State<App>) -> Result<Json<Page<Restriction>>> {
    let items = store::restrictions::list(&mut scope.read(&app).await?).await?;
    Ok(Json(Page { items, next: None }))
}

/// A restriction to add.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateRestriction {
    /// Short name, unique in the tenant.
    name: Slug,
    /// What it is for.
    description: String,
    /// One Cedar policy that forbids, e.g. `forbid (principal is Key, action, resource);`.
    #[schema(max_length = 4096)]
    policy: String,
}

/// Add a restriction
///
/// It can only take away. It holds from now on for every request in the tenant.
#[utoipa::path(post, path = "/api/v1/access/restrictions", tag = "access", params(TenantParam),
    request_body = CreateRestriction, responses((status = 201, body = Restriction)))]
async fn create_restriction(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateRestriction>,
) -> Result<Response> {
    let description = fields::name("description", &new.description)?;
    if new.policy.len() > MAX_POLICY_BYTES {
        return Err(ApiError::field("policy", format!("must have at most {MAX_POLICY_BYTES} bytes")));
    }
    app.policies.restriction(&new.policy).map_err(|e| ApiError::field("policy", e.to_string()))?;
    let mut change = scope.change(&app).await?;
    if store::restrictions::list(&mut change).await?.len() >= MAX {
        return Err(ApiError::Conflict(format!("a tenant has at most {MAX} restrictions; delete one first")));
    }
    let now = app.clock.now();
    let made = store::restrictions::create(&mut change, &new.name, &description, &new.policy, now).await?;
    change
        .record(format!("restriction:{}", made.id), json!({ "name": made.name, "policy": made.policy }))
        .await?;
    change.publish(Topic::Tenants, scope.tenant).await?;
    let response = change.created(&made).await?;
    app.tenant_policies.forget(scope.tenant);
    Ok(response)
}

/// Take a restriction away.
#[utoipa::path(delete, path = "/api/v1/access/restrictions/{restriction}", tag = "access",
    params(TenantParam, ("restriction" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_restriction(
    scope: TenantScope,
    State(app): State<App>,
    Path(name): Path<Slug>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let id = store::restrictions::delete(&mut change, &name).await?;
    change.record(format!("restriction:{id}"), json!({ "name": name })).await?;
    change.publish(Topic::Tenants, scope.tenant).await?;
    let response = change.done().await?;
    app.tenant_policies.forget(scope.tenant);
    Ok(response)
}

/// Tenants kept at once.
const MAX_TENANTS: usize = 10_000;

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct TenantPolicyCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_tenant: HashMap<TenantId, (TenantPolicies, Timestamp)>,
    /// Counts invalidations: what was read before one is not kept after it.
    epoch: u64,
    /// Whether changes are heard; if not, nothing is kept.
    listening: bool,
}

impl TenantPolicyCache {
    /// The policies that hold in a tenant.
    pub(super) async fn get(&self, app: &App, tenant: TenantId) -> Result<TenantPolicies> {
        let now = app.clock.now();
        let epoch = {
            let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((policies, read_at)) = entries.by_tenant.get(&tenant)
                && now.since(*read_at) < app.settings.credential_cache_ttl()
            {
                return Ok(policies.clone());
            }
            entries.epoch
        };
        let restrictions = store::restrictions::list(&mut app.store.tenant(tenant).await?).await?;
        let policies = app.policies.of_tenant(&restrictions).map_err(ApiError::internal)?;
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.listening && entries.epoch == epoch {
            if entries.by_tenant.len() >= MAX_TENANTS {
                entries.by_tenant.clear();
            }
            entries.by_tenant.insert(tenant, (policies.clone(), now));
        }
        Ok(policies)
    }

    /// Forgets a tenant.
    pub(crate) fn forget(&self, tenant: TenantId) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.epoch += 1;
        entries.by_tenant.remove(&tenant);
    }

    /// Forgets everything; `listening` says whether changes are heard from now on.
    pub(crate) fn reset(&self, listening: bool) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.epoch += 1;
        entries.by_tenant.clear();
        entries.listening = listening;
    }
}
