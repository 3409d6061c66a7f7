//! What a worker is to hold, as a long poll: answered at once when it differs
//! from what the worker knows, else when it changes or the wait is over.

use std::time::Duration;

use axum::extract::State;
use domain::WorkerId;
use domain::models::Sha256Digest;
use domain::workers::{DESIRED_WAIT_SECS, DesiredState};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::WorkerIdentity;
use crate::extract::{Json, Query};
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Looked again by timer, in case a notice was lost.
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
pub(super) struct Known {
    /// Revision that the worker has.
    after: Option<String>,
}

/// `GET /internal/v1/desired`
pub(super) async fn desired(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Query(known): Query<Known>,
) -> Result<Json<DesiredState>> {
    let end = Instant::now() + Duration::from_secs(DESIRED_WAIT_SECS);
    // A change between the look and the wait leaves its notice here.
    let waiter = app.fleet.waiter(worker);
    loop {
        let state = read(&app, worker).await?;
        let over = Instant::now() >= end || app.draining.is_cancelled();
        if over || known.after.as_deref() != Some(&state.revision) {
            return Ok(Json(state));
        }
        tokio::select! {
            () = waiter.notified() => {}
            () = app.draining.cancelled() => {}
            () = sleep_until(end.min(Instant::now() + RECHECK)) => {}
        }
    }
}

async fn read(app: &App, worker: WorkerId) -> Result<DesiredState> {
    let (epoch, placements) = store::workers::desired(&app.store, worker).await?;
    let content = serde_json::to_vec(&(epoch, &placements)).map_err(ApiError::internal)?;
    Ok(DesiredState { epoch, revision: Sha256Digest::of(&content).to_string(), placements })
}
