//! Audit at the edge: events of allowed mutations, for handlers to record in
//! their transaction, and one layer that records every refused one.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::TenantId;
use domain::audit::{AuditEvent, Verdict};
use domain::principals::Caller;

use crate::auth::TenantScope;
use crate::problem::ApiError;
use crate::state::App;

/// Longest part of a path that a refused act's record keeps.
const MAX_OBJECT_BYTES: usize = 200;

/// An allowed act of `caller`, in `tenant` or on the platform.
pub fn event(
    app: &App,
    caller: &Caller,
    tenant: Option<TenantId>,
    action: &'static str,
    object: impl Into<String>,
) -> AuditEvent {
    store::audit::allowed(tenant, app.clock.now(), caller.actor(), action, object)
}

impl TenantScope {
    /// An allowed act in this scope.
    pub fn event(&self, app: &App, action: &'static str, object: impl Into<String>) -> AuditEvent {
        event(app, &self.caller, Some(self.tenant), action, object)
    }
}

/// Where authentication leaves the caller for layers outside of the handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerSlot(Arc<OnceLock<Caller>>);

impl CallerSlot {
    pub(crate) fn get(&self) -> Option<&Caller> {
        self.0.get()
    }

    pub(crate) fn set(&self, caller: Caller) {
        // The first authentication of a request is the one that counts.
        let _ = self.0.set(caller);
    }
}

/// Names of operations by method and route, as in the API document.
#[derive(Clone, Debug)]
pub(crate) struct Operations(Arc<HashMap<(String, String), String>>);

impl Operations {
    pub(crate) fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let mut names = HashMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in crate::openapi::operations(item) {
                if let Some(id) = &operation.operation_id {
                    names.insert((method.to_string(), path.clone()), id.clone());
                }
            }
        }
        Self(Arc::new(names))
    }

    fn name(&self, method: &Method, route: &str) -> String {
        let known = self.0.get(&(method.to_string(), route.to_owned()));
        known.cloned().unwrap_or_else(|| format!("{method} {route}"))
    }
}

/// Records mutations of known callers that were refused: by their role, or
/// because what they name is not theirs or is not there, which look the same.
pub(crate) async fn record_denied(
    State((app, operations)): State<(App, Operations)>,
    mut request: Request,
    next: Next,
) -> Response {
    let slot = CallerSlot::default();
    request.extensions_mut().insert(slot.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;

    let mutation = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let refused = matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
    let (true, true, Some(route), Some(caller)) = (mutation, refused, route, slot.get()) else {
        return response;
    };
    let mut event = event_of_refusal(&app, caller, &operations.name(&method, route.as_str()), &path);
    event.detail = serde_json::json!({ "status": response.status().as_u16() });
    match write(&app, caller, &event).await {
        Ok(()) => response,
        // What cannot be recorded is not answered as if it were.
        Err(e) => ApiError::from(e).into_response(),
    }
}

fn event_of_refusal(app: &App, caller: &Caller, action: &str, path: &str) -> AuditEvent {
    let mut path = path.to_owned();
    path.truncate(path.floor_char_boundary(MAX_OBJECT_BYTES));
    let mut event =
        store::audit::allowed(caller.tenant, app.clock.now(), caller.actor(), action, format!("path:{path}"));
    event.verdict = Verdict::Denied;
    event
}

async fn write(app: &App, caller: &Caller, event: &AuditEvent) -> Result<(), store::StoreError> {
    match caller.tenant {
        Some(tenant) => {
            let mut tx = app.store.tenant(tenant).await?;
            store::audit::record(&mut tx, event).await?;
            tx.commit().await
        }
        None => {
            let mut tx = app.store.system().await?;
            store::audit::record(&mut tx, event).await?;
            tx.commit().await
        }
    }
}
