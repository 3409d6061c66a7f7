//! Service accounts: a program's own principal in a tenant, which acts with API
//! keys and is a member of projects.

use axum::extract::State;
use axum::response::Response;
use domain::principals::{Principal, Role};
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;
use store::principals::PrincipalChange;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{IfMatch, Tagged, TenantParam, TenantScope};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_service_accounts, create_service_account)).routes(routes!(
        get_service_account,
        update_service_account,
        delete_service_account
    ))
}

/// The tenant's service accounts, by name.
#[utoipa::path(get, path = "/api/v1/service-accounts", tag = "service-accounts",
    params(TenantParam, PageQuery), responses((status = 200, body = Page<Principal>)))]
async fn list_service_accounts(
    scope: TenantScope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Principal>>> {
    let paging =
        page.of(List { name: "service-accounts", tenant: Some(scope.tenant), pepper: &app.pepper })?;
    let after: Option<String> = paging.after()?;
    let mut tx = scope.read(&app).await?;
    let rows = store::service_accounts::list(&mut tx, after.as_deref(), paging.fetch()).await?;
    Ok(Json(paging.page(rows, |account| account.login.clone())))
}

/// A service account to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateServiceAccount {
    /// Short name, unique in the tenant.
    name: Slug,
    /// Name for people; the short name unless given.
    #[serde(default)]
    display_name: Option<String>,
    /// `developer`, `user` or `viewer` in the whole tenant, or `member`: only what its projects give.
    #[serde(default = "member")]
    #[schema(default = "member")]
    role: Role,
}

fn member() -> Role {
    Role::Member
}

fn check_role(role: Role) -> Result<()> {
    if role.is_of_project() || role == Role::Member {
        return Ok(());
    }
    Err(ApiError::field("role", "must be member, developer, user or viewer"))
}

/// Create a service account. For administrators of the tenant.
#[utoipa::path(post, path = "/api/v1/service-accounts", tag = "service-accounts", params(TenantParam),
    request_body = CreateServiceAccount, responses((status = 201, body = Principal)))]
async fn create_service_account(
    scope: TenantScope,
    State(app): State<App>,
    Json(new): Json<CreateServiceAccount>,
) -> Result<Response> {
    check_role(new.role)?;
    let display_name =
        fields::name("display_name", new.display_name.as_deref().unwrap_or(new.name.as_str()))?;
    let mut change = scope.change(&app).await?;
    let now = app.clock.now();
    let made = store::service_accounts::create(&mut change, &new.name, &display_name, new.role, now).await?;
    let detail = json!({ "name": new.name, "role": new.role });
    change.record(format!("principal:{}", made.id), detail).await?;
    change.tag(made.revision);
    change.created(&made).await
}

/// One service account, by its short name.
#[utoipa::path(get, path = "/api/v1/service-accounts/{name}", tag = "service-accounts",
    params(TenantParam, ("name" = Slug, Path, description = "Short name")),
    responses((status = 200, body = Principal)))]
async fn get_service_account(
    scope: TenantScope,
    State(app): State<App>,
    Path(name): Path<Slug>,
) -> Result<Tagged<Principal>> {
    let account = store::service_accounts::by_name(&mut scope.read(&app).await?, &name).await?;
    let revision = account.revision;
    Ok(Tagged(account, revision))
}

/// What to change of a service account; what is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateServiceAccount {
    /// Name for people.
    #[serde(default)]
    display_name: Option<String>,
    /// `member`, `developer`, `user` or `viewer`.
    #[serde(default)]
    role: Option<Role>,
    /// `true`: none of its keys works any more, until `false`.
    #[serde(default)]
    disabled: Option<bool>,
}

/// Change a service account
///
/// It counts for all its keys, everywhere within a second.
#[utoipa::path(patch, path = "/api/v1/service-accounts/{name}", tag = "service-accounts",
    params(TenantParam, ("name" = Slug, Path, description = "Short name")),
    request_body = UpdateServiceAccount, responses((status = 200, body = Principal)))]
async fn update_service_account(
    scope: TenantScope,
    State(app): State<App>,
    Path(name): Path<Slug>,
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateServiceAccount>,
) -> Result<Response> {
    let display_name =
        update.display_name.as_deref().map(|name| fields::name("display_name", name)).transpose()?;
    update.role.map_or(Ok(()), check_role)?;
    let mut change = scope.change(&app).await?;
    let id = store::service_accounts::by_name(&mut change, &name).await?.id;
    let fields = PrincipalChange {
        display_name: display_name.as_deref(),
        role: update.role,
        disabled: update.disabled,
    };
    let account = store::principals::update(&mut *change, id, fields, expected, app.clock.now()).await?;
    change.revoke(id.0).await?;
    let detail = json!({ "name": name, "role": update.role, "disabled": update.disabled });
    change.record(format!("principal:{id}"), detail).await?;
    change.tag(account.revision);
    change.ok(&account).await
}

/// Delete a service account
///
/// Its keys are revoked.
#[utoipa::path(delete, path = "/api/v1/service-accounts/{name}", tag = "service-accounts",
    params(TenantParam, ("name" = Slug, Path, description = "Short name")), responses((status = 204)))]
async fn delete_service_account(
    scope: TenantScope,
    State(app): State<App>,
    Path(name): Path<Slug>,
) -> Result<Response> {
    let mut change = scope.change(&app).await?;
    let id = store::service_accounts::by_name(&mut change, &name).await?.id;
    let keys = store::keys::revoke_of(&mut change, id, app.clock.now()).await?;
    store::service_accounts::delete(&mut change, id).await?;
    change.revoke(id.0).await?;
    change.record(format!("principal:{id}"), json!({ "name": name, "revoked_keys": keys })).await?;
    change.done().await
}
