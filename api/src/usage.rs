//! Usage: what was used, by day, project and model.

use std::time::Duration;

use axum::extract::State;
use domain::Timestamp;
use domain::budgets::Period;
use domain::tenants::Slug;
use domain::usage::{AcceleratorDay, TokenDay, UsageSummary};
use serde::{Deserialize, Serialize};
use store::usage::history;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, TenantParam, TenantScope};
use crate::extract::{Json, Query};
use crate::problem::{ApiError, Result};
use crate::state::App;

/// How far back a summary goes unless told.
const DEFAULT_DAYS: u64 = 30;
/// Longest time that one summary covers.
const MAX_DAYS: u64 = 400;
const DAY: Duration = Duration::from_secs(86_400);

/// Routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_usage)).routes(routes!(get_usage_history))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct UsageQuery {
    /// First day (`YYYY-MM-DD`, UTC) or moment (RFC 3339); left out: 30 days before `to`.
    from: Option<String>,
    /// Last day, or the moment at which to end; left out: now.
    to: Option<String>,
    /// Only of this project.
    project: Option<Slug>,
}

/// Usage of the tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UsageReport {
    /// From this moment on.
    from: Timestamp,
    /// Up to, not including, this moment.
    to: Timestamp,
    /// Newest day first.
    items: Vec<UsageSummary>,
}

/// Sum usage by day, project and model
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage", params(UsageQuery),
    responses((status = 200, body = UsageReport)))]
async fn get_usage(
    State(app): State<App>,
    scope: TenantScope,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageReport>> {
    let (from, to) = query.range(app.clock.now())?;
    let mut tx = scope.read(&app).await?;
    let project = match &query.project {
        Some(slug) => Some(store::projects::by_slug(&mut tx, slug).await?.id),
        None => None,
    };
    let items = store::usage::summary(&mut tx, from, to, project).await?;
    Ok(Json(UsageReport { from, to, items }))
}

/// Time of accelerators and tokens, day by day.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct UsageHistory {
    /// The first day begins then.
    from: Timestamp,
    /// The last has ended by then.
    to: Timestamp,
    /// By day, tenant, project and class, newest day first; what still runs counts
    /// until now.
    accelerators: Vec<AcceleratorDay>,
    /// By day, tenant and project, newest day first.
    tokens: Vec<TokenDay>,
}

/// Time of accelerators by class, and tokens, day by day
///
/// Of all tenants for the platform, else of the tenant. Days are whole: a moment
/// stands for its day. At most 10,000 lines of each.
#[utoipa::path(get, path = "/api/v1/usage/history", tag = "usage", params(TenantParam, UsageQuery),
    responses((status = 200, body = UsageHistory)))]
async fn get_usage_history(
    State(app): State<App>,
    scope: Scope,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageHistory>> {
    let now = app.clock.now();
    let (from, to) = query.range(now)?;
    let from = Period::Day.begins(from);
    let to = Period::Day.ends(to - Duration::from_micros(1));
    let project = query.project.as_ref().map(Slug::as_str);
    let range = history::Range { from, to, tenant: scope.tenant, project };
    let mut tx = app.store.system().await?;
    let accelerators = history::accelerators(&mut tx, range, now).await?;
    let tokens = history::tokens(&mut tx, range).await?;
    Ok(Json(UsageHistory { from, to, accelerators, tokens }))
}

impl UsageQuery {
    /// From when until when.
    fn range(&self, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
        let to = match self.to.as_deref() {
            // The whole of the last day.
            Some(text) => moment("to", text, DAY)?,
            None => now + Duration::from_micros(1),
        };
        let from = match self.from.as_deref() {
            Some(text) => moment("from", text, Duration::ZERO)?,
            None => to - DAY * u32::try_from(DEFAULT_DAYS).unwrap_or(u32::MAX),
        };
        if from >= to {
            return Err(ApiError::field("from", "from must be before to"));
        }
        if to.since(from) > DAY * u32::try_from(MAX_DAYS).unwrap_or(u32::MAX) {
            return Err(ApiError::field(
                "from",
                format!("a report covers at most {MAX_DAYS} days; ask for less"),
            ));
        }
        Ok((from, to))
    }
}

/// A day, or a moment. A day stands for its beginning and `day_adds`.
fn moment(name: &'static str, text: &str, day_adds: Duration) -> Result<Timestamp> {
    let day = format!("{text}T00:00:00Z").parse::<Timestamp>().map(|start| start + day_adds);
    day.or_else(|_| text.parse()).map_err(|_| {
        ApiError::field(name, format!("{name} must be a day (YYYY-MM-DD) or a moment (RFC 3339)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_moments_exact() {
        assert_eq!(moment("to", "2026-03-01", DAY).unwrap().to_string(), "2026-03-02T00:00:00Z");
        assert_eq!(moment("from", "2026-03-01", Duration::ZERO).unwrap().to_string(), "2026-03-01T00:00:00Z");
        assert_eq!(moment("to", "2026-03-01T10:00:00Z", DAY).unwrap().to_string(), "2026-03-01T10:00:00Z");
        assert!(moment("to", "yesterday", DAY).is_err());
    }
}
