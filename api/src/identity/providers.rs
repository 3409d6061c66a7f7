//! Registering identity providers and mapping their groups. The platform
//! registers; an administrator of a tenant maps groups.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::ProviderId;
use domain::identity::{
    GroupMapping, IdentityProvider, IssuerUrl, MAX_PROVIDERS, ProviderError, SigningAlgorithm,
    check_algorithms, check_client_id, check_groups_claim, check_mappings,
};
use domain::outbox::Topic;
use domain::tenants::Slug;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::SystemTx;
use store::identity::{EndedSession, NewProvider, ProviderChange};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{SECRET_PURPOSE, backchannel_path, callback_path, login_path};
use crate::access::{Change, IfMatch, Scope, Tagged, TenantParam};
use crate::cursor::Page;
use crate::extract::{Json, Path};
use crate::problem::{ApiError, Result};
use crate::state::App;
use crate::{fields, seal};

/// Bytes of a client's secret.
const MAX_SECRET_BYTES: usize = 1024;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_identity_providers, create_identity_provider))
        .routes(routes!(get_identity_provider, update_identity_provider, delete_identity_provider))
        .routes(routes!(set_group_mappings))
}

/// An identity provider, with what to register there.
#[derive(Serialize, utoipa::ToSchema)]
struct ShownProvider {
    #[serde(flatten)]
    provider: IdentityProvider,
    /// Path under this installation's URL that the provider must know as redirect URI.
    callback_path: String,
    /// Path under this installation's URL for the provider's back-channel logout.
    backchannel_logout_path: String,
    /// Path under this installation's URL where people begin to sign in.
    login_path: String,
}

impl From<IdentityProvider> for ShownProvider {
    fn from(provider: IdentityProvider) -> Self {
        Self {
            callback_path: callback_path(provider.id),
            backchannel_logout_path: backchannel_path(provider.id),
            login_path: login_path(provider.id),
            provider,
        }
    }
}

/// An identity provider to register.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateIdentityProvider {
    /// Short name, unique in the tenant.
    name: Slug,
    /// What a sign-in page calls it, for all to read. Default: the short name.
    #[serde(default)]
    label: Option<String>,
    /// Its issuer exactly as its tokens write it, e.g. `https://id.interior.example/realms/interior`.
    issuer: IssuerUrl,
    /// The name this installation has there.
    #[schema(min_length = 1, max_length = 255)]
    client_id: String,
    /// What proves to it who asks. None for a public client.
    #[serde(default)]
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// What `aud` of an access token must contain. Default: the client's name.
    #[serde(default)]
    audience: Option<String>,
    /// What its tokens may be signed with. Default: `RS256`.
    #[serde(default)]
    algorithms: Option<Vec<SigningAlgorithm>>,
    /// Where a token names groups: a claim, or a path such as `realm_access.roles`. Default: `groups`.
    #[serde(default)]
    groups_claim: Option<String>,
    /// What groups give. Nobody may sign in without one that matches.
    #[serde(default)]
    mappings: Vec<GroupMapping>,
}

/// What to change; what is not named stays.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
struct UpdateIdentityProvider {
    /// What a sign-in page calls it, for all to read; empty for the short name.
    label: Option<String>,
    /// The name this installation has there.
    client_id: Option<String>,
    /// What proves to it who asks; empty for a public client from now on.
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// What `aud` of an access token must contain.
    audience: Option<String>,
    /// What its tokens may be signed with.
    algorithms: Option<Vec<SigningAlgorithm>>,
    /// Where a token names groups.
    groups_claim: Option<String>,
    /// Whether it is used. Where not, nobody signs in with it, and who did is signed out.
    enabled: Option<bool>,
}

/// What groups give from now on.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupMappings {
    /// The whole list.
    #[schema(max_items = 500)]
    mappings: Vec<GroupMapping>,
}

fn wrong(field: &'static str) -> impl FnOnce(ProviderError) -> ApiError {
    move |e| ApiError::field(field, e.to_string())
}

fn sealed(app: &App, id: ProviderId, secret: &str) -> Result<Vec<u8>> {
    if !(1..=MAX_SECRET_BYTES).contains(&secret.len()) || secret.chars().any(char::is_control) {
        return Err(ApiError::field(
            "client_secret",
            format!("must have 1 to {MAX_SECRET_BYTES} bytes and no control characters"),
        ));
    }
    Ok(seal::seal(&app.pepper, SECRET_PURPOSE, id.0.as_bytes(), secret.as_bytes()))
}

/// List the identity providers of the tenant, or of the platform.
#[utoipa::path(get, path = "/api/v1/identity-providers", tag = "identity", params(TenantParam),
    responses((status = 200, body = Page<ShownProvider>)))]
async fn list_identity_providers(scope: Scope, State(app): State<App>) -> Result<Json<Page<ShownProvider>>> {
    let found = store::identity::list(&mut scope.read(&app).await?, scope.tenant).await?;
    Ok(Json(Page { items: found.into_iter().map(Into::into).collect(), next: None }))
}

/// Register an identity provider for a tenant or, without `tenant`, for the
/// platform's own people.
#[utoipa::path(post, path = "/api/v1/identity-providers", tag = "identity", params(TenantParam),
    request_body = CreateIdentityProvider, responses((status = 201, body = ShownProvider)))]
async fn create_identity_provider(
    scope: Scope,
    State(app): State<App>,
    Json(new): Json<CreateIdentityProvider>,
) -> Result<Response> {
    let label = new.label.as_deref().map(|label| fields::name("label", label)).transpose()?;
    let audience = new.audience.as_deref().unwrap_or(&new.client_id);
    let algorithms = new.algorithms.unwrap_or_else(|| vec![SigningAlgorithm::RS256]);
    let groups_claim = new.groups_claim.as_deref().unwrap_or("groups");
    check_client_id(&new.client_id).map_err(wrong("client_id"))?;
    check_client_id(audience).map_err(wrong("audience"))?;
    check_algorithms(&algorithms).map_err(wrong("algorithms"))?;
    check_groups_claim(groups_claim).map_err(wrong("groups_claim"))?;
    check_mappings(scope.tenant.is_some(), &new.mappings).map_err(wrong("mappings"))?;
    app.identity
        .fetcher
        .allowed(new.issuer.as_str())
        .map_err(|e| ApiError::field("issuer", e.to_string()))?;
    let id = ProviderId::generate();
    let secret = new.client_secret.as_deref().map(|secret| sealed(&app, id, secret)).transpose()?;
    let mut change = scope.system_change(&app).await?;
    if store::identity::list(&mut *change, scope.tenant).await?.len() >= MAX_PROVIDERS {
        return Err(ApiError::Conflict(format!(
            "a tenant has at most {MAX_PROVIDERS} identity providers; delete one first"
        )));
    }
    let new = NewProvider {
        id,
        tenant: scope.tenant,
        name: &new.name,
        label: label.as_deref().unwrap_or_default(),
        issuer: &new.issuer,
        client_id: &new.client_id,
        client_secret: secret.as_deref(),
        audience,
        algorithms: &algorithms,
        groups_claim,
        mappings: &new.mappings,
    };
    let made = store::identity::create(&mut change, new, app.clock.now()).await?;
    change.record(format!("identity_provider:{id}"), settings_of(&made)).await?;
    change.tag(made.revision);
    change.created(&ShownProvider::from(made)).await
}

/// What the audit log keeps of a provider: everything but its secret.
fn settings_of(provider: &IdentityProvider) -> serde_json::Value {
    json!({
        "name": provider.name, "label": provider.label, "issuer": provider.issuer, "client_id": provider.client_id,
        "audience": provider.audience, "algorithms": provider.algorithms,
        "groups_claim": provider.groups_claim, "mappings": provider.mappings, "enabled": provider.enabled,
    })
}

/// Show an identity provider.
#[utoipa::path(get, path = "/api/v1/identity-providers/{provider}", tag = "identity",
    params(TenantParam, ("provider" = ProviderId, Path, description = "Identifier")),
    responses((status = 200, body = ShownProvider)))]
async fn get_identity_provider(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<ProviderId>,
) -> Result<Tagged<ShownProvider>> {
    let found = store::identity::get(&mut scope.read(&app).await?, scope.tenant, id).await?;
    let revision = found.revision;
    Ok(Tagged(found.into(), revision))
}

/// Change an identity provider
///
/// Its issuer stays: another issuer is another provider, whose subjects are
/// other people.
#[utoipa::path(patch, path = "/api/v1/identity-providers/{provider}", tag = "identity",
    params(TenantParam, ("provider" = ProviderId, Path, description = "Identifier")),
    request_body = UpdateIdentityProvider, responses((status = 200, body = ShownProvider)))]
async fn update_identity_provider(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<ProviderId>,
    IfMatch(expected): IfMatch,
    Json(new): Json<UpdateIdentityProvider>,
) -> Result<Response> {
    let label = match new.label.as_deref() {
        Some(label) if !label.is_empty() => Some(fields::name("label", label)?),
        label => label.map(str::to_owned),
    };
    new.client_id.as_deref().map(check_client_id).transpose().map_err(wrong("client_id"))?;
    new.audience.as_deref().map(check_client_id).transpose().map_err(wrong("audience"))?;
    new.algorithms.as_deref().map(check_algorithms).transpose().map_err(wrong("algorithms"))?;
    new.groups_claim.as_deref().map(check_groups_claim).transpose().map_err(wrong("groups_claim"))?;
    let secret = match new.client_secret.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(secret) => Some(Some(sealed(&app, id, secret)?)),
    };
    let settings = ProviderChange {
        label: label.as_deref(),
        client_id: new.client_id.as_deref(),
        client_secret: secret.as_ref().map(Option::as_deref),
        audience: new.audience.as_deref(),
        algorithms: new.algorithms.as_deref(),
        groups_claim: new.groups_claim.as_deref(),
        mappings: None,
        enabled: new.enabled,
    };
    let mut change = scope.system_change(&app).await?;
    let now = store::identity::update(&mut change, scope.tenant, id, &settings, expected).await?;
    let mut detail = settings_of(&now);
    detail["client_secret"] = json!(if secret.is_some() { "changed" } else { "kept" });
    let ended = if now.enabled { Vec::new() } else { end_all(&app, &mut change, &now).await? };
    finish(&app, change, now, detail, ended).await
}

/// Map an identity provider's groups to roles and projects
///
/// Counts for each person at the next sign-in, and for tokens at once.
#[utoipa::path(put, path = "/api/v1/identity-providers/{provider}/mappings", tag = "identity",
    params(TenantParam, ("provider" = ProviderId, Path, description = "Identifier")),
    request_body = GroupMappings, responses((status = 200, body = ShownProvider)))]
async fn set_group_mappings(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<ProviderId>,
    IfMatch(expected): IfMatch,
    Json(new): Json<GroupMappings>,
) -> Result<Response> {
    check_mappings(scope.tenant.is_some(), &new.mappings).map_err(wrong("mappings"))?;
    let mappings = ProviderChange { mappings: Some(&new.mappings), ..ProviderChange::default() };
    let mut change = scope.system_change(&app).await?;
    let now = store::identity::update(&mut change, scope.tenant, id, &mappings, expected).await?;
    let detail = json!({ "name": now.name, "mappings": now.mappings });
    finish(&app, change, now, detail, Vec::new()).await
}

/// Records, and lets tokens and ended sessions be forgotten everywhere.
async fn finish(
    app: &App,
    mut change: Change<SystemTx>,
    now: IdentityProvider,
    detail: serde_json::Value,
    ended: Vec<EndedSession>,
) -> Result<Response> {
    change.record(format!("identity_provider:{}", now.id), detail).await?;
    change.revoke(now.id.0).await?;
    change.tag(now.revision);
    let response = change.ok(&ShownProvider::from(now)).await?;
    for session in ended {
        app.credentials.forget(session.id);
    }
    Ok(response)
}

async fn end_all(
    app: &App,
    change: &mut Change<SystemTx>,
    provider: &IdentityProvider,
) -> Result<Vec<EndedSession>> {
    Ok(store::identity::end_sessions(&mut *change, provider, None, None, app.clock.now()).await?)
}

/// Delete an identity provider, and the accounts of the people it vouches for.
#[utoipa::path(delete, path = "/api/v1/identity-providers/{provider}", tag = "identity",
    params(TenantParam, ("provider" = ProviderId, Path, description = "Identifier")),
    responses((status = 204)))]
async fn delete_identity_provider(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<ProviderId>,
) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    let provider = store::identity::get(&mut *change, scope.tenant, id).await?;
    let ended = end_all(&app, &mut change, &provider).await?;
    let accounts = store::identity::delete(&mut change, scope.tenant, id, None).await?;
    let detail = json!({ "name": provider.name, "issuer": provider.issuer, "accounts": accounts });
    change.record(format!("identity_provider:{id}"), detail).await?;
    change.publish(Topic::Credentials, id).await?;
    let response = change.done().await?;
    app.credentials.forget(id.0);
    app.identity.keys.forget(&provider.issuer);
    for session in ended {
        app.credentials.forget(session.id);
    }
    Ok(response.into_response())
}
