//! Local accounts.

use axum::extract::State;
use axum::response::Response;
use domain::principals::{Principal, Role};
use domain::{PrincipalId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::SystemTx;
use store::principals::{NewPrincipal, PrincipalChange};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Change, IfMatch, Scope, Tagged, TenantParam};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::problem::{ApiError, Result};
use crate::sessions::{end_all, password_matches, person};
use crate::state::App;
use crate::{fields, one_time_codes, passwords};

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_accounts, create_account))
        .routes(routes!(get_account, update_account, delete_account))
        .routes(routes!(reset_password))
        .routes(routes!(reset_one_time_code))
        .routes(routes!(end_account_sessions))
        .routes(routes!(change_password))
}

/// Accounts of the tenant, or of the platform, newest first. For administrators.
#[utoipa::path(get, path = "/api/v1/accounts", tag = "accounts", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<Principal>)))]
async fn list_accounts(
    scope: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Principal>>> {
    let paging = page.of(List { name: "accounts", tenant: scope.tenant, pepper: &app.pepper })?;
    let mut tx = app.store.system().await?;
    let rows = store::principals::list(&mut tx, scope.tenant, paging.after()?, paging.fetch()).await?;
    Ok(Json(paging.page(rows, |principal| principal.id.to_string())))
}

/// An account to create.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateAccount {
    /// What the person signs in with, such as `name@ministry`; in a tenant it ends with `@` and the tenant's
    /// short name.
    login: String,
    /// Name for people.
    display_name: String,
    /// At least 12 characters.
    #[schema(format = Password, min_length = 12)]
    password: String,
    /// In a tenant `tenant_admin`, `auditor`, `developer`, `user`, `viewer` or `member`; on the platform
    /// `platform_admin`, `model_approver` or `auditor`.
    role: Role,
    /// Whether the person must choose another password before anything else.
    #[serde(default)]
    must_change_password: bool,
}

/// Create an account in the tenant or, by a platform administrator without
/// `tenant`, on the platform. For administrators.
#[utoipa::path(post, path = "/api/v1/accounts", tag = "accounts", params(TenantParam),
    request_body = CreateAccount, responses((status = 201, body = Principal)))]
async fn create_account(
    scope: Scope,
    State(app): State<App>,
    Json(new): Json<CreateAccount>,
) -> Result<Response> {
    check_role(scope.tenant, new.role)?;
    let slug = scope.access().tenant.as_ref().map(|tenant| &tenant.slug);
    let login = fields::login_of(slug, &new.login)?;
    let display_name = fields::name("display_name", &new.display_name)?;
    passwords::check_new("password", &new.password, &login)?;
    let password_hash = app.passwords.hash(&new.password).await?;
    let principal = NewPrincipal {
        tenant: scope.tenant,
        login: &login,
        display_name: &display_name,
        role: new.role,
        password_hash: &password_hash,
        must_change_password: new.must_change_password,
    };
    let mut change = scope.system_change(&app).await?;
    let principal = store::principals::create(&mut change, principal, app.clock.now()).await?;
    let detail = serde_json::json!({ "login": principal.login, "role": principal.role });
    change.record(format!("principal:{}", principal.id), detail).await?;
    change.tag(principal.revision);
    change.created(&principal).await
}

fn check_role(tenant: Option<TenantId>, role: Role) -> Result<()> {
    match tenant {
        None if role.is_of_platform() => Ok(()),
        Some(_) if role.is_of_tenant() => Ok(()),
        None => Err(ApiError::field("role", "belongs to a tenant: name it with ?tenant=SLUG")),
        Some(_) => Err(ApiError::field("role", "is one of the platform's, not of a tenant")),
    }
}

/// One account of the tenant, or of the platform.
#[utoipa::path(get, path = "/api/v1/accounts/{account}", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    responses((status = 200, body = Principal)))]
async fn get_account(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
) -> Result<Tagged<Principal>> {
    let account = store::principals::person(&mut app.store.system().await?, scope.tenant, id).await?;
    let revision = account.revision;
    Ok(Tagged(account, revision))
}

/// What to change of an account; what is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateAccount {
    /// Name for people.
    #[serde(default)]
    display_name: Option<String>,
    /// What it may do.
    #[serde(default)]
    role: Option<Role>,
    /// `true`: it may do nothing any more, and its sessions end. `false`: it may sign in again.
    #[serde(default)]
    disabled: Option<bool>,
}

/// Change an account
///
/// It counts everywhere within a second.
#[utoipa::path(patch, path = "/api/v1/accounts/{account}", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    request_body = UpdateAccount, responses((status = 200, body = Principal)))]
async fn update_account(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
    IfMatch(expected): IfMatch,
    Json(update): Json<UpdateAccount>,
) -> Result<Response> {
    let display_name =
        update.display_name.as_deref().map(|name| fields::name("display_name", name)).transpose()?;
    if let Some(role) = update.role {
        check_role(scope.tenant, role)?;
    }
    let mut change = scope.system_change(&app).await?;
    let account = store::principals::person(&mut change, scope.tenant, id).await?;
    let disables = update.disabled == Some(true);
    if scope.caller.principal == Some(id)
        && (disables || update.role.is_some_and(|role| role != account.role))
    {
        return Err(ApiError::Conflict("nobody disables itself or takes its own role away".to_owned()));
    }
    if disables || update.role.is_some_and(|role| role != Role::PlatformAdmin) {
        keep_an_administrator(&mut change, &account).await?;
    }
    let fields = PrincipalChange {
        display_name: display_name.as_deref(),
        role: update.role,
        disabled: update.disabled,
    };
    let account = store::principals::update(&mut *change, id, fields, expected, app.clock.now()).await?;
    if disables {
        end_all(&mut change, &app, id, None).await?;
    } else {
        change.revoke(id.0).await?;
    }
    let detail =
        json!({ "role": update.role, "disabled": update.disabled, "display_name": display_name.is_some() });
    change.record(format!("principal:{id}"), detail).await?;
    change.tag(account.revision);
    change.ok(&account).await
}

/// The platform keeps an administrator that can sign in.
async fn keep_an_administrator(change: &mut Change<SystemTx>, account: &Principal) -> Result<()> {
    if account.role == Role::PlatformAdmin
        && !store::principals::has_other_platform_admin(change, account.id).await?
    {
        return Err(ApiError::Conflict(
            "it is the last administrator of the platform; create another first".to_owned(),
        ));
    }
    Ok(())
}

/// Delete an account
///
/// Its sessions end. What it did stays in the audit log.
#[utoipa::path(delete, path = "/api/v1/accounts/{account}", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    responses((status = 204)))]
async fn delete_account(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    let account = store::principals::person(&mut change, scope.tenant, id).await?;
    if scope.caller.principal == Some(id) {
        return Err(ApiError::Conflict("nobody deletes itself; ask another administrator".to_owned()));
    }
    keep_an_administrator(&mut change, &account).await?;
    store::principals::delete(&mut change, id).await?;
    change.revoke(id.0).await?;
    change.record(format!("principal:{id}"), json!({ "login": account.login })).await?;
    change.done().await
}

/// A password to give.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ResetPassword {
    /// At least 12 characters; one is made unless given.
    #[serde(default)]
    #[schema(format = Password, min_length = 12)]
    password: Option<String>,
}

/// An account with its new password.
#[derive(Serialize, utoipa::ToSchema)]
struct PasswordReset {
    /// The account.
    account: Principal,
    /// The password that was made, which is never shown again; `null` if one was given.
    password: Option<String>,
}

/// Random bytes of a password that is made.
const PASSWORD_BYTES: usize = 12;

/// Reset an account's password
///
/// Its sessions end, and the person must choose another at the next sign-in.
#[utoipa::path(post, path = "/api/v1/accounts/{account}/password", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    request_body = ResetPassword, responses((status = 200, body = PasswordReset)))]
async fn reset_password(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
    Json(reset): Json<ResetPassword>,
) -> Result<Response> {
    let account = store::principals::person(&mut app.store.system().await?, scope.tenant, id).await?;
    let made = reset.password.is_none().then(|| hex::encode(app.random::<PASSWORD_BYTES>()));
    let password = reset.password.or_else(|| made.clone()).unwrap_or_default();
    passwords::check_new("password", &password, &account.login)?;
    let hash = app.passwords.hash(&password).await?;
    let mut change = scope.system_change(&app).await?;
    store::principals::person(&mut change, scope.tenant, id).await?;
    let account = store::principals::set_password(&mut change, id, &hash, true).await?;
    end_all(&mut change, &app, id, None).await?;
    change.record(format!("principal:{id}"), json!({ "made": made.is_some() })).await?;
    change.tag(account.revision);
    change.ok(&PasswordReset { account, password: made }).await
}

/// Take an account's one-time codes away
///
/// For who has lost the device and the recovery codes. Its sessions end.
#[utoipa::path(delete, path = "/api/v1/accounts/{account}/one-time-code", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    responses((status = 204)))]
async fn reset_one_time_code(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    store::principals::person(&mut change, scope.tenant, id).await?;
    let removed = store::sign_in::remove_one_time_codes(&mut change, id).await?;
    end_all(&mut change, &app, id, None).await?;
    change.record(format!("principal:{id}"), json!({ "in_force": removed })).await?;
    change.done().await
}

/// End every session of an account.
#[utoipa::path(delete, path = "/api/v1/accounts/{account}/sessions", tag = "accounts",
    params(TenantParam, ("account" = PrincipalId, Path, description = "Identifier")),
    responses((status = 204)))]
async fn end_account_sessions(
    scope: Scope,
    State(app): State<App>,
    Path(id): Path<PrincipalId>,
) -> Result<Response> {
    let mut change = scope.system_change(&app).await?;
    store::principals::person(&mut change, scope.tenant, id).await?;
    let ended = end_all(&mut change, &app, id, None).await?;
    change.record(format!("principal:{id}"), json!({ "sessions": ended })).await?;
    change.done().await
}

/// A change of one's password.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePassword {
    /// The present one.
    #[schema(format = Password)]
    old: String,
    /// At least 12 characters, not the login, and none that everyone tries.
    #[schema(format = Password, min_length = 12)]
    new: String,
}

/// Change one's password
///
/// One's other sessions end.
#[utoipa::path(post, path = "/api/v1/me/password", tag = "sessions", request_body = ChangePassword,
    responses((status = 204)))]
async fn change_password(
    scope: Scope,
    State(app): State<App>,
    Json(passwords): Json<ChangePassword>,
) -> Result<Response> {
    let (id, _) = person(&scope)?;
    let login = store::principals::get(&mut app.store.system().await?, id).await?.login;
    passwords::check_new("new", &passwords.new, &login)?;
    if passwords.new == passwords.old {
        return Err(ApiError::field("new", "must be another than the present one"));
    }
    let attempt = one_time_codes::attempt(&app, id).await?;
    if !password_matches(&app, &passwords.old, attempt.password_hash.clone()).await? {
        return Err(ApiError::field("old", "is not the present password"));
    }
    let hash = app.passwords.hash(&passwords.new).await?;
    let mut change = scope.system_change(&app).await?;
    store::principals::set_password(&mut change, id, &hash, false).await?;
    end_all(&mut change, &app, id, Some(scope.caller.credential)).await?;
    change.record(format!("principal:{id}"), json!({})).await?;
    change.done().await
}
