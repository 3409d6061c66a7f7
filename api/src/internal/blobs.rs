//! Model files, to workers on which a version that has them is placed.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use domain::models::Sha256Digest;

use super::WorkerIdentity;
use crate::extract::Path;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// `GET /internal/v1/blobs/{sha256}`
pub(super) async fn get_blob(
    State(app): State<App>,
    WorkerIdentity(worker): WorkerIdentity,
    Path(sha256): Path<Sha256Digest>,
) -> Result<Response> {
    let registered = store::workers::placed_file_bytes(&app.store, worker, sha256)
        .await?
        .ok_or(ApiError::NotFound("model file"))?;
    let key = format!("models/sha256/{sha256}");
    // The worker passes these on as the reason why a placement cannot start.
    let stored = app.objects.size(&key).await?.ok_or_else(|| {
        ApiError::Unavailable(format!(
            "model file {sha256} is missing in the object store: restore it from a backup or register the \
             version again"
        ))
    })?;
    if stored != registered {
        return Err(ApiError::Unavailable(format!(
            "model file {sha256} has {stored} bytes in the object store and was registered with {registered}: \
             restore it from a backup or register the version again"
        )));
    }
    let (bytes, content) = app.objects.get(&key).await?;
    let headers =
        [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, bytes.to_string())];
    Ok((headers, Body::from_stream(content)).into_response())
}
