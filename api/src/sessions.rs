//! Signing in and out with a local account.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::keys::{CredentialKind, mint};
use domain::principals::{Credential, Principal, Role};
use domain::tenants::Tenant;
use domain::{KeyId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::sessions::NewSession;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::extract::Json;
use crate::fields;
use crate::passwords::MAX_PASSWORD_BYTES;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_session))
        .routes(routes!(delete_session))
        .routes(routes!(get_me))
}

/// A sign-in.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateSession {
    /// Such as `name@ministry`.
    login: String,
    /// The password.
    #[schema(format = Password)]
    password: String,
}

/// A session.
#[derive(Serialize, utoipa::ToSchema)]
struct CreatedSession {
    /// Send it as `Authorization: Bearer …`.
    token: String,
    /// When it ends.
    expires_at: Timestamp,
    /// Who signed in.
    principal: Principal,
}

/// Sign in with a local account.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", request_body = CreateSession,
    security(()), responses((status = 201, body = CreatedSession)))]
async fn create_session(
    State(app): State<App>,
    Json(request): Json<CreateSession>,
) -> Result<(StatusCode, Json<CreatedSession>)> {
    const REFUSED: ApiError = ApiError::Unauthorized("login or password is wrong");
    let now = app.clock.now();
    // What cannot be a login is still checked like one, and counted.
    let login = fields::login(&request.login).unwrap_or_default();
    app.logins.check(&login, now)?;
    let mut tx = app.store.system().await?;
    let (principal, stored) = store::principals::by_login(&mut tx, &login).await?.unzip();
    // Hashing takes long; others need the connection meanwhile.
    drop(tx);
    let fits = request.password.len() <= MAX_PASSWORD_BYTES;
    let password = if fits { request.password.as_str() } else { "" };
    let matches = app.passwords.verify(password, stored.flatten()).await? && fits;
    let Some(principal) = principal.filter(|_| matches) else {
        app.logins.failed(&login, now);
        metrics::counter!("chancery_sign_ins_total", "result" => "refused").increment(1);
        tracing::info!("A sign-in was refused");
        return Err(REFUSED);
    };
    app.logins.succeeded(&login);
    metrics::counter!("chancery_sign_ins_total", "result" => "allowed").increment(1);

    let token = mint(CredentialKind::Session, app.random());
    let expires_at = now + Duration::from_secs(app.settings.session_ttl_secs);
    let mut tx = app.store.system().await?;
    store::sessions::prune(&mut tx, principal.id, now).await?;
    let session = NewSession {
        principal: principal.id,
        hash: &app.pepper.hash(&token),
        expires_at,
        one_time_code: false,
        address: None,
        user_agent: None,
    };
    let id = store::sessions::create(&mut tx, session, now).await?;
    let actor = format!("principal:{}", principal.id);
    let event =
        store::audit::allowed(principal.tenant_id, now, actor, "create_session", format!("session:{id}"));
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(CreatedSession { token, expires_at, principal })))
}

/// Sign out: end the session that this request comes with.
#[utoipa::path(delete, path = "/api/v1/sessions/current", tag = "sessions", responses((status = 204)))]
async fn delete_session(scope: Scope, State(app): State<App>) -> Result<Response> {
    let (Credential::Session(id), Some(principal)) = (scope.caller.credential, scope.caller.principal) else {
        return Err(ApiError::Invalid("the request comes with no session to end".to_owned()));
    };
    let mut change = scope.system_change(&app).await?;
    store::sessions::revoke(&mut change, principal, id, app.clock.now()).await?;
    change.revoke(id).await?;
    change.record(format!("session:{id}"), serde_json::json!({})).await?;
    change.done().await
}

/// Who a credential stands for.
#[derive(Serialize, utoipa::ToSchema)]
struct Me {
    /// What it may do.
    role: Role,
    /// Its tenant; `null` for the platform's people.
    tenant: Option<Tenant>,
    /// The project of an API key.
    project_id: Option<ProjectId>,
    /// The API key, if it is one.
    key_id: Option<KeyId>,
    /// The person, if it is one.
    principal: Option<Principal>,
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/v1/me", tag = "sessions", responses((status = 200, body = Me)))]
async fn get_me(scope: Scope, State(app): State<App>) -> Result<Json<Me>> {
    let caller = &scope.caller;
    let mut tx = app.store.system().await?;
    let tenant = match caller.tenant {
        Some(id) => Some(store::tenants::get(&mut tx, id).await?),
        None => None,
    };
    let principal = match caller.principal {
        Some(id) => Some(store::principals::get(&mut tx, id).await?),
        None => None,
    };
    Ok(Json(Me { role: caller.role, tenant, project_id: caller.project(), key_id: caller.key(), principal }))
}
