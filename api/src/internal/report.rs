//! A worker says that it lives, and what it holds.

use axum::extract::State;
use axum::http::StatusCode;
use domain::workers::{MAX_DEVICES, MAX_REPORTED_PLACEMENTS, ReportRequest};

use super::WorkerIdentity;
use crate::extract::Json;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// `POST /internal/v1/report`
pub(super) async fn report(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Json(request): Json<ReportRequest>,
) -> Result<StatusCode> {
    if request.placements.len() > MAX_REPORTED_PLACEMENTS {
        return Err(ApiError::field(
            "placements",
            format!("a report has at most {MAX_REPORTED_PLACEMENTS} placements"),
        ));
    }
    if request.devices.len() > MAX_DEVICES {
        return Err(ApiError::field("devices", format!("a worker has at most {MAX_DEVICES} devices")));
    }
    let mut tx = app.store.system().await?;
    store::workers::report(&mut tx, worker, &request.placements, &request.devices, app.clock.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
