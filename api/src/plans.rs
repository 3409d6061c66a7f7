//! The record of the scheduler's plans, for those who would make one again.

use std::str::FromStr;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use domain::planner::PlanId;
use futures_util::stream;
use store::workloads::plans;
use store::{Store, StoreError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Scope;
use crate::extract::Path;
use crate::problem::{ApiError, Result};
use crate::state::App;

/// Pages read at once.
const PAGES: i64 = 64;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_plan_record))
}

/// What led to a plan of the scheduler: each page of its record since the
/// planner began, a line of JSON each.
///
/// Each page names the SHA-256 of the line before; that of the last is what
/// placements call the digest of their inputs. `chancery replay` makes the plan
/// again. For administrators and auditors of the platform: it tells of the work of
/// every tenant.
#[utoipa::path(get, path = "/api/v1/plans/{plan}/record", tag = "workloads",
    params(("plan" = String, Path, description = "Epoch and number, as `12-3045`")),
    responses((status = 200, content_type = "application/x-ndjson", body = String)))]
async fn get_plan_record(_: Scope, State(app): State<App>, Path(plan): Path<String>) -> Result<Response> {
    let plan = PlanId::from_str(&plan).map_err(|_| ApiError::from(StoreError::NotFound("plan")))?;
    let first = plans::beginning(&mut app.store.system().await?, plan).await?;
    let lines = stream::try_unfold(Some(first), move |next| {
        let store = app.store.clone();
        async move {
            match next {
                Some(from) => some_pages(&store, from, plan).await.map(Some),
                None => Ok(None),
            }
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Some pages, and from where to go on.
async fn some_pages(
    store: &Store,
    from: PlanId,
    to: PlanId,
) -> std::result::Result<(Bytes, Option<PlanId>), StoreError> {
    let pages = plans::pages(&mut store.system().await?, from, to, PAGES).await?;
    let next = from.number + i64::try_from(pages.len()).unwrap_or(i64::MAX);
    // Without what is missing the reader sees that the record is cut off.
    let more = !pages.is_empty() && next <= to.number;
    let lines = pages.into_iter().flat_map(|page| [page, "\n".to_owned()]).collect::<String>();
    Ok((lines.into(), more.then_some(PlanId { number: next, ..from })))
}
