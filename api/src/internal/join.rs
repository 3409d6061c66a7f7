//! A worker joins: it shows the join token and gets an identity.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::HeaderMap;
use domain::keys::{CredentialKind, mint};
use domain::workers::{JoinRequest, JoinResponse, MAX_DEVICES};
use store::StoreError;
use subtle::ConstantTimeEq;

use super::gateway_key;
use crate::auth::bearer;
use crate::extract::Json;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Longest base URL of an inference listener.
const MAX_ADDRESS_BYTES: usize = 512;

/// `POST /internal/v1/join`
pub(super) async fn join(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinResponse>> {
    let token = bearer(&headers)?;
    if !bool::from(token.as_bytes().ct_eq(app.join_token.as_bytes())) {
        return Err(ApiError::Unauthorized("the join token is wrong: take the one of this installation"));
    }
    check(&request)?;
    let credential = mint(CredentialKind::Worker, app.random());
    let mut tx = app.store.system().await?;
    let hash = app.pepper.hash(&credential);
    let worker_id = match store::workers::join(&mut tx, &request, &hash, app.clock.now()).await {
        Err(StoreError::NotFound(what)) => {
            return Err(ApiError::field("devices", format!("the {what} of a device is not known here")));
        }
        done => done?,
    };
    tx.commit().await?;
    app.fleet.forget(worker_id);
    tracing::info!(worker.id = %worker_id, "Worker {} joined from {}", request.name, request.address);
    Ok(Json(JoinResponse { worker_id, credential, gateway_key: gateway_key(&app.pepper, worker_id) }))
}

/// What the types do not say.
fn check(request: &JoinRequest) -> Result<()> {
    let url = reqwest::Url::parse(&request.address).ok();
    let usable = url.is_some_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    if !usable || request.address.len() > MAX_ADDRESS_BYTES {
        return Err(ApiError::field("address", "must be the http or https URL of the inference listener"));
    }
    if request.devices.is_empty() || request.devices.len() > MAX_DEVICES {
        return Err(ApiError::field("devices", format!("a worker has 1 to {MAX_DEVICES} devices")));
    }
    let ordinals: BTreeSet<u32> = request.devices.iter().map(|d| d.ordinal).collect();
    if ordinals.len() != request.devices.len() {
        return Err(ApiError::field("devices", "two devices have the same ordinal"));
    }
    let fits = |n: u64| i64::try_from(n).is_ok();
    let small = |n: u32| i32::try_from(n).is_ok();
    if !request.devices.iter().all(|d| fits(d.memory_bytes) && small(d.milli) && small(d.ordinal)) {
        return Err(ApiError::field("devices", "a device is larger than can be counted"));
    }
    Ok(())
}
