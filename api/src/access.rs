//! Access: the one layer that every request of the public listener passes.
//! It finds the operation, who calls, where it acts and what the policies say,
//! and leaves that for the handler; what no policy permits never reaches one.

mod change;
pub(crate) mod conventions;
pub(crate) mod explain;
pub mod policy;
mod rates;
mod restrictions;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::audit::{AuditEvent, Verdict};
use domain::principals::Caller;
use domain::tenants::{Slug, TenantStatus};
use domain::{ProjectId, TenantId};
use ipnet::IpNet;
use store::credentials::TenantFacts;
use store::{AnyTx, StoreError, TenantTx, Tx};

use crate::auth::authenticate;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub use change::Change;
use conventions::Claim;
pub use conventions::{IfMatch, Kept, Tagged};
use policy::{Answer, Question, Resource, Targets};
pub use policy::{Policies, PolicyError};
pub use rates::Rates;
pub(crate) use restrictions::TenantPolicyCache;

/// Routes.
pub(crate) fn router() -> utoipa_axum::router::OpenApiRouter<App> {
    explain::router().merge(restrictions::router())
}

/// What only reads and is recorded all the same where it is refused: content
/// would have left.
const RECORDED_READS: [&str; 1] = ["export_tenant"];
/// Longest part of a path that a refused act's record keeps.
const MAX_OBJECT_BYTES: usize = 200;

/// An operation of the API document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Its `operationId`, which is the name of its action.
    pub name: Arc<str>,
    /// It asks for no credential.
    pub public: bool,
}

/// The operations by method and route, as in the API document.
#[derive(Clone, Debug)]
pub(crate) struct Operations(Arc<HashMap<String, HashMap<Method, Operation>>>);

impl Operations {
    pub(crate) fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let mut routes: HashMap<String, HashMap<Method, Operation>> = HashMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in crate::openapi::operations(item) {
                let name = operation.operation_id.as_deref().unwrap_or_default().into();
                let public = crate::openapi::is_public(operation);
                routes.entry(path.clone()).or_default().insert(method, Operation { name, public });
            }
        }
        Self(Arc::new(routes))
    }

    /// Every operation that asks for a credential must be an action of the
    /// schema, and every action an operation.
    pub(crate) fn check(&self, policies: &Policies) -> Result<(), PolicyError> {
        let guarded: std::collections::BTreeSet<&str> =
            self.0.values().flat_map(HashMap::values).filter(|o| !o.public).map(|o| &*o.name).collect();
        policy::same_names(&guarded, policies)
    }

    /// A route below the API that is in no document has nobody to guard it.
    fn is_hidden(&self, route: &str) -> bool {
        (route.starts_with("/api/") || route.starts_with("/v1/")) && !self.0.contains_key(route)
    }

    fn find(&self, route: &str, method: &Method) -> Option<&Operation> {
        let methods = self.0.get(route)?;
        methods.get(if *method == Method::HEAD { &Method::GET } else { method })
    }
}

/// What the layer found out about a request.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who.
    pub caller: Caller,
    /// Where it acts; `None` is the platform.
    pub tenant: Option<TenantFacts>,
    /// The projects it may touch; `None` for all of the tenant.
    projects: Option<Vec<ProjectId>>,
    /// The operation.
    pub operation: Arc<str>,
    /// Why it is allowed.
    decision: Answer,
    /// Its Idempotency-Key.
    claim: Option<Claim>,
}

/// A caller that may do this, on the platform or in a tenant.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Who.
    pub caller: Caller,
    /// In which tenant; `None` is the platform.
    pub tenant: Option<TenantId>,
    access: Arc<Access>,
}

/// A caller that may do this in a tenant: its own, or for people of the
/// platform the one named by `?tenant=SLUG` or in the path.
#[derive(Clone, Debug)]
pub struct TenantScope {
    /// Who.
    pub caller: Caller,
    /// In which tenant.
    pub tenant: TenantId,
    access: Arc<Access>,
}

/// The tenant to act in.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameter that the access layer reads")]
pub struct TenantParam {
    /// Short name of the tenant to act in, for people of the platform; everyone else acts in its own.
    tenant: Option<Slug>,
}

impl FromRequestParts<App> for Scope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let access = parts.extensions.get::<Arc<Access>>();
        let access = access.ok_or_else(|| ApiError::internal("a handler outside of the access layer"))?;
        Ok(Self {
            caller: access.caller.clone(),
            tenant: access.tenant.as_ref().map(|tenant| tenant.id),
            access: Arc::clone(access),
        })
    }
}

impl FromRequestParts<App> for TenantScope {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let Scope { caller, tenant, access } = Scope::from_request_parts(parts, app).await?;
        let tenant = tenant.ok_or_else(no_tenant)?;
        Ok(Self { caller, tenant, access })
    }
}

fn no_tenant() -> ApiError {
    ApiError::Malformed("name the tenant to act in with ?tenant=SLUG".to_owned())
}

impl Scope {
    /// A transaction to read in: the tenant's, or the system's on the platform.
    pub async fn read(&self, app: &App) -> Result<AnyTx> {
        self.access.any_tx(app).await
    }

    /// Begins a mutation in the tenant, or on the platform.
    pub async fn change(&self, app: &App) -> Result<Change<AnyTx>> {
        Change::begin(app, &self.access, self.read(app).await?).await
    }

    /// Begins a mutation of what belongs to the system, though the act is in
    /// this scope: accounts and tenants themselves.
    pub async fn system_change(&self, app: &App) -> Result<Change<store::SystemTx>> {
        Change::begin(app, &self.access, app.store.system().await?).await
    }

    /// What the layer found out.
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl TenantScope {
    /// A transaction on the tenant's rows that the caller may touch.
    pub async fn read(&self, app: &App) -> Result<TenantTx> {
        Ok(app.store.tenant_projects(self.tenant, self.access.projects.as_deref()).await?)
    }

    /// Begins a mutation in the tenant.
    pub async fn change(&self, app: &App) -> Result<Change<TenantTx>> {
        Change::begin(app, &self.access, self.read(app).await?).await
    }

    /// Begins a mutation of what belongs to the system, though the act is in
    /// this tenant.
    pub async fn system_change(&self, app: &App) -> Result<Change<store::SystemTx>> {
        Change::begin(app, &self.access, app.store.system().await?).await
    }

    /// What the layer found out.
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl Access {
    async fn any_tx(&self, app: &App) -> Result<AnyTx> {
        Ok(match &self.tenant {
            Some(tenant) => {
                AnyTx::Tenant(app.store.tenant_projects(tenant.id, self.projects.as_deref()).await?)
            }
            None => AnyTx::System(app.store.system().await?),
        })
    }

    /// Whether it may touch that project of its tenant.
    pub fn reaches(&self, project: ProjectId) -> bool {
        self.projects.as_ref().is_none_or(|projects| projects.contains(&project))
    }

    /// An audit event of this act.
    fn event(&self, app: &App, object: String, verdict: Verdict) -> AuditEvent {
        let tenant = self.tenant.as_ref().map(|tenant| tenant.id);
        let actor = self.caller.actor();
        AuditEvent {
            credential: Some(self.caller.credential.to_string()),
            policy: Some(self.decision.in_short()),
            verdict,
            ..store::audit::allowed(tenant, app.clock.now(), actor, &self.operation, object)
        }
    }
}

/// The layer.
pub(crate) async fn control(
    State((app, operations)): State<(App, Operations)>,
    mut request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    let Some(operation) = operations.find(route, &method) else {
        // What is not in the document: a method that its route does not know,
        // which the router refuses, and the portal's assets, for all to read.
        if operations.is_hidden(route) {
            return ApiError::NotFound("path").into_response();
        }
        return next.run(request).await;
    };
    if operation.public {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let (access, refusal) = match enter(&app, operation, route, &mut request).await {
        Ok(Entered::Allowed(access)) => (access, None),
        Ok(Entered::Denied(access, e)) => (access, Some(e)),
        Err(e) => return e.into_response(),
    };
    let response = match refusal {
        Some(e) => e.into_response(),
        None => {
            request.extensions_mut().insert(Arc::clone(&access));
            next.run(request).await
        }
    };
    let recorded =
        !matches!(method, Method::GET | Method::HEAD) || RECORDED_READS.contains(&&*access.operation);
    let refused = matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
    if !(recorded && refused) {
        return response;
    }
    match record_refusal(&app, &access, &path, response.status()).await {
        Ok(()) => response,
        // What cannot be recorded is not answered as if it were.
        Err(e) => ApiError::from(e).into_response(),
    }
}

enum Entered {
    Allowed(Arc<Access>),
    Denied(Arc<Access>, ApiError),
}

async fn enter(app: &App, operation: &Operation, route: &str, request: &mut Request) -> Result<Entered> {
    let (mut parts, body) = std::mem::take(request).into_parts();
    let address = client_address(&parts, &app.settings.trusted_proxies);
    let known = authenticate(&mut parts, address, app).await?;
    app.rates.check(&known.caller, app.settings.requests_per_minute, app.clock.now())?;
    if let (Some(project), Some(per_minute)) = (known.caller.project(), known.requests_per_minute) {
        app.rates.check_project(project, per_minute, app.clock.now())?;
    }
    let targets = app.policies.targets(&operation.name).unwrap_or_default();
    let mut access = Access {
        tenant: known.tenant,
        projects: None,
        operation: Arc::clone(&operation.name),
        decision: Answer { allowed: false, policies: Vec::new(), version: "".into() },
        claim: None,
        caller: known.caller,
    };
    if let Err(e) = crate::auth::check_forgery(&parts, &access.caller, app) {
        return denied_after(access, e);
    }
    if let Some(named) = named_tenant(route, &parts.uri)? {
        access.tenant = match &access.tenant {
            Some(own) if own.slug == named => access.tenant,
            Some(_) => {
                return denied_after(access, ApiError::NotFound("tenant"));
            }
            None if targets.tenant => {
                let found = store::credentials::tenant_by_slug(&mut app.store.system().await?, &named).await;
                let found = match found {
                    Ok(tenant) => Some(tenant),
                    Err(StoreError::NotFound(_)) => None,
                    Err(e) => return Err(e.into()),
                };
                // Whether it exists is not for those who may do this in no tenant.
                if let Some(decision) = refused_everywhere(app, &access, address)? {
                    (access.tenant, access.decision) = (found, decision);
                    let e = ApiError::Forbidden(explain::refusal(app, &access));
                    return denied_after(access, e);
                }
                if found.is_none() {
                    return denied_after(access, ApiError::NotFound("tenant"));
                }
                found
            }
            None => None,
        };
    }
    if access.tenant.is_none() && !targets.platform {
        return Err(no_tenant());
    }
    decide(app, &mut access, targets, address).await?;
    if let Some(bounds) = &access.caller.bounds
        && !bounds.allows_address(address)
    {
        access.decision.allowed = false;
        access.decision.policies = vec!["keys-keep-to-their-networks".to_owned()];
    }
    if !access.decision.allowed {
        let e = ApiError::Forbidden(explain::refusal(app, &access));
        return denied_after(access, e);
    }
    let (parts, body, claim) = conventions::enter(app, &access, parts, body).await?;
    access.claim = claim;
    *request = Request::from_parts(parts, body);
    Ok(Entered::Allowed(Arc::new(access)))
}

#[expect(clippy::unnecessary_wraps, reason = "the way out of `enter`, which may also fail")]
fn denied_after(access: Access, e: ApiError) -> Result<Entered> {
    Ok(Entered::Denied(Arc::new(access), e))
}

/// The decision on somebody of the platform who may do this in no tenant,
/// whichever it is and in whatever state.
fn refused_everywhere(app: &App, access: &Access, address: IpAddr) -> Result<Option<Answer>> {
    let policies = app.policies.of_platform();
    let ask = |status| {
        let resource = Resource::Tenant(TenantId(uuid::Uuid::nil()), status);
        let (caller, action) = (&access.caller, &*access.operation);
        let question = Question { caller, role: caller.role, action, resource, address };
        app.policies.decide(&policies, question).map_err(ApiError::internal)
    };
    let decision = ask(TenantStatus::Active)?;
    Ok((!decision.allowed && !ask(TenantStatus::Suspended)?.allowed).then_some(decision))
}

/// Asks the policies: for the tenant as a whole, and where that is not allowed
/// for each project that the caller has a role in.
async fn decide(app: &App, access: &mut Access, targets: Targets, address: IpAddr) -> Result<()> {
    let caller = &access.caller;
    let policies = match &access.tenant {
        Some(tenant) if app.policies.is_restrictable(&access.operation) => {
            app.tenant_policies.get(app, tenant.id).await?
        }
        _ => app.policies.of_platform(),
    };
    let question = |role, resource| Question { caller, role, action: &access.operation, resource, address };
    let ask =
        |role, resource| app.policies.decide(&policies, question(role, resource)).map_err(ApiError::internal);
    let Some(tenant) = access.tenant.as_ref().filter(|_| targets.tenant || targets.project) else {
        access.decision = ask(caller.role, Resource::Platform)?;
        return Ok(());
    };
    if let Some(bounds) = &caller.bounds {
        let resource = if targets.project {
            Resource::Project(bounds.project, tenant.id, tenant.status)
        } else {
            Resource::Tenant(tenant.id, tenant.status)
        };
        access.decision = ask(caller.role, resource)?;
        access.projects = Some(vec![bounds.project]);
        return Ok(());
    }
    access.decision = ask(caller.role, Resource::Tenant(tenant.id, tenant.status))?;
    if access.decision.allowed || !targets.project {
        return Ok(());
    }
    let mut allowed = Vec::new();
    for membership in caller.memberships.iter() {
        let answer = ask(membership.role, Resource::Project(membership.project, tenant.id, tenant.status))?;
        if answer.allowed {
            allowed.push(membership.project);
            access.decision = answer;
        }
    }
    access.projects = Some(allowed);
    Ok(())
}

/// The tenant that the path or the query string names.
fn named_tenant(route: &str, uri: &Uri) -> Result<Option<Slug>> {
    // A text that is no slug names no tenant.
    let parse = |text: &str| text.parse().map_err(|_| ApiError::NotFound("tenant"));
    let place = route.split('/').position(|segment| segment == "{tenant}");
    if let Some(segment) = place.and_then(|place| uri.path().split('/').nth(place)) {
        return parse(segment).map(Some);
    }
    let query = uri.query().unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "tenant");
    named.map(|(_, slug)| parse(&slug)).transpose()
}

/// Where a request comes from: the peer, or what a trusted proxy says.
pub(crate) fn client_address(parts: &Parts, trusted: &[IpNet]) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip().to_canonical());
    forwarded(&parts.headers, peer, trusted)
}

/// The last address in `X-Forwarded-For` that is no trusted proxy's own.
fn forwarded(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut address = peer;
    let values = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.into_iter().rev() {
        if !is_trusted(&address) {
            break;
        }
        let Ok(next) = hop.parse::<IpAddr>() else { break };
        address = next.to_canonical();
    }
    address
}

async fn record_refusal(
    app: &App,
    access: &Access,
    path: &str,
    status: StatusCode,
) -> Result<(), StoreError> {
    let path = &path[..path.floor_char_boundary(MAX_OBJECT_BYTES)];
    let mut event = access.event(app, format!("path:{path}"), Verdict::Denied);
    event.detail = serde_json::json!({ "status": status.as_u16() });
    let mut tx = match &access.tenant {
        Some(tenant) => AnyTx::Tenant(app.store.tenant(tenant.id).await?),
        None => AnyTx::System(app.store.system().await?),
    };
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "198.51.100.9, 203.0.113.7, 10.0.0.2".parse().unwrap());
        let from =
            |peer: &str, trusted: &[IpNet]| forwarded(&headers, peer.parse().unwrap(), trusted).to_string();
        assert_eq!(from("192.0.2.1", &trusted), "192.0.2.1", "a stranger says what it likes");
        assert_eq!(
            from("10.0.0.1", &trusted),
            "203.0.113.7",
            "what stands before it was the client's to write"
        );
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_path_names_a_tenant_before_the_query() {
        let named = |route, uri: &str| {
            named_tenant(route, &uri.parse().unwrap()).unwrap().map(|slug: Slug| slug.to_string())
        };
        assert_eq!(
            named("/api/v1/tenants/{tenant}", "/api/v1/tenants/health?tenant=x").as_deref(),
            Some("health")
        );
        assert_eq!(named("/api/v1/jobs", "/api/v1/jobs?limit=2&tenant=health").as_deref(), Some("health"));
        assert_eq!(named("/api/v1/jobs", "/api/v1/jobs"), None);
    }
}
