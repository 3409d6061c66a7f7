//! Extractors like axum's, whose refusals are problems and which refuse fields
//! that nobody reads.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error as StdError;

use crate::problem::{ApiError, Result};
use crate::state::App;

/// A JSON body, of a request or an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

/// The query string. `tenant` belongs to [`crate::access::TenantScope`] and is
/// not part of `T`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

/// Parameters of the path. One that cannot be read names nothing: 404.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType(
                "send JSON, with Content-Type: application/json".to_owned(),
            ));
        }
        parse_json(&read(app, request).await?).map(Self)
    }
}

/// An ordinary body, whole.
pub(crate) async fn read_body(app: &App, body: Body) -> Result<Bytes> {
    read(app, Request::new(body)).await
}

async fn read(app: &App, request: Request) -> Result<Bytes> {
    let limit = app.settings.max_body_bytes;
    let body = axum::body::to_bytes(request.into_body(), limit);
    match tokio::time::timeout(app.settings.body_timeout(), body).await {
        Err(_) => Err(ApiError::TimedOut),
        Ok(Err(e)) if is_too_long(&e) => Err(ApiError::TooLarge { limit: limit as u64 }),
        Ok(Err(e)) => Err(stream_error(&e)),
        Ok(Ok(body)) => Ok(body),
    }
}

fn is_too_long(e: &axum::Error) -> bool {
    e.source().is_some_and(<dyn std::error::Error + 'static>::is::<http_body_util::LengthLimitError>)
}

/// Reads JSON; refuses unknown fields by name.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut unknown = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value = serde_ignored::deserialize(tracked, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    });
    let value: T = value.map_err(|e: serde_json::Error| {
        let field = track.path().to_string();
        match e.classify() {
            serde_json::error::Category::Data if field != "." => ApiError::field(field, without_position(&e)),
            serde_json::error::Category::Data => ApiError::Invalid(without_position(&e)),
            _ => ApiError::Malformed(format!("the body is not JSON: {e}")),
        }
    })?;
    json.end().map_err(|e| ApiError::Malformed(format!("the body goes on after its JSON: {e}")))?;
    match unknown {
        Some(field) => Err(unknown_field(&field)),
        None => Ok(value),
    }
}

fn unknown_field(field: &str) -> ApiError {
    let field: String = field.chars().take(80).collect();
    ApiError::InvalidField { detail: format!("unknown field {field:?}"), field }
}

/// The field is named beside it; where in the text it was helps nobody.
fn without_position(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// What it means that a body could not be read to its end.
pub fn stream_error(e: &(dyn StdError + 'static)) -> ApiError {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if e.is::<tower_http::timeout::TimeoutError>() {
            return ApiError::TimedOut;
        }
        cause = e.source();
    }
    ApiError::Malformed("the body broke off".to_owned())
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Parameters with `tenant`, where the access layer does not read it: on routes
/// that ask for no credential.
pub(crate) struct WholeQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for WholeQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parse_whole_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T> {
    let own: String = query
        .split('&')
        .filter(|pair| pair.split('=').next() != Some("tenant"))
        .collect::<Vec<_>>()
        .join("&");
    parse_whole_query(&own)
}

fn parse_whole_query<T: DeserializeOwned>(query: &str) -> Result<T> {
    let mut unknown = None;
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    let value: T = serde_ignored::deserialize(pairs, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    })
    .map_err(|e| {
        match e.to_string().strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            Some(name) => unknown_field(name),
            None => ApiError::Malformed(format!("the query string is wrong: {e}")),
        }
    })?;
    match unknown {
        Some(name) => Err(unknown_field(&name)),
        None => Ok(value),
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError::NotFound("object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Wanted {
        name: String,
        #[serde(default)]
        limit: u32,
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let e = parse_json::<Wanted>(br#"{"name": "a", "nmae": 1}"#).unwrap_err();
        assert_eq!(e.to_string(), r#"unknown field "nmae""#);
        let e = parse_query::<Wanted>("name=a&limt=3").unwrap_err();
        assert_eq!(e.to_string(), r#"unknown field "limt""#);
    }

    #[test]
    fn the_tenant_of_a_query_is_read_elsewhere() {
        let wanted = Wanted { name: "a".to_owned(), limit: 3 };
        assert_eq!(parse_query::<Wanted>("tenant=interior&name=a&limit=3").unwrap(), wanted);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let e = parse_json::<Wanted>(br#"{"name": "a", "limit": "x"}"#).unwrap_err();
        assert!(matches!(e, ApiError::InvalidField { ref field, .. } if field == "limit"), "{e:?}");
        let e = parse_json::<Wanted>(br#"{"name": "a"} {}"#).unwrap_err();
        assert!(matches!(e, ApiError::Malformed(_)), "{e:?}");
        let e = parse_json::<Wanted>(b"{").unwrap_err();
        assert!(matches!(e, ApiError::Malformed(_)), "{e:?}");
    }
}
