//! Why something is allowed or not: which policies decided, on which facts.

use std::net::IpAddr;

use axum::extract::State;
use domain::PrincipalId;
use domain::principals::{Caller, Credential, Role};
use serde::{Deserialize, Serialize};
use store::credentials::TenantFacts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::policy::{Question, Resource, TenantPolicies};
use super::{Access, Scope, TenantParam};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain_access)).routes(routes!(explain_account_access))
}

/// Why a request is refused, in a sentence.
pub(super) fn refusal(app: &App, access: &Access) -> String {
    let (operation, role) = (&access.operation, access.caller.role);
    match access.decision.policies.as_slice() {
        [] => format!("the role {role} does not allow {operation}"),
        [policy] if policy == "a-new-password-comes-first" => {
            "choose a new password first: POST /api/v1/me/password".to_owned()
        }
        policies if policies.iter().any(|id| id == "suspended-tenants-begin-nothing") => {
            format!("the tenant is suspended: what runs goes on, but {operation} would begin something new")
        }
        policies if policies.iter().any(|id| id == "deleting-tenants-are-closed") => {
            format!("the tenant is being deleted, which ends {operation}")
        }
        policies
            if policies
                .iter()
                .any(|id| app.policies.text(id).is_none() && id.starts_with("restriction:")) =>
        {
            format!("{operation} is refused by the tenant's own {}", policies.join(", "))
        }
        policies => format!("{operation} is refused by the policy {}", policies.join(", ")),
    }
}

/// A decision to explain.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExplainQuery {
    /// Name of an operation of this API, e.g. `create_endpoint`.
    action: String,
    /// As if the request came from this address; the caller's own unless given.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
}

/// A decision, explained.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Explanation {
    /// The action.
    action: String,
    /// The groups of actions it is in; policies speak of these.
    groups: Vec<String>,
    /// Whether it is allowed somewhere.
    allowed: bool,
    /// The decisions: for the platform or the tenant as a whole, then for each
    /// project that the caller has a role in.
    decisions: Vec<Explained>,
    /// What the policies were told.
    facts: Facts,
    /// Version of the set of policies.
    version: String,
}

/// One decision.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Explained {
    /// `platform`, `tenant:<id>` or `project:<id>`.
    on: String,
    /// The role that counts there.
    role: Role,
    /// Whether it is allowed there.
    allowed: bool,
    /// The policies that permit or forbid it; none if nothing permits it.
    policies: Vec<ExplainedPolicy>,
}

/// A policy that decided.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ExplainedPolicy {
    /// Its name; a tenant's own begin with `restriction:`.
    id: String,
    /// Its text, in Cedar; `null` for a restriction, which the tenant can list.
    text: Option<String>,
}

/// What the policies were told.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Facts {
    /// Who, as the audit log names it.
    actor: String,
    /// `session`, `key` or `token`.
    credential: &'static str,
    /// Its role in the tenant or on the platform; of a key, in its project.
    role: Role,
    /// Whether it must choose a new password first.
    must_change_password: bool,
    /// Whether a one-time code was given at sign-in.
    one_time_code: bool,
    /// From where; `null` if that was not asked.
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Status of the tenant.
    tenant_status: Option<String>,
    /// What the key is bound to.
    key_actions: Option<Vec<String>>,
}

/// Explain what the caller may do
///
/// Which policies decide, on which facts. Nothing is done.
#[utoipa::path(get, path = "/api/v1/access/explain", tag = "access", params(TenantParam, ExplainQuery),
    responses((status = 200, body = Explanation)))]
async fn explain_access(
    scope: Scope,
    State(app): State<App>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explanation>> {
    let tenant = scope.access().tenant.as_ref();
    explain(&app, &scope.caller, tenant, &query).await.map(Json)
}

/// Explain what an account may do
///
/// As `explain_access`, of another person or service account of the same
/// tenant, or of the platform. For administrators and auditors.
#[utoipa::path(get, path = "/api/v1/accounts/{account}/access", tag = "access",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier"), ExplainQuery),
    responses((status = 200, body = Explanation)))]
async fn explain_account_access(
    scope: Scope,
    State(app): State<App>,
    Path(account): Path<PrincipalId>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explanation>> {
    let credential = Credential::Session(account.0);
    let known = store::credentials::of_principal(&mut app.store.system().await?, account, credential).await?;
    let known = known.filter(|known| known.caller.tenant == scope.tenant);
    let known = known.ok_or(ApiError::NotFound("account"))?;
    explain(&app, &known.caller, known.tenant.as_ref(), &query).await.map(Json)
}

async fn explain(
    app: &App,
    caller: &Caller,
    tenant: Option<&TenantFacts>,
    query: &ExplainQuery,
) -> Result<Explanation> {
    let (action, policies) = (query.action.as_str(), &app.policies);
    let targets = policies
        .targets(action)
        .ok_or_else(|| ApiError::field("action", "is no operation of /openapi.json"))?;
    let of_tenant = match tenant {
        Some(tenant) if policies.is_restrictable(action) => app.tenant_policies.get(app, tenant.id).await?,
        _ => policies.of_platform(),
    };
    let mut places = Vec::new();
    match tenant {
        Some(tenant) if targets.tenant || targets.project => {
            match &caller.bounds {
                Some(bounds) if targets.project => {
                    places.push((caller.role, Resource::Project(bounds.project, tenant.id, tenant.status)));
                }
                _ => places.push((caller.role, Resource::Tenant(tenant.id, tenant.status))),
            }
            if targets.project {
                places.extend(caller.memberships.iter().map(|membership| {
                    (membership.role, Resource::Project(membership.project, tenant.id, tenant.status))
                }));
            }
        }
        _ => places.push((caller.role, Resource::Platform)),
    }
    let address = query.address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let mut decisions = Vec::new();
    for (role, resource) in places {
        decisions.push(one(app, &of_tenant, Question { caller, role, action, resource, address })?);
    }
    Ok(Explanation {
        action: query.action.clone(),
        groups: policies.groups(action).into_iter().flatten().cloned().collect(),
        allowed: decisions.iter().any(|decision| decision.allowed),
        decisions,
        facts: Facts {
            actor: caller.actor(),
            credential: caller.credential.kind(),
            role: caller.role,
            must_change_password: caller.must_change_password,
            one_time_code: caller.one_time_code,
            address: query.address,
            tenant_status: tenant.map(|tenant| tenant.status.as_str().to_owned()),
            key_actions: caller.bounds.as_ref().and_then(|bounds| bounds.actions.clone()),
        },
        version: of_tenant.version().to_owned(),
    })
}

fn one(app: &App, policies: &TenantPolicies, question: Question<'_>) -> Result<Explained> {
    let answer = app.policies.decide(policies, question).map_err(ApiError::internal)?;
    let on = match question.resource {
        Resource::Platform => "platform".to_owned(),
        Resource::Tenant(id, _) => format!("tenant:{id}"),
        Resource::Project(id, ..) => format!("project:{id}"),
    };
    let texts = answer.policies.into_iter().map(|id| ExplainedPolicy { text: app.policies.text(&id), id });
    Ok(Explained { on, role: question.role, allowed: answer.allowed, policies: texts.collect() })
}
