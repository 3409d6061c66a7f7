//! Reading the audit log.

use axum::extract::State;
use domain::audit::AuditEvent;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Scope, TenantParam};
use crate::cursor::{List, Page, PageQuery};
use crate::extract::{Json, Query};
use crate::problem::Result;
use crate::state::App;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_audit_events))
}

/// The tenant's audit events, newest first; for a platform administrator
/// without `tenant`, those of everyone.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(TenantParam, PageQuery),
    responses((status = 200, body = Page<AuditEvent>)))]
async fn list_audit_events(
    scope: Scope,
    State(app): State<App>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AuditEvent>>> {
    let paging = page.of(List { name: "audit", tenant: scope.tenant, pepper: &app.pepper })?;
    let (before, limit) = (paging.after()?, paging.fetch());
    let rows = store::audit::list(&mut scope.read(&app).await?, scope.tenant, before, limit).await?;
    Ok(Json(paging.page(rows, |event| event.id.to_string())))
}
