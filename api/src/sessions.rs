//! Signing in and out with a local account, and one's sessions.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::audit::{AuditEvent, Verdict};
use domain::keys::{CredentialKind, mint};
use domain::principals::{Credential, Principal, Role};
use domain::sessions::Session;
use domain::tenants::Tenant;
use domain::{KeyId, PrincipalId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::sessions::NewSession;
use store::sign_in::{Attempt, Who};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::access::{Change, Scope};
use crate::auth::{SESSION_COOKIE, Site, csrf_token, site};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Path, Query};
use crate::fields;
use crate::one_time_codes::{self, Proof};
use crate::passwords::MAX_PASSWORD_BYTES;
use crate::problem::{ApiError, Result, chain};
use crate::state::App;

/// Longest name of a program that is kept.
const MAX_USER_AGENT_CHARS: usize = 200;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions, create_session, revoke_other_sessions))
        .routes(routes!(delete_session))
        .routes(routes!(revoke_session))
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
    /// The code of the person's device, or a recovery code, where the account asks for one.
    #[serde(default)]
    one_time_code: Option<String>,
    /// For pages in a browser: the session comes as a cookie that no page can
    /// read, and what changes something carries `X-CSRF-Token`.
    #[serde(default)]
    cookie: bool,
}

/// A session.
#[derive(Serialize, utoipa::ToSchema)]
struct CreatedSession {
    /// Send it as `Authorization: Bearer …`. Left out where a cookie was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Send it as `X-CSRF-Token` with the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf_token: Option<String>,
    /// When it ends.
    expires_at: Timestamp,
    /// Who signed in.
    principal: Principal,
}

/// Where a request comes from.
pub(crate) struct Client {
    pub address: IpAddr,
    pub user_agent: Option<String>,
    site: Site,
}

impl FromRequestParts<App> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let user_agent = parts.headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        Ok(Self {
            address: crate::access::client_address(parts, &app.settings.trusted_proxies),
            user_agent: user_agent.map(|text| text.chars().take(MAX_USER_AGENT_CHARS).collect()),
            site: site(parts, app),
        })
    }
}

/// Sign in with a local account
///
/// The answer is the same for an unknown login, a wrong password, a disabled
/// account and one that is locked: after five failures in a row for a second,
/// then twice as long each time, to a quarter of an hour.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", request_body = CreateSession,
    security(()), responses((status = 201, body = CreatedSession)))]
async fn create_session(
    State(app): State<App>,
    client: Client,
    Json(request): Json<CreateSession>,
) -> Result<Response> {
    const REFUSED: ApiError = ApiError::Unauthorized(
        "login, password or one-time code is wrong; after several failures even the right ones are refused for a \
         while, 15 minutes at most",
    );
    if request.cookie && client.site == Site::Other {
        return Err(ApiError::Forbidden("another site's page cannot sign in here".to_owned()));
    }
    let now = app.clock.now();
    app.sign_ins.check(client.address, now)?;
    // What cannot be a login is still checked like one, and counted.
    let login = fields::login(&request.login).unwrap_or_default();
    let mut tx = app.store.system().await?;
    let attempt = store::sign_in::attempt(&mut tx, Who::Login(&login), now).await?;
    tx.commit().await?;
    // Hashing takes long; others need the connection meanwhile.
    let stored = attempt.as_ref().and_then(|attempt| attempt.password_hash.clone());
    let matches = password_matches(&app, &request.password, stored).await?;
    let refused = match &attempt {
        Some(attempt) if matches => {
            let code = request.one_time_code.as_deref();
            let mut tx = app.store.system().await?;
            match one_time_codes::prove(&app, &mut tx, attempt, code).await? {
                Proof::Given(with_code) => {
                    return signed_in(&app, tx, attempt, with_code, &client, request.cookie).await;
                }
                Proof::Missing => {
                    store::sign_in::withdraw(&mut tx, attempt).await?;
                    tx.commit().await?;
                    return Err(ApiError::OneTimeCodeRequired);
                }
                Proof::Wrong => REFUSED,
            }
        }
        _ => REFUSED,
    };
    app.sign_ins.failed(client.address, now);
    record_refused(&app, &login, &client).await?;
    metrics::counter!("chancery_sign_ins_total", "result" => "refused").increment(1);
    tracing::info!("A sign-in was refused");
    Err(refused)
}

pub(crate) async fn password_matches(app: &App, password: &str, stored: Option<String>) -> Result<bool> {
    let fits = password.len() <= MAX_PASSWORD_BYTES;
    Ok(app.passwords.verify(if fits { password } else { "" }, stored).await? && fits)
}

async fn signed_in(
    app: &App,
    mut tx: store::SystemTx,
    attempt: &Attempt,
    one_time_code: bool,
    client: &Client,
    cookie: bool,
) -> Result<Response> {
    let now = app.clock.now();
    let token = mint(CredentialKind::Session, app.random());
    let expires_at = now + Duration::from_secs(app.settings.session_ttl_secs);
    store::sign_in::succeeded(&mut tx, attempt).await?;
    store::sessions::prune(&mut tx, attempt.principal, now).await?;
    let session = NewSession {
        principal: attempt.principal,
        hash: &app.pepper.hash(&token),
        expires_at,
        one_time_code,
        address: Some(&client.address.to_string()),
        user_agent: client.user_agent.as_deref(),
    };
    let id = store::sessions::create(&mut tx, session, now).await?;
    let principal = store::principals::get(&mut tx, attempt.principal).await?;
    let actor = format!("principal:{}", principal.id);
    let event =
        store::audit::allowed(principal.tenant_id, now, actor, "create_session", format!("session:{id}"));
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    metrics::counter!("chancery_sign_ins_total", "result" => "allowed").increment(1);
    let set_cookie = cookie.then(|| set_cookie(&token, app.settings.session_ttl_secs)).transpose()?;
    let answer = CreatedSession {
        token: (!cookie).then_some(token),
        csrf_token: cookie.then(|| csrf_token(app, id)),
        expires_at,
        principal,
    };
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    if let Some(value) = set_cookie {
        response.headers_mut().insert(SET_COOKIE, value);
    }
    Ok(response)
}

/// The cookie with the token; an empty one that is over takes it away.
fn set_cookie(token: &str, seconds: u64) -> Result<HeaderValue> {
    let text =
        format!("{SESSION_COOKIE}={token}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Strict");
    let mut value = HeaderValue::try_from(text).map_err(ApiError::internal)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A refused sign-in is in the audit log of whom it was meant for. The login
/// itself is not: people type passwords into the wrong field.
async fn record_refused(app: &App, login: &str, client: &Client) -> Result<()> {
    let mut tx = app.store.system().await?;
    let meant = store::sign_in::meant(&mut tx, login).await?;
    let (tenant, object) = match meant {
        Some((tenant, id)) => (tenant, format!("principal:{id}")),
        None => (None, "login:unknown".to_owned()),
    };
    let event = AuditEvent {
        verdict: Verdict::Denied,
        detail: json!({ "address": client.address }),
        ..store::audit::allowed(tenant, app.clock.now(), "anonymous", "create_session", object)
    };
    store::audit::record(&mut tx, &event).await?;
    Ok(tx.commit().await?)
}

/// The person behind a session: what is one's own is not a key's or a token's.
pub(crate) fn person(scope: &Scope) -> Result<(PrincipalId, Uuid)> {
    match (scope.caller.credential, scope.caller.principal) {
        (Credential::Session(session), Some(principal)) => Ok((principal, session)),
        _ => Err(ApiError::Forbidden("only a person's session may do this".to_owned())),
    }
}

/// List one's open sessions, newest first.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", params(PageQuery),
    responses((status = 200, body = Page<Session>)))]
async fn list_sessions(
    scope: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Session>>> {
    let (principal, current) = person(&scope)?;
    let paging = page.of(List { name: "sessions", tenant: scope.caller.tenant, pepper: &app.pepper })?;
    let idle = Duration::from_secs(app.settings.session_idle_secs);
    let (mut tx, now) = (app.store.system().await?, app.clock.now());
    let mut rows =
        store::sessions::list(&mut tx, principal, paging.after()?, paging.fetch(), now, idle).await?;
    for session in &mut rows {
        session.current = session.id == current;
    }
    Ok(Json(paging.page(rows, |session| session.id.to_string())))
}

/// Where to go to sign out at the identity provider too.
#[derive(Serialize, utoipa::ToSchema)]
struct SignedOut {
    /// A page of the identity provider that the browser should open.
    provider_logout_url: String,
}

/// Sign out: end the session that this request comes with
///
/// Where it began at an identity provider with a page to sign out, the answer
/// names that page.
#[utoipa::path(delete, path = "/api/v1/sessions/current", tag = "sessions",
    responses((status = 200, body = SignedOut), (status = 204)))]
async fn delete_session(scope: Scope, State(app): State<App>, headers: HeaderMap) -> Result<Response> {
    let (Credential::Session(id), Some(principal)) = (scope.caller.credential, scope.caller.principal) else {
        return Err(ApiError::Invalid("the request comes with no session to end".to_owned()));
    };
    let done = end(&scope, &app, principal, id).await?;
    // Asked after the session is over, which it is in any case.
    let mut response = match crate::identity::logout_url(&app, scope.caller.credential, &headers).await {
        Ok(Some(provider_logout_url)) => Json(SignedOut { provider_logout_url }).into_response(),
        Ok(None) => done,
        Err(e) => {
            tracing::warn!(error = chain(&e), "Cannot name the provider's page to sign out");
            done
        }
    };
    response.headers_mut().insert(SET_COOKIE, set_cookie("", 0)?);
    Ok(response)
}

/// End one of one's sessions.
#[utoipa::path(delete, path = "/api/v1/sessions/{session}", tag = "sessions",
    params(("session" = Uuid, Path, description = "Identifier")), responses((status = 204)))]
async fn revoke_session(scope: Scope, State(app): State<App>, Path(id): Path<Uuid>) -> Result<Response> {
    let (principal, _) = person(&scope)?;
    end(&scope, &app, principal, id).await
}

async fn end(scope: &Scope, app: &App, principal: PrincipalId, id: Uuid) -> Result<Response> {
    let mut change = scope.system_change(app).await?;
    if !store::sessions::revoke(&mut change, principal, id, app.clock.now()).await? {
        return Err(ApiError::NotFound("session"));
    }
    change.revoke(id).await?;
    change.record(format!("session:{id}"), json!({})).await?;
    change.done().await
}

/// End all of one's sessions but the one that asks.
#[utoipa::path(delete, path = "/api/v1/sessions", tag = "sessions", responses((status = 204)))]
async fn revoke_other_sessions(scope: Scope, State(app): State<App>) -> Result<Response> {
    let (principal, _) = person(&scope)?;
    let mut change = scope.system_change(&app).await?;
    let ended = end_all(&mut change, &app, principal, Some(scope.caller.credential)).await?;
    change.record(format!("principal:{principal}"), json!({ "sessions": ended })).await?;
    change.done().await
}

/// Ends every session of a person but `except`; returns how many.
pub(crate) async fn end_all(
    change: &mut Change<store::SystemTx>,
    app: &App,
    principal: PrincipalId,
    except: Option<Credential>,
) -> Result<usize> {
    let ended = store::sessions::revoke_all(change, principal, except, app.clock.now()).await?;
    // One word ends them all in the caches.
    change.revoke(principal.0).await?;
    Ok(ended.len())
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
    /// The person or service account, if it is one.
    principal: Option<Principal>,
    /// What a session's pages send as `X-CSRF-Token`.
    csrf_token: Option<String>,
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
    let csrf_token = match caller.credential {
        Credential::Session(id) => Some(csrf_token(&app, id)),
        Credential::Key(_) | Credential::Token(_) => None,
    };
    Ok(Json(Me {
        role: caller.role,
        tenant,
        project_id: caller.project(),
        key_id: caller.key(),
        principal,
        csrf_token,
    }))
}
