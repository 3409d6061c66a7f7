//! Local accounts, and the first administrator.

use axum::extract::State;
use axum::response::Response;
use domain::Clock;
use domain::principals::{Principal, Role};
use serde::Deserialize;
use store::Store;
use store::principals::NewPrincipal;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, TenantParam};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Query};
use crate::fields;
use crate::passwords::{MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARS, Passwords};
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_accounts, create_account))
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
    /// What the person signs in with, such as `name@ministry`; unique in the installation.
    login: String,
    /// Name for people.
    display_name: String,
    /// At least 12 characters.
    #[schema(format = Password, min_length = 12)]
    password: String,
    /// In a tenant `tenant_admin`, `auditor`, `developer`, `user`, `viewer` or `member`; on the platform
    /// `platform_admin`, `model_approver` or `auditor`.
    role: Role,
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
    match (scope.tenant, new.role) {
        (None, role) if role.is_of_platform() => {}
        (Some(_), role) if role.is_of_tenant() => {}
        (None, _) => {
            return Err(ApiError::field("role", "belongs to a tenant: name it with ?tenant=SLUG"));
        }
        (Some(_), _) => return Err(ApiError::field("role", "is one of the platform's, not of a tenant")),
    }
    let login = fields::login(&new.login)?;
    let display_name = fields::name("display_name", &new.display_name)?;
    check_password(&new.password)?;
    let password_hash = app.passwords.hash(&new.password).await?;
    let principal = NewPrincipal {
        tenant: scope.tenant,
        login: &login,
        display_name: &display_name,
        role: new.role,
        password_hash: &password_hash,
        must_change_password: false,
    };
    let mut change = scope.system_change(&app).await?;
    let principal = store::principals::create(&mut change, principal, app.clock.now()).await?;
    let detail = serde_json::json!({ "login": principal.login, "role": principal.role });
    change.record(format!("principal:{}", principal.id), detail).await?;
    change.tag(principal.revision);
    change.created(&principal).await
}

fn check_password(password: &str) -> Result<()> {
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(ApiError::field(
            "password",
            format!("must have at least {MIN_PASSWORD_CHARS} characters"),
        ));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(ApiError::field("password", format!("must have at most {MAX_PASSWORD_BYTES} bytes")));
    }
    Ok(())
}

/// What [`bootstrap_admin`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// The account was created.
    Created,
    /// The platform has an administrator already; nothing changed.
    Exists,
}

/// Creates the first platform administrator, unless there is one. Safe to
/// repeat, and from several processes at once.
pub async fn bootstrap_admin(
    store: &Store,
    clock: &Clock,
    login: &str,
    password: &str,
) -> Result<AdminOutcome> {
    let login = fields::login(login)?;
    check_password(password)?;
    let mut tx = store.system().await?;
    if store::principals::lock_platform_admins(&mut tx).await? {
        return Ok(AdminOutcome::Exists);
    }
    let password_hash = Passwords::new().hash(password).await?;
    let new = NewPrincipal {
        tenant: None,
        login: &login,
        display_name: "Platform administrator",
        role: Role::PlatformAdmin,
        password_hash: &password_hash,
        must_change_password: false,
    };
    let now = clock.now();
    let principal = store::principals::create(&mut tx, new, now).await?;
    let object = format!("principal:{}", principal.id);
    store::audit::record(&mut tx, &store::audit::allowed(None, now, "system", "create_account", object))
        .await?;
    tx.commit().await?;
    Ok(AdminOutcome::Created)
}
