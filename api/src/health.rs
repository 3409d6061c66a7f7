//! Health: does the process serve, and can a prompt be answered.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use store::StoreError;
use store::health::{Summary, summary};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::{ApiError, Result, chain};
use crate::state::App;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_health)).routes(routes!(get_readiness))
}

/// Whether a prompt can be answered, and what it takes. With status 503 it is
/// a problem (RFC 9457) with these members beside the usual ones.
#[derive(Serialize, utoipa::ToSchema)]
struct Readiness {
    /// A prompt can be answered.
    ready: bool,
    /// Version of this program.
    version: &'static str,
    /// What it takes, in order.
    checks: Vec<Check>,
    #[serde(flatten)]
    #[schema(ignore)]
    problem: Option<NotReady>,
}

/// One thing that must be in order.
#[derive(Serialize, utoipa::ToSchema)]
struct Check {
    /// What.
    name: &'static str,
    /// Whether it is in order.
    ok: bool,
    /// In plain words.
    detail: String,
}

#[derive(Serialize)]
struct NotReady {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
}

/// This process serves, and its database answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, description = "In order")))]
async fn get_health(State(app): State<App>) -> Result<&'static str> {
    app.store.ping().await.map_err(|e| {
        tracing::warn!(error = chain(&e), "The database does not answer");
        ApiError::Unavailable("the database does not answer".to_owned())
    })?;
    Ok("ok\n")
}

/// A prompt can be answered: at least one endpoint has a ready replica, or gets
/// one when it is asked.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "Prompts are answered", body = Readiness),
        (status = 503, description = "What is missing", body = Readiness, content_type = "application/problem+json"),
    )
)]
async fn get_readiness(State(app): State<App>) -> Response {
    let checks = checks(look(&app).await);
    let missing: Vec<&str> = checks.iter().filter(|c| !c.ok).map(|c| c.detail.as_str()).collect();
    let ready = missing.is_empty();
    let problem = (!ready).then(|| NotReady {
        r#type: "urn:chancery:problem:not-ready",
        title: "Not ready to answer prompts",
        status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        detail: missing.join("; "),
    });
    let (status, content_type) = match ready {
        true => (StatusCode::OK, "application/json"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "application/problem+json"),
    };
    let body = Readiness { ready, version: env!("CARGO_PKG_VERSION"), checks, problem };
    (status, [(CONTENT_TYPE, content_type)], axum::Json(body)).into_response()
}

async fn look(app: &App) -> std::result::Result<Summary, StoreError> {
    let mut tx = app.store.system().await?;
    summary(&mut tx, app.clock.now()).await
}

fn checks(found: std::result::Result<Summary, StoreError>) -> Vec<Check> {
    let found = match found {
        Ok(found) => found,
        Err(e) => {
            tracing::warn!(error = chain(&e), "The database does not answer");
            return vec![Check {
                name: "Database",
                ok: false,
                detail: "the database does not answer".to_owned(),
            }];
        }
    };
    let workers = match found.live_workers {
        0 => "no worker reports".to_owned(),
        1 => "1 worker reports".to_owned(),
        n => format!("{n} workers report"),
    };
    let mut answering = format!("{} of {} endpoints answer", found.ready_endpoints, found.endpoints);
    if found.resting_endpoints > 0 {
        answering = format!("{answering}, and {} when asked", found.resting_endpoints);
    }
    let endpoints = match found.waits_because {
        _ if found.endpoints + found.resting_endpoints == 0 => "no endpoint is deployed".to_owned(),
        Some(why) => format!("{answering}; the first that waits: {why}"),
        None => answering,
    };
    vec![
        Check { name: "Database", ok: true, detail: "the database answers".to_owned() },
        Check { name: "Workers", ok: found.live_workers > 0, detail: workers },
        Check {
            name: "Endpoints",
            ok: found.ready_endpoints + found.resting_endpoints > 0,
            detail: endpoints,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_words() {
        let found = |live_workers, endpoints, ready_endpoints, why: Option<&str>| {
            checks(Ok(Summary {
                live_workers,
                endpoints,
                ready_endpoints,
                resting_endpoints: 0,
                waits_because: why.map(str::to_owned),
            }))
        };
        assert!(found(1, 2, 1, None).iter().all(|c| c.ok));
        let waiting = found(1, 1, 0, Some("model.gguf is damaged"));
        assert_eq!(waiting[2].detail, "0 of 1 endpoints answer; the first that waits: model.gguf is damaged");
        assert!(!waiting[2].ok && waiting[1].ok);
        assert!(!found(0, 0, 0, None)[1].ok);
        let resting = Summary {
            live_workers: 1,
            endpoints: 0,
            ready_endpoints: 0,
            resting_endpoints: 2,
            waits_because: None,
        };
        let resting = &checks(Ok(resting))[2];
        assert_eq!((resting.ok, &*resting.detail), (true, "0 of 0 endpoints answer, and 2 when asked"));
    }
}
