//! The internal listener: what workers speak. Kept off public networks.

mod blobs;
mod desired;
mod fleet;
mod join;
mod leases;
mod report;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post};
use domain::WorkerId;
use domain::keys::{CredentialKind, Pepper, kind_of};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::bearer;
use crate::problem::{ApiError, Result};
use crate::state::App;

pub(crate) use fleet::Fleet;

/// Routes of the internal listener. Not in the public API document.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .route("/internal/v1/join", post(join::join))
        .route("/internal/v1/report", post(report::report))
        .route("/internal/v1/desired", get(desired::desired))
        .route("/internal/v1/blobs/{sha256}", get(blobs::get_blob))
        .merge(leases::router())
}

/// The worker that calls. It may act for what is placed on it and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct WorkerIdentity(pub WorkerId);

impl FromRequestParts<App> for WorkerIdentity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        const REFUSED: ApiError =
            ApiError::Unauthorized("the worker's credential is not valid any more: join again");
        let credential = bearer(&parts.headers)?;
        if kind_of(credential) != Some(CredentialKind::Worker) {
            return Err(REFUSED);
        }
        let hash = app.pepper.hash(credential);
        if let Some(worker) = app.fleet.known(&hash, app.clock.now()) {
            return Ok(Self(worker));
        }
        let epoch = app.fleet.epoch();
        let mut tx = app.store.system().await?;
        let worker = store::workers::by_credential(&mut tx, &hash).await?.ok_or(REFUSED)?;
        tx.commit().await?;
        app.fleet.remember(hash, worker, app.clock.now(), epoch);
        Ok(Self(worker))
    }
}

/// What gateways present to a worker's inference listener. Derived, so that
/// every gateway knows it and the database does not.
pub(crate) fn gateway_key(pepper: &Pepper, worker: WorkerId) -> String {
    hex::encode(pepper.derive("gateway", worker.0.as_bytes()))
}
