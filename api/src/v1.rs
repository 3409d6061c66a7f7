//! `/v1`: what OpenAI's clients call. Bodies are read and written by
//! `domain::openai`, errors take OpenAI's shape in `problem`, and the work is
//! done by the gateway and by the same code as under `/api/v1`.

use utoipa_axum::router::OpenApiRouter;

use crate::state::App;

mod answers;
mod batches;
mod files;
mod models;

/// Routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(models::router())
        .merge(answers::router())
        .merge(files::router())
        .merge(batches::router())
}

/// Reads `file-…` or `batch_…` as OpenAI writes ids, or a plain identifier.
fn parse_id<T: From<uuid::Uuid>>(text: &str, prefix: &str) -> Option<T> {
    text.strip_prefix(prefix).unwrap_or(text).parse::<uuid::Uuid>().ok().map(T::from)
}
