//! One-time codes by time (RFC 6238): a second proof at sign-in, of a device
//! that holds the seed. Each code is taken once; recovery codes stand in for a
//! lost device.

use axum::extract::State;
use axum::response::Response;
use domain::PrincipalId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::SystemTx;
use store::sign_in::{Attempt, Who};
use totp_rs::{Builder, Totp};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::extract::Json;
use crate::problem::{ApiError, Result};
use crate::sessions::person;
use crate::state::App;

/// Bytes of a seed, as RFC 4226 recommends.
const SEED_BYTES: usize = 20;
/// Recovery codes made at once.
const RECOVERY_CODES: usize = 10;
/// Random bytes of a recovery code.
const RECOVERY_BYTES: usize = 10;
/// Longest code that is looked at.
const MAX_CODE_BYTES: usize = 64;
/// How devices name the installation.
const ISSUER: &str = "Chancery";
/// What seeds are sealed for.
const PURPOSE: &str = "one-time code";

/// Longest code that anybody could mean.
const MAX_CODE_CHARS: usize = 64;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(enrol_one_time_code))
        .routes(routes!(confirm_one_time_code))
        .routes(routes!(remove_one_time_code))
}

/// Six digits, SHA-1, 30 seconds, one step early or late: what every device knows.
fn totp(seed: Vec<u8>, login: &str) -> Result<Totp> {
    // A colon would end the name.
    let login = login.replace(':', "");
    let totp = Builder::new().with_secret(seed).with_account_name(login).with_issuer(Some(ISSUER)).build();
    totp.map_err(|e| ApiError::internal(e.to_string()))
}

fn open(app: &App, id: PrincipalId, sealed: &[u8]) -> Result<Totp> {
    let seed = crate::seal::open(&app.pepper, PURPOSE, id.0.as_bytes(), sealed);
    totp(seed.ok_or_else(|| ApiError::internal("a seed of one-time codes cannot be opened"))?, "")
}

/// The time step of a right code.
fn step_of(app: &App, totp: &Totp, code: &str) -> Option<i64> {
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let seconds = u64::try_from(app.clock.now().unix_secs()).ok()?;
    i64::try_from(totp.check(&code, seconds)?).ok()
}

/// What a code proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Enough; `true` if a code was asked for and given.
    Given(bool),
    /// A code is asked for and none was given.
    Missing,
    /// The code is wrong, or was taken before.
    Wrong,
}

/// Takes the code, if the account asks for one.
pub(crate) async fn prove(
    app: &App,
    tx: &mut SystemTx,
    attempt: &Attempt,
    code: Option<&str>,
) -> Result<Proof> {
    let Some(sealed) = &attempt.seed else { return Ok(Proof::Given(false)) };
    let Some(code) = code else { return Ok(Proof::Missing) };
    if code.len() > MAX_CODE_BYTES {
        return Ok(Proof::Wrong);
    }
    let id = attempt.principal;
    let taken = match step_of(app, &open(app, id, sealed)?, code) {
        Some(step) => store::sign_in::take_step(tx, id, step).await?,
        None => store::sign_in::take_recovery_code(tx, id, &recovery_hash(app, id, code)).await?,
    };
    Ok(if taken { Proof::Given(true) } else { Proof::Wrong })
}

fn recovery_hash(app: &App, id: PrincipalId, code: &str) -> [u8; 32] {
    let plain: String =
        code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    app.pepper.derive("recovery code", &[id.0.as_bytes(), plain.as_bytes()].concat())
}

/// A seed of one-time codes, which is never shown again.
#[derive(Serialize, utoipa::ToSchema)]
struct Enrolment {
    /// For a QR code: `otpauth://totp/…`.
    url: String,
    /// The seed in base32, to type.
    secret: String,
}

/// Begin with one-time codes
///
/// They are asked for at sign-in once `confirm_one_time_code` was given one.
#[utoipa::path(post, path = "/api/v1/me/one-time-code", tag = "sessions",
    responses((status = 201, body = Enrolment)))]
async fn enrol_one_time_code(scope: Scope, State(app): State<App>) -> Result<Response> {
    let (id, _) = person(&scope)?;
    let seed: [u8; SEED_BYTES] = app.random();
    let mut change = scope.system_change(&app).await?;
    let login = store::principals::get(&mut *change, id).await?.login;
    let sealed = crate::seal::seal(&app.pepper, PURPOSE, id.0.as_bytes(), &seed);
    store::sign_in::begin_one_time_codes(&mut change, id, &sealed).await?;
    change.record(format!("principal:{id}"), json!({})).await?;
    let totp = totp(seed.to_vec(), &login)?;
    let url = totp.to_url().map_err(|e| ApiError::internal(e.to_string()))?;
    change.created(&Enrolment { secret: totp.secret().to_base32(), url }).await
}

/// A code of one's device.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct OneTimeCode {
    /// The code that the device shows; for `remove_one_time_code` also a recovery code.
    #[schema(format = Password, max_length = 64)]
    code: String,
}

/// Codes that stand in for a lost device, which are never shown again.
#[derive(Serialize, utoipa::ToSchema)]
struct RecoveryCodes {
    /// Each works once, as `one_time_code`.
    recovery_codes: Vec<String>,
}

/// Put one-time codes in force
///
/// The code shows that the device has the seed.
#[utoipa::path(post, path = "/api/v1/me/one-time-code/confirm", tag = "sessions",
    request_body = OneTimeCode, responses((status = 200, body = RecoveryCodes)))]
async fn confirm_one_time_code(
    scope: Scope,
    State(app): State<App>,
    Json(given): Json<OneTimeCode>,
) -> Result<Response> {
    let (id, _) = person(&scope)?;
    let mut change = scope.system_change(&app).await?;
    let sealed = store::sign_in::unconfirmed_seed(&mut change, id).await?.ok_or_else(|| {
        ApiError::Conflict(
            "no one-time codes wait to be confirmed: begin with POST /api/v1/me/one-time-code".to_owned(),
        )
    })?;
    let step = step_of(&app, &open(&app, id, &sealed)?, &given.code);
    let taken = match step {
        Some(step) => store::sign_in::take_step(&mut change, id, step).await?,
        None => false,
    };
    if !taken {
        return Err(wrong_code());
    }
    let codes: Vec<String> =
        (0..RECOVERY_CODES).map(|_| hex::encode(app.random::<RECOVERY_BYTES>())).collect();
    let hashes: Vec<Vec<u8>> = codes.iter().map(|code| recovery_hash(&app, id, code).to_vec()).collect();
    store::sign_in::confirm_one_time_codes(&mut change, id, &hashes, app.clock.now()).await?;
    change.record(format!("principal:{id}"), json!({})).await?;
    let recovery_codes = codes.iter().map(|code| format!("{}-{}", &code[..10], &code[10..])).collect();
    change.ok(&RecoveryCodes { recovery_codes }).await
}

fn wrong_code() -> ApiError {
    ApiError::field("code", "is not the present code of the device; wait for the next one and try again")
}

/// Do without one-time codes
///
/// Needs a code of the device, or a recovery code. An administrator can take
/// them away for who has lost both.
#[utoipa::path(post, path = "/api/v1/me/one-time-code/remove", tag = "sessions",
    request_body = OneTimeCode, responses((status = 204)))]
async fn remove_one_time_code(
    scope: Scope,
    State(app): State<App>,
    Json(given): Json<OneTimeCode>,
) -> Result<Response> {
    let (id, _) = person(&scope)?;
    if given.code.chars().count() > MAX_CODE_CHARS {
        return Err(wrong_code());
    }
    let attempt = attempt(&app, id).await?;
    let mut change = scope.system_change(&app).await?;
    match prove(&app, &mut change, &attempt, Some(&given.code)).await? {
        Proof::Given(true) => {}
        Proof::Given(false) => {
            let mut tx = app.store.system().await?;
            store::sign_in::withdraw(&mut tx, &attempt).await?;
            tx.commit().await?;
            return Err(ApiError::Conflict("no one-time codes are in force".to_owned()));
        }
        Proof::Missing | Proof::Wrong => return Err(wrong_code()),
    }
    store::sign_in::succeeded(&mut change, &attempt).await?;
    store::sign_in::remove_one_time_codes(&mut change, id).await?;
    change.record(format!("principal:{id}"), json!({})).await?;
    change.done().await
}

/// Counts an attempt of who is signed in already.
pub(crate) async fn attempt(app: &App, id: PrincipalId) -> Result<Attempt> {
    let mut tx = app.store.system().await?;
    let attempt = store::sign_in::attempt(&mut tx, Who::Principal(id), app.clock.now()).await?;
    tx.commit().await?;
    attempt.ok_or_else(|| ApiError::TooManyRequests {
        retry_after_secs: 60,
        detail: "too many wrong passwords or codes, or not a local account; wait, 15 minutes at most"
            .to_owned(),
    })
}
