//! What every route does alike: Idempotency-Key on POST, ETag and If-Match on
//! updates.

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::idempotency::Answer;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, Required};

use super::Access;
use crate::extract::{Json, is_json, read_body};
use crate::problem::{ApiError, Result};
use crate::state::App;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest Idempotency-Key.
const MAX_KEY_BYTES: usize = 255;
/// POSTs that make nothing which could be made twice.
const REPEATABLE: [&str; 1] = ["check_identity_provider"];
/// PUTs that say the whole of what they put: nothing of another's is lost.
const UNCONDITIONAL: [&str; 8] = [
    "put_project_member",
    "put_cohort",
    "put_tenant_quota",
    "put_project_quota",
    "put_tenant_budgets",
    "put_project_budgets",
    "put_pool",
    "put_accelerator_class",
];

/// What an operation of the provisioning API must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// An Idempotency-Key.
    Key,
    /// If-Match.
    Revision,
}

impl Needs {
    /// What an operation that asks for a credential needs besides.
    pub(crate) fn of(method: &Method, path: &str, operation: &str) -> Option<Self> {
        let provisioning = path.starts_with("/api/");
        match *method {
            Method::POST if provisioning && !REPEATABLE.contains(&operation) => Some(Self::Key),
            Method::PUT | Method::PATCH if provisioning && !UNCONDITIONAL.contains(&operation) => {
                Some(Self::Revision)
            }
            _ => None,
        }
    }

    /// The header, for the API document.
    pub(crate) fn parameter(self) -> Parameter {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let (name, description, schema, example) = match self {
            Self::Key => (
                "Idempotency-Key",
                "New for each thing to make, e.g. a UUID. Sent again with the same request, it makes nothing \
                 twice and gives the first answer again, for at least a day.",
                text.min_length(Some(1)).max_length(Some(MAX_KEY_BYTES)).pattern(Some("^[!-~]+$")),
                "5f0c1d1e-6b1c-4c0b-9f59-0d8a3f2f7a11",
            ),
            Self::Revision => (
                "If-Match",
                "The ETag of what was read, or * to overwrite whatever is there.",
                text.pattern(Some("^(\\*|\"[0-9]{1,18}\")$")),
                "*",
            ),
        };
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(schema))
            .example(Some(serde_json::json!(example)))
            .build()
    }
}

/// A request's Idempotency-Key, bound to who sent it.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Keyed hash of caller, tenant and key.
    pub key_hash: [u8; 32],
    /// SHA-256 of the request.
    fingerprint: [u8; 32],
    /// The key: what the answer is sealed under, known to its sender alone.
    key: String,
}

/// An answer that may be given again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) body: Option<Box<RawValue>>,
}

impl Kept {
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK)
    }

    /// The answer; `again` if it was given before.
    pub(crate) fn into_response(self, again: bool) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(etag) = self.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            headers.insert(ETAG, etag);
        }
        if again {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(body) = self.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *response.body_mut() = Body::from(String::from(Box::<str>::from(body)));
        }
        response
    }
}

impl Claim {
    fn of(app: &App, access: &Access, key: &str, fingerprint: [u8; 32]) -> Self {
        let tenant = access.tenant.as_ref().map(|t| t.id.to_string()).unwrap_or_default();
        let named = [&access.caller.actor(), &tenant, key].map(str::as_bytes).join(&0);
        Self { key_hash: app.pepper.derive("idempotency", &named), fingerprint, key: key.to_owned() }
    }

    pub(super) fn seal(&self, app: &App, kept: &Kept) -> Result<Answer> {
        let plain = serde_json::to_vec(kept).map_err(ApiError::internal)?;
        let sealed = crate::seal::seal(&app.pepper, "idempotent answer", self.key.as_bytes(), &plain);
        Ok(Answer { fingerprint: self.fingerprint, status: kept.status, sealed })
    }

    /// The answer that was given, or why it cannot be given to this request.
    pub(super) fn replay(&self, app: &App, answer: &Answer) -> ApiError {
        if answer.fingerprint != self.fingerprint {
            return ApiError::Invalid(
                "this Idempotency-Key was sent with another request; make a new key for each".to_owned(),
            );
        }
        let plain = crate::seal::open(&app.pepper, "idempotent answer", self.key.as_bytes(), &answer.sealed);
        let kept = plain.and_then(|plain| serde_json::from_slice::<Kept>(&plain).ok());
        match kept {
            Some(kept) => ApiError::Replayed(Box::new(kept)),
            None => ApiError::internal("a kept answer cannot be opened"),
        }
    }
}

/// Checks the headers that a method asks for, and reads the request's body
/// where its fingerprint needs it.
pub(super) async fn enter(
    app: &App,
    access: &Access,
    parts: Parts,
    body: Body,
) -> Result<(Parts, Body, Option<Claim>)> {
    let needs = Needs::of(&parts.method, parts.uri.path(), &access.operation);
    if needs == Some(Needs::Revision) && !parts.headers.contains_key(IF_MATCH) {
        return Err(ApiError::PreconditionRequired);
    }
    if parts.method != Method::POST {
        return Ok((parts, body, None));
    }
    let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
        if needs == Some(Needs::Key) {
            return Err(ApiError::Malformed(
                "send an Idempotency-Key header, new for each thing to make, e.g. a UUID; \
                 sent again it makes nothing twice"
                    .to_owned(),
            ));
        }
        return Ok((parts, body, None));
    };
    let visible = |key: &&str| key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len())).filter(visible);
    let key = key.ok_or_else(|| {
        ApiError::Malformed(format!("an Idempotency-Key has 1 to {MAX_KEY_BYTES} visible ASCII characters"))
    })?;
    let key = key.to_owned();
    let (body, bytes) = if is_json(&parts.headers) {
        let bytes = read_body(app, body).await?;
        (Body::from(bytes.clone()), bytes)
    } else {
        // A file is streamed; its length must do.
        (body, Bytes::new())
    };
    let fingerprint = fingerprint(&parts, &bytes);
    let claim = Claim::of(app, access, &key, fingerprint);
    Ok((parts, body, Some(claim)))
}

fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let length = parts.headers.get(CONTENT_LENGTH).map_or(&b""[..], HeaderValue::as_bytes);
    let mut digest = Sha256::new();
    for part in [
        parts.method.as_str().as_bytes(),
        parts.uri.path().as_bytes(),
        parts.uri.query().unwrap_or_default().as_bytes(),
        length,
    ] {
        digest.update(part);
        digest.update([0]);
    }
    digest.update(body);
    digest.finalize().into()
}

/// The ETag of a revision.
pub(super) fn etag(revision: i64) -> String {
    format!("\"{revision}\"")
}

/// The revision that an update expects; `None` for any (`*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfMatch(pub Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let value = parts.headers.get(IF_MATCH).ok_or(ApiError::PreconditionRequired)?;
        let value = value.to_str().unwrap_or_default().trim();
        if value == "*" {
            return Ok(Self(None));
        }
        let revision = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).and_then(|v| v.parse().ok());
        // What is no ETag of ours matches nothing.
        revision.map(|revision| Self(Some(revision))).ok_or(ApiError::Stale)
    }
}

/// A body with its revision as ETag.
#[derive(Clone, Debug)]
pub struct Tagged<T>(pub T, pub i64);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(ETAG, etag(self.1))], Json(self.0)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn if_match(value: Option<&str>) -> Result<Option<i64>> {
        let mut request = axum::http::Request::builder();
        if let Some(value) = value {
            request = request.header(IF_MATCH, value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        IfMatch::from_request_parts(&mut parts, &()).await.map(|IfMatch(revision)| revision)
    }

    #[tokio::test]
    async fn updates_say_what_they_saw() {
        assert_eq!(if_match(Some("\"7\"")).await.unwrap(), Some(7));
        assert_eq!(if_match(Some("*")).await.unwrap(), None);
        assert!(matches!(if_match(None).await, Err(ApiError::PreconditionRequired)));
        for wrong in ["7", "W/\"7\"", "\"x\"", ""] {
            assert!(matches!(if_match(Some(wrong)).await, Err(ApiError::Stale)), "{wrong}");
        }
    }
}
