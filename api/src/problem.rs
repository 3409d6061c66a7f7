//! Errors as HTTP says them: RFC 9457 `application/problem+json`, and under
//! `/v1` the shape that OpenAI's clients read. The one place that decides.

use std::error::Error as StdError;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use store::StoreError;

use crate::access::Kept;
use crate::server::RequestTag;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No such thing, or not the caller's: it cannot tell which.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// No such thing, said in words.
    #[error("{0}")]
    NotFoundText(String),
    /// The request cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// The request can be read and asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The same, for one named field.
    #[error("{detail}")]
    InvalidField {
        /// The field.
        field: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// No credential, or none that is valid.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The password is right, and a one-time code is needed too.
    #[error("send the one-time code of your device, or a recovery code, as one_time_code")]
    OneTimeCodeRequired,
    /// The caller's role does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// This path does not know the method.
    #[error("this path does not support the method; the Allow header names those it does")]
    MethodNotAllowed,
    /// The client was too slow.
    #[error("the request was not received in time")]
    TimedOut,
    /// It collides with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The same Idempotency-Key is being worked on.
    #[error("a request with this Idempotency-Key is still being worked on; send it again in a moment")]
    InFlight,
    /// An update must say what it saw.
    #[error("send If-Match with the ETag of what you read, or * to overwrite whatever is there")]
    PreconditionRequired,
    /// What was read has changed since.
    #[error("it has changed since you read it; read it again and repeat the update with its new ETag")]
    Stale,
    /// Not an error: the answer that was given to the same request before.
    #[error("answered before")]
    Replayed(Box<Kept>),
    /// The body is larger than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body has the wrong type.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// Come again later.
    #[error("{detail}")]
    TooManyRequests {
        /// When.
        retry_after_secs: u64,
        /// Why.
        detail: String,
    },
    /// What may be spent in this period is spent, or reserved.
    #[error("{detail}")]
    BudgetSpent {
        /// When the next period begins.
        retry_after_secs: u64,
        /// Which budget, and when it renews.
        detail: String,
    },
    /// Not now; nothing is wrong with the request.
    #[error("{0}")]
    Unavailable(String),
    /// A defect, or a broken part. The cause is logged and not told.
    #[error("internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

/// The handlers' result.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An error answer (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Stable name of the kind of problem, e.g. `urn:chancery:problem:not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and what to do.
    pub detail: String,
    /// The request, as in `x-request-id`; operators find it in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The field of the request that is wrong, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl ApiError {
    /// From any error that is nobody's fault outside.
    pub fn internal(e: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(e.into())
    }

    /// A field that cannot be accepted.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), detail: detail.into() }
    }

    /// Status, name and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound(_) | Self::NotFoundText(_) => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed", "Request cannot be read"),
            Self::Invalid(_) | Self::InvalidField { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Request cannot be accepted")
            }
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized", "Valid credential required"),
            Self::OneTimeCodeRequired => {
                (StatusCode::UNAUTHORIZED, "one-time-code-required", "One-time code required")
            }
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not supported")
            }
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "timeout", "Request took too long"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::InFlight => (StatusCode::CONFLICT, "in-flight", "Being worked on"),
            Self::PreconditionRequired => {
                (StatusCode::PRECONDITION_REQUIRED, "precondition-required", "If-Match required")
            }
            Self::Stale => (StatusCode::PRECONDITION_FAILED, "stale", "Changed since"),
            Self::Replayed(kept) => (kept.status(), "replayed", "Answered before"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Body too large"),
            Self::UnsupportedMediaType(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Body has the wrong type")
            }
            Self::TooManyRequests { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests")
            }
            Self::BudgetSpent { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "insufficient-quota", "Budget is spent")
            }
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind().0
    }

    fn problem(&self) -> Problem {
        let (status, name, title) = self.kind();
        Problem {
            kind: format!("urn:chancery:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            instance: None,
            field: match self {
                Self::InvalidField { field, .. } => Some(field.clone()),
                _ => None,
            },
        }
    }

    /// What an answer without a problem means, from its status alone.
    fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound("path"),
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::TimedOut,
            StatusCode::UNPROCESSABLE_ENTITY => Self::Invalid("the request cannot be accepted".to_owned()),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::UnsupportedMediaType("the body has the wrong type".to_owned())
            }
            s if s.is_client_error() => Self::Malformed("the request cannot be read".to_owned()),
            s => Self::internal(format!("an answer with status {s} and no problem")),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound(what) => Self::NotFound(what),
            StoreError::Exists(what) => Self::Conflict(format!("{what} already exists")),
            StoreError::Conflict(why) => Self::Conflict(why.to_owned()),
            StoreError::Stale => Self::Stale,
            StoreError::LeaseLost => Self::Conflict("the lease is lost".to_owned()),
            StoreError::TooManyDevices => Self::Invalid(e.to_string()),
            e if e.is_transient() => {
                tracing::warn!(error = chain(&e), "The database does not answer");
                Self::Unavailable("the database does not answer; try again in a moment".to_owned())
            }
            e => Self::internal(e),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Replayed(kept) = self {
            return kept.into_response(true);
        }
        if let Self::Internal(source) = &self {
            tracing::error!(error = chain(source.as_ref()), "Internal error");
        }
        let problem = self.problem();
        let mut response =
            json(StatusCode::from_u16(problem.status).unwrap_or_default(), PROBLEM_JSON, &problem);
        let headers = response.headers_mut();
        match &self {
            Self::TooManyRequests { retry_after_secs, .. } | Self::BudgetSpent { retry_after_secs, .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_secs));
            }
            Self::InFlight => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Unavailable(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(UNAVAILABLE_RETRY_SECS));
            }
            Self::Unauthorized(_) | Self::OneTimeCodeRequired => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="chancery""#));
            }
            _ => {}
        }
        response.extensions_mut().insert(Arc::new(problem));
        response
    }
}

/// When to try again after 503.
const UNAVAILABLE_RETRY_SECS: u64 = 2;
const PROBLEM_JSON: &str = "application/problem+json";

/// An error and all its causes, in one line.
pub(crate) fn chain(e: &(dyn StdError + 'static)) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("strings and numbers serialise");
    (status, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

/// OpenAI's error shape. Its clients read nothing else, so answers under `/v1`
/// are the one exception to problem+json.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OpenAiProblem)]
pub(crate) struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

/// What is wrong, in the fields that OpenAI's clients know.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OpenAiError<'a> {
    /// What is wrong here, and what to do.
    message: &'a str,
    /// Class of the error.
    r#type: &'static str,
    /// The field of the request that is wrong, if it is one.
    param: Option<&'a str>,
    /// Last part of the type that a problem has elsewhere, e.g. `not-found`.
    code: &'a str,
}

fn openai(problem: &Problem) -> OpenAiBody<'_> {
    let code = problem.kind.rsplit(':').next().unwrap_or_default();
    // OpenAI's clients know this one by its name.
    if code == "insufficient-quota" {
        let (r#type, code) = ("insufficient_quota", "insufficient_quota");
        return OpenAiBody { error: OpenAiError { message: &problem.detail, r#type, param: None, code } };
    }
    let r#type = match problem.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    OpenAiBody {
        error: OpenAiError { message: &problem.detail, r#type, param: problem.field.as_deref(), code },
    }
}

/// Gives every error answer its final body, with the request's id; whatever
/// made it, also the router itself.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let tag = request.extensions().get::<RequestTag>().cloned();
    let openai_shape = request.uri().path().starts_with("/v1/") || request.uri().path() == "/v1";
    let mut response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = match response.extensions_mut().remove::<Arc<Problem>>() {
        Some(problem) => problem,
        None if is_json(&response) => return response,
        None => {
            let mut made = ApiError::from_status(status).into_response();
            let problem = made.extensions_mut().remove::<Arc<Problem>>();
            problem.expect("into_response put it there")
        }
    };
    // OpenAI answers 400 to whatever is wrong with a request.
    let status = if openai_shape && status == StatusCode::UNPROCESSABLE_ENTITY {
        StatusCode::BAD_REQUEST
    } else {
        status
    };
    let problem =
        Problem { instance: tag.map(|t| t.to_string()), status: status.as_u16(), ..(*problem).clone() };
    let rendered = if openai_shape {
        json(status, "application/json", &openai(&problem))
    } else {
        json(status, PROBLEM_JSON, &problem)
    };
    let (mut parts, body) = (response.into_parts().0, rendered);
    let (head, body) = body.into_parts();
    parts.status = status;
    parts.headers.remove(CONTENT_LENGTH);
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        parts.headers.insert(CONTENT_TYPE, content_type.clone());
    }
    // For layers outside, e.g. what the log says.
    parts.extensions.insert(Arc::new(problem));
    Response::from_parts(parts, body)
}

fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("application/") && v.contains("json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_tells_nothing() {
        let e = ApiError::internal("password=hunter2");
        assert_eq!(e.problem().detail, "internal error");
        assert_eq!(e.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn openai_shape_names_the_field() {
        let problem = ApiError::field("temperature", "must be between 0 and 2").problem();
        let body = serde_json::to_value(openai(&problem)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"error": {"message": "must be between 0 and 2", "type": "invalid_request_error",
                "param": "temperature", "code": "invalid"}})
        );
    }

    #[test]
    fn a_taken_name_is_a_conflict() {
        assert_eq!(ApiError::from(StoreError::Exists("tenant")).status(), StatusCode::CONFLICT);
        assert_eq!(ApiError::from(StoreError::NotFound("tenant")).status(), StatusCode::NOT_FOUND);
    }
}
