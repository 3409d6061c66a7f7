//! What went wrong with a request, as one sentence.

use anyhow::Result;
use reqwest::{Response, StatusCode, Url};
use serde_json::Value;

/// What is called otherwise in HTTP than on the command line, in this order.
const IN_COMMANDS: [(&str, &str); 7] = [
    ("?tenant=SLUG", "--tenant SLUG"),
    ("?tenant", "--tenant"),
    ("name one with ?project=SLUG", "name one"),
    ("several projects; name one", "several projects; name one with --project"),
    ("as one_time_code", "with --one-time-code"),
    ("POST /api/v1/me/password", "`chancery accounts change-password --new-password-file FILE`"),
    ("path not found", "there is nothing of that name: are --server and its version right?"),
];
/// How a detail begins that is about its field.
const PREDICATES: [&str; 7] = ["must", "is", "are", "has", "have", "names", "belongs"];

/// The API said no; `Display` is its reason.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub detail: String,
}

impl Refused {
    /// Whether `error` is the API's answer with this status.
    pub fn is(error: &anyhow::Error, status: StatusCode) -> bool {
        error.downcast_ref::<Self>().is_some_and(|refused| refused.status == status)
    }
}

/// No answer at all.
#[derive(Debug, thiserror::Error)]
#[error("{server} does not answer: is it running (`chancery up`), and is --server right?")]
pub struct Unreachable {
    server: Url,
    source: reqwest::Error,
}

pub(super) fn unreachable(source: reqwest::Error, server: &Url) -> anyhow::Error {
    // An upload that cannot read its own file fails as a request.
    Unreachable { server: server.clone(), source: source.without_url() }.into()
}

/// Worth another try: the server is starting or restarting, or is busy.
pub fn is_passing(error: &anyhow::Error) -> bool {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return refused.status == StatusCode::TOO_MANY_REQUESTS || refused.status.is_server_error();
    }
    error.chain().any(<dyn std::error::Error>::is::<reqwest::Error>)
}

/// The answer, or the reason it gives for saying no.
pub(super) async fn ensure_success(response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body: Value = response.json().await.unwrap_or(Value::Null);
    Err(Refused { status, detail: detail(status, &body) }.into())
}

/// problem+json's detail, or the message of OpenAI's shape.
fn detail(status: StatusCode, body: &Value) -> String {
    let said = body["detail"].as_str().or_else(|| body["error"]["message"].as_str());
    let Some(said) = said else {
        return format!("the API answered {status} without a reason: is --server right?");
    };
    match (status, body["instance"].as_str()) {
        // Only whoever reads the server's log can tell more.
        (StatusCode::INTERNAL_SERVER_ERROR, Some(request)) => {
            format!("{said}: the server's log has the cause under request {request}")
        }
        _ => {
            let mut said = said.to_owned();
            for (there, here) in IN_COMMANDS {
                said = said.replace(there, here);
            }
            body["field"].as_str().map_or_else(|| said.clone(), |field| with_field(field, &said))
        }
    }
}

/// "must be …" says of what only in the field, and some whole sentences do too.
fn with_field(field: &str, said: &str) -> String {
    let predicate = said.split(' ').next().is_some_and(|word| PREDICATES.contains(&word));
    let whole = said.contains(field) || said.starts_with("the ");
    let field = match field {
        "new" => "the new password",
        "old" => "the present password",
        "code" => "the code",
        field => field,
    };
    match (predicate, whole) {
        (true, _) => format!("{field} {said}"),
        (false, true) => said.to_owned(),
        (false, false) => format!("{field}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_of_errors_are_read() {
        let problem = json!({"title": "Not found", "detail": "endpoint not found"});
        assert_eq!(detail(StatusCode::NOT_FOUND, &problem), "endpoint not found");
        let openai = json!({"error": {"message": "n must be 1"}});
        assert_eq!(detail(StatusCode::BAD_REQUEST, &openai), "n must be 1");
        let field = json!({"detail": "belongs to a tenant: name it with ?tenant=SLUG", "field": "role"});
        let said = detail(StatusCode::UNPROCESSABLE_ENTITY, &field);
        assert_eq!(said, "role belongs to a tenant: name it with --tenant SLUG");
        for (field, detail, expected) in [
            ("project", "names no project of this tenant", "project names no project of this tenant"),
            (
                "project",
                "the tenant has several projects; name one",
                "the tenant has several projects; name one with --project",
            ),
            ("new", "must have at least 12 characters", "the new password must have at least 12 characters"),
            ("parent", "there is no cohort x: make it first", "parent: there is no cohort x: make it first"),
            ("from", "from must be before to", "from must be before to"),
        ] {
            let problem = json!({"detail": detail, "field": field});
            assert_eq!(super::detail(StatusCode::UNPROCESSABLE_ENTITY, &problem), expected);
        }
        assert!(detail(StatusCode::BAD_GATEWAY, &Value::Null).contains("502"));
    }
}
