//! The API document: made from the router, so that it cannot differ from it.

use axum::http::Method;
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;

use crate::access::conventions::Needs;
use crate::problem::{OpenAiBody, Problem};
use crate::state::App;

const DESCRIPTION: &str = "\
Provisioning lies under `/api/v1`, inference under `/v1` as OpenAI's clients expect it.

Send an API key or a session token as `Authorization: Bearer …`. The tenant follows from the credential; a \
platform administrator names one with `?tenant=SLUG`. Unknown fields are refused. Lists come in pages: pass \
`next` of one as `cursor` of the following. What makes something carries an `Idempotency-Key`, what changes \
something `If-Match`.

Every error is `application/problem+json` (RFC 9457), except under `/v1`, where it has the shape that \
OpenAI's clients read.";

/// Every route of the public listener that is in the document.
pub(crate) fn routes() -> OpenApiRouter<App> {
    let info = InfoBuilder::new()
        .title("Chancery")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let document = OpenApiBuilder::new()
        .info(info)
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]))
        .build();
    OpenApiRouter::with_openapi(document)
        .merge(crate::health::router())
        .merge(crate::sessions::router())
        .merge(crate::one_time_codes::router())
        .merge(crate::access::router())
        .merge(crate::tenants::router())
        .merge(crate::deletions::router())
        .merge(crate::exports::router())
        .merge(crate::projects::router())
        .merge(crate::members::router())
        .merge(crate::quotas::router())
        .merge(crate::budgets::router())
        .merge(crate::accounts::router())
        .merge(crate::identity::router())
        .merge(crate::service_accounts::router())
        .merge(crate::keys::router())
        .merge(crate::models::router())
        .merge(crate::endpoints::router())
        .merge(crate::accelerators::router())
        .merge(crate::workers::router())
        .merge(crate::pools::router())
        .merge(crate::workloads::router())
        .merge(crate::plans::router())
        .merge(crate::files::router())
        .merge(crate::jobs::router())
        .merge(crate::usage::router())
        .merge(crate::audit_log::router())
        .merge(crate::v1::router())
}

/// The document, as `/openapi.json` serves it.
pub fn openapi() -> OpenApi {
    finish(routes().into_openapi())
}

/// Adds what holds for every operation.
pub(crate) fn finish(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    let scheme = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("API key or session token"));
    components.add_security_scheme("bearer", SecurityScheme::Http(scheme.build()));
    add_schema::<Problem>(components);
    add_schema::<OpenAiBody<'_>>(components);
    let problem = error_response("application/problem+json", &Problem::name());
    let openai_problem = error_response("application/json", &OpenAiBody::name());
    for (path, item) in &mut document.paths.paths {
        let error = if path.starts_with("/v1/") { &openai_problem } else { &problem };
        for (method, operation) in operations_mut(item) {
            let name = operation.operation_id.as_deref().unwrap_or_default();
            if let (false, Some(needs)) = (is_public(operation), Needs::of(&method, path, name)) {
                operation.parameters.get_or_insert_default().push(RefOr::T(needs.parameter()));
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    describe(status, response);
                    // A schema would be read as that of each event.
                    if let Some(RefOr::T(stream)) = response.content.get_mut("text/event-stream") {
                        stream.schema = None;
                    }
                }
            }
            operation.responses.responses.insert("default".to_owned(), RefOr::T(error.clone()));
        }
    }
    document
}

fn add_schema<T: ToSchema>(components: &mut Components) {
    components.schemas.insert(T::name().into_owned(), T::schema());
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    components.schemas.extend(parts);
}

fn error_response(content_type: &str, schema: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    ResponseBuilder::new().description("Any error").content(content_type, content).build()
}

/// A description is required; most say no more than the status does.
fn describe(status: &str, response: &mut Response) {
    if response.description.is_empty() {
        let words = match status {
            "201" => "Created",
            "204" => "Done",
            _ => "OK",
        };
        response.description = words.to_owned();
    }
}

/// The operations of a path, with their methods.
pub(crate) fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::PATCH, &item.patch),
        (Method::HEAD, &item.head),
        (Method::OPTIONS, &item.options),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::PATCH, &mut item.patch),
        (Method::HEAD, &mut item.head),
        (Method::OPTIONS, &mut item.options),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Whether an operation asks for no credential.
pub(crate) fn is_public(operation: &Operation) -> bool {
    operation.security.as_ref().is_some_and(|needs| {
        needs.iter().all(|need| serde_json::to_value(need).is_ok_and(|value| value == serde_json::json!({})))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_named_once_and_described() {
        let document = openapi();
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in operations(item) {
                let name = operation.operation_id.clone().unwrap_or_default();
                assert!(names.insert(name.clone()) && !name.is_empty(), "{method} {path} is named {name:?}");
                assert!(operation.summary.is_some(), "{name} has no summary");
                let mut parameters = std::collections::BTreeSet::new();
                for parameter in operation.parameters.iter().flatten() {
                    let RefOr::T(parameter) = parameter else { continue };
                    assert!(parameters.insert(&parameter.name), "{name} names {} twice", parameter.name);
                }
                for (status, response) in &operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    assert!(!response.description.is_empty(), "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = serde_json::to_value(openapi()).unwrap();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                serde_json::Value::Object(members) => {
                    if let Some(name) = members.get("$ref").and_then(|r| r.as_str()) {
                        let pointer = name.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{name}");
                    }
                    open.extend(members.values());
                }
                serde_json::Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
    }
}
