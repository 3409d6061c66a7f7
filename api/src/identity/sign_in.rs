//! Signing in with an identity provider in a browser, and single sign-out.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::{COOKIE, HOST, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::ProviderId;
use domain::audit::{AuditEvent, Verdict};
use domain::identity::{grant, is_loopback_host};
use domain::keys::{CredentialKind, mint};
use domain::principals::Credential;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use store::StoreError;
use store::identity::{Arrival, Arrived};
use store::sessions::NewSession;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ID_TOKEN_PURPOSE, Relying};
use crate::extract::{Path, Query};
use crate::oidc::login::{Answer, LOGIN_COOKIE, LOGIN_LIFE, LoginError};
use crate::problem::{ApiError, Result, chain};
use crate::seal;
use crate::sessions::Client;
use crate::state::App;

/// The cookie that holds a session.
const SESSION_COOKIE: &str = "__Host-chancery-session";

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(start_sign_in))
        .routes(routes!(finish_sign_in))
        .routes(routes!(notify_sign_out))
}

/// Where to go after a sign-in.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Destination {
    /// A path of this installation; `/` unless given.
    return_to: Option<String>,
}

/// Go to an identity provider to sign in.
#[utoipa::path(get, path = "/auth/{provider}/login", tag = "sessions", security(()),
    params(("provider" = ProviderId, Path, description = "Identifier"), Destination),
    responses((status = 303, description = "To the identity provider")))]
async fn start_sign_in(
    State(app): State<App>,
    Path(id): Path<ProviderId>,
    Query(destination): Query<Destination>,
    client: Client,
    headers: HeaderMap,
) -> Result<Response> {
    app.rates.check_address(client.address, app.clock.now())?;
    let relying = Relying::on(&app, id, &own_url(&app, &headers)?).await?;
    let return_to = destination.return_to.as_deref().unwrap_or("/");
    let begun =
        relying.client(&app).begin(return_to, app.clock.now(), app.random()).await.map_err(|e| told(&e))?;
    let cookie = cookie(LOGIN_COOKIE, &begun.cookie, LOGIN_LIFE);
    Ok(go(begun.url.as_str(), &[cookie])?.into_response())
}

/// Come back from an identity provider, signed in or not.
#[utoipa::path(get, path = "/auth/{provider}/callback", tag = "sessions", security(()),
    params(("provider" = ProviderId, Path, description = "Identifier")),
    responses((status = 303, description = "To where the person wanted to go, with a session")))]
async fn finish_sign_in(
    State(app): State<App>,
    client: Client,
    Path(id): Path<ProviderId>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let done = match sign_in(&app, id, query.as_deref().unwrap_or_default(), &client, &headers).await {
        Ok((return_to, session)) => {
            metrics::counter!("chancery_sign_ins_total", "result" => "allowed").increment(1);
            go(&return_to, &[cookie(LOGIN_COOKIE, "", Duration::ZERO), session])
        }
        Err(failed) => {
            metrics::counter!("chancery_sign_ins_total", "result" => "refused").increment(1);
            let recorded = record_refused(&app, id, &failed, &client).await;
            // What cannot be recorded is not answered as if it were.
            let mut response = recorded.map_or_else(ApiError::from, |()| failed.why).into_response();
            // An answer counts once, also one that was refused.
            if let Ok(gone) = HeaderValue::try_from(cookie(LOGIN_COOKIE, "", Duration::ZERO)) {
                response.headers_mut().append(SET_COOKIE, gone);
            }
            Ok(response)
        }
    };
    done.unwrap_or_else(IntoResponse::into_response)
}

/// A sign-in that came to nothing.
struct Failed {
    why: ApiError,
    /// Who it was, where the provider said so.
    login: Option<String>,
}

impl From<ApiError> for Failed {
    fn from(why: ApiError) -> Self {
        Self { why, login: None }
    }
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        ApiError::from(e).into()
    }
}

/// A refused sign-in is in the audit log of the provider's tenant. Where the
/// provider or something of ours is broken, nobody was refused.
async fn record_refused(
    app: &App,
    id: ProviderId,
    failed: &Failed,
    client: &Client,
) -> Result<(), StoreError> {
    if !matches!(failed.why, ApiError::Malformed(_) | ApiError::Unauthorized(_) | ApiError::Forbidden(_)) {
        return Ok(());
    }
    let now = app.clock.now();
    app.sign_ins.failed(client.address, now);
    let mut tx = app.store.system().await?;
    let Some(provider) = store::identity::in_use(&mut tx, id).await? else { return Ok(()) };
    let object = format!("identity_provider:{id}");
    let event = AuditEvent {
        verdict: Verdict::Denied,
        detail: json!({
            "address": client.address, "reason": failed.why.to_string(), "login": failed.login,
        }),
        ..store::audit::allowed(provider.tenant_id, now, "anonymous", "create_session", object)
    };
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await
}

/// Where the person goes, and the cookie of the new session.
async fn sign_in(
    app: &App,
    id: ProviderId,
    query: &str,
    client: &Client,
    headers: &HeaderMap,
) -> Result<(String, String), Failed> {
    let now = app.clock.now();
    app.sign_ins.check(client.address, now)?;
    let answer: Answer = form(query.as_bytes())?;
    let relying = Relying::on(app, id, &own_url(app, headers)?).await?;
    let pending = cookie_value(headers, LOGIN_COOKIE);
    let arrived = relying.client(app).finish(pending, &answer, now).await.map_err(|e| told(&e))?;
    let provider = &relying.provider;
    let grant = grant(provider.tenant_id.is_some(), &provider.mappings, &arrived.groups);
    let arrival = Arrival {
        provider,
        subject: &arrived.subject,
        login: &arrived.person.login,
        display_name: &arrived.person.display_name,
        grant: grant.as_ref(),
        follow: true,
    };
    let refused = |why: &str| Failed {
        why: ApiError::Forbidden(why.to_owned()),
        login: Some(arrived.person.login.clone()),
    };
    let mut tx = app.store.system().await?;
    let account = match store::identity::arrive(&mut tx, &arrival, now).await? {
        Arrived::Account(account) => account,
        Arrived::Disabled => {
            tracing::info!(provider.id = %id, "A person with a disabled account tried to sign in");
            return Err(refused("the account is disabled; ask your administrator"));
        }
        Arrived::Nothing => {
            tx.commit().await?;
            tracing::info!(provider.id = %id, "A person whose groups give nothing tried to sign in");
            return Err(refused(
                "your groups at the identity provider give no access here; ask your administrator",
            ));
        }
    };
    let token = mint(CredentialKind::Session, app.random());
    let life = Duration::from_secs(app.settings.session_ttl_secs);
    store::sessions::prune(&mut tx, account, now).await?;
    let session = NewSession {
        principal: account,
        hash: &app.pepper.hash(&token),
        expires_at: now + life,
        one_time_code: false,
        address: Some(&client.address.to_string()),
        user_agent: client.user_agent.as_deref(),
    };
    let session = store::sessions::create(&mut tx, session, now).await?;
    let id_token = seal::seal(&app.pepper, ID_TOKEN_PURPOSE, session.as_bytes(), arrived.id_token.as_bytes());
    store::identity::bind_session(&mut tx, session, id, arrived.session.as_deref(), &id_token).await?;
    let actor = format!("principal:{account}");
    let mut event =
        store::audit::allowed(provider.tenant_id, now, actor, "create_session", format!("session:{session}"));
    event.detail = serde_json::json!({ "provider": id });
    store::audit::record(&mut tx, &event).await?;
    tx.commit().await?;
    // What its groups gave before counts no more.
    app.credentials.forget(account.0);
    Ok((arrived.return_to, cookie(SESSION_COOKIE, &token, life)))
}

/// Hear from an identity provider that somebody signed out there
///
/// OpenID Connect Back-Channel Logout: `logout_token` in a form.
#[utoipa::path(post, path = "/auth/{provider}/backchannel-logout", tag = "sessions", security(()),
    params(("provider" = ProviderId, Path, description = "Identifier")),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 204)))]
async fn notify_sign_out(
    State(app): State<App>,
    Path(id): Path<ProviderId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode> {
    #[derive(Deserialize)]
    struct Form {
        logout_token: String,
    }
    let Form { logout_token } = form(&body)?;
    let relying = Relying::on(&app, id, &own_url(&app, &headers)?).await?;
    let now = app.clock.now();
    let refused = |e: LoginError| match e {
        LoginError::Keys(_) => told(&e),
        e => {
            tracing::info!(provider.id = %id, reason = chain(&e), "Refused a logout token: {}", chain(&e));
            ApiError::Malformed("the logout token is refused".to_owned())
        }
    };
    let claims = relying.client(&app).logged_out(&logout_token, now).await.map_err(refused)?;
    app.identity.used.take(id, &claims, now).map_err(refused)?;
    let subject = Some(claims.subject.as_str()).filter(|subject| !subject.is_empty());
    let mut tx = app.store.system().await?;
    let ended =
        store::identity::end_sessions(&mut tx, &relying.provider, claims.session.as_deref(), subject, now)
            .await?;
    tx.commit().await?;
    for session in ended {
        app.credentials.forget(session.id);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Where the browser goes to end the session at the provider too, that a
/// session of ours came from. `None` if there is none, or the provider cannot
/// be asked: the session here is over all the same.
pub(crate) async fn logout_url(
    app: &App,
    credential: Credential,
    headers: &HeaderMap,
) -> Result<Option<String>> {
    let Credential::Session(session) = credential else { return Ok(None) };
    let mut tx = app.store.system().await?;
    let Some(from) = store::identity::provider_session(&mut tx, session).await? else { return Ok(None) };
    drop(tx);
    let plain = from
        .id_token
        .and_then(|sealed| seal::open(&app.pepper, ID_TOKEN_PURPOSE, session.as_bytes(), &sealed))
        .and_then(|plain| String::from_utf8(plain).ok());
    let Some(id_token) = plain else { return Ok(None) };
    let base = own_url(app, headers)?;
    let Ok(relying) = Relying::on(app, from.provider, &base).await else { return Ok(None) };
    match relying.client(app).logout_url(&id_token, &format!("{base}/")).await {
        Ok(url) => Ok(url.map(String::from)),
        Err(e) => {
            tracing::warn!(provider.id = %from.provider, error = chain(&e), "Cannot sign out at the provider");
            Ok(None)
        }
    }
}

/// What the person hears of a sign-in that failed; the log hears all.
fn told(e: &LoginError) -> ApiError {
    let why = chain(e);
    match e {
        LoginError::Discovery(_) | LoginError::Fetch(_) | LoginError::Keys(_) => {
            tracing::warn!(error = why, "A provider cannot be used: {why}");
            ApiError::Unavailable("the identity provider cannot be reached; try again in a moment".to_owned())
        }
        LoginError::NothingPending | LoginError::TooLate | LoginError::OtherState => {
            tracing::info!(reason = why, "A sign-in was refused: {why}");
            ApiError::Unauthorized("this sign-in is not under way any more; start again")
        }
        LoginError::Refused { .. } => {
            tracing::info!(reason = why, "A sign-in was refused: {why}");
            ApiError::Unauthorized("the identity provider refused the sign-in; start again")
        }
        _ => {
            tracing::warn!(reason = why, "A sign-in was refused: {why}");
            ApiError::Unauthorized("the identity provider's answer cannot be accepted; start again")
        }
    }
}

/// Our own URL, as the provider knows it: the configured one, or on this
/// machine the address that the browser came by.
fn own_url(app: &App, headers: &HeaderMap) -> Result<String> {
    let public = app.settings.public_url.trim_end_matches('/');
    if !public.is_empty() {
        return Ok(public.to_owned());
    }
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if is_loopback_host(name) {
        return Ok(format!("http://{host}"));
    }
    Err(ApiError::Unavailable("signing in needs the setting api.public_url".to_owned()))
}

fn form<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_urlencoded::from_bytes(text)
        .map_err(|_| ApiError::Malformed("the parameters cannot be read, or one is there twice".to_owned()))
}

/// A cookie that only this host gets, over TLS, and no script reads. It comes
/// along when a provider sends the browser back (`Lax`).
fn cookie(name: &str, value: &str, life: Duration) -> String {
    format!("{name}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax", life.as_secs())
}

fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut found = pairs
        .flat_map(|pairs| pairs.split(';'))
        .filter_map(|pair| pair.trim().split_once('=').filter(|(n, _)| *n == name).map(|(_, value)| value));
    // A browser sends one; two are somebody's attempt.
    found.next().filter(|_| found.next().is_none())
}

/// 303, with cookies.
fn go(to: &str, cookies: &[String]) -> Result<Response> {
    let header = |name: HeaderName, text: &str| {
        HeaderValue::from_str(text).map(|value| (name, value)).map_err(ApiError::internal)
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.extend([header(LOCATION, to)?]);
    for cookie in cookies {
        let (name, value) = header(SET_COOKIE, cookie)?;
        headers.append(name, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_cookie_of_a_name_is_taken() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; __Host-chancery-login=x.y".parse().unwrap());
        assert_eq!(cookie_value(&headers, LOGIN_COOKIE), Some("x.y"));
        assert_eq!(cookie_value(&headers, SESSION_COOKIE), None);
        headers.append(COOKIE, "__Host-chancery-login=z".parse().unwrap());
        assert_eq!(cookie_value(&headers, LOGIN_COOKIE), None);
    }

    #[test]
    fn cookies_are_kept_from_others() {
        let text = cookie(SESSION_COOKIE, "chs_x", Duration::from_secs(60));
        assert_eq!(text, "__Host-chancery-session=chs_x; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn parameters_count_once() {
        assert!(form::<Answer>(b"state=a&code=b&session_state=c").is_ok());
        assert!(form::<Answer>(b"state=a&state=b").is_err());
    }
}
