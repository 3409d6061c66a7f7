//! endpoints
use utoipa_axum::router::OpenApiRouter;

use crate::state::App;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
}
