//! The portal's assets and the API document, embedded in the program.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};
use tower_http::compression::CompressionLayer;

use crate::problem::ApiError;
use crate::state::App;

/// Names under `assets/` carry a hash of their content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// The API reference styles its elements inline; nothing else may.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
);

#[derive(RustEmbed)]
#[folder = "../portal/dist"]
#[allow_missing = true]
struct Assets;

/// Pages and their assets, without credentials: they hold no data.
pub(crate) fn router(document: &utoipa::openapi::OpenApi) -> Router<App> {
    let document = Bytes::from(serde_json::to_vec_pretty(document).expect("the document serialises"));
    Router::new()
        .route("/", get(async |headers: HeaderMap| asset("index.html", &headers)))
        .route("/docs", get(get_docs))
        .route("/icon.svg", get(async |headers: HeaderMap| asset("icon.svg", &headers)))
        .route("/assets/{name}", get(get_asset))
        .route("/openapi.json", get(get_document).with_state(document))
        .layer(CompressionLayer::new())
}

async fn get_docs(headers: HeaderMap) -> Response {
    let mut page = asset("docs.html", &headers);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, DOCS_POLICY);
    page
}

async fn get_asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let mut response = asset(&format!("assets/{name}"), &headers);
    if response.status().is_success() {
        response.headers_mut().insert(CACHE_CONTROL, IMMUTABLE);
    }
    response
}

async fn get_document(State(document): State<Bytes>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], document)
}

fn asset(path: &str, request: &HeaderMap) -> Response {
    let Some(EmbeddedFile { data, metadata, .. }) = Assets::get(path) else {
        return ApiError::NotFound("page").into_response();
    };
    // Weak, because the same page also goes out compressed.
    let tag = format!("W/\"{}\"", hex::encode(metadata.sha256_hash()));
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_str(metadata.mimetype())
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
        ),
        (CACHE_CONTROL, REVALIDATE),
        (ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits")),
    ];
    if request.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, Bytes::from(data.into_owned())).into_response()
}
