//! Lines of a batch's input, output and error files.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Fields;
use super::{ErrorBody, ErrorObject, InvalidRequest, Operation, Parsed, parse};
use crate::RequestId;
use crate::inference::FailureKind;
use crate::jobs::MAX_CUSTOM_ID_BYTES;

/// One line of an input file.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLine {
    /// Chosen by the caller, unique in the file.
    pub custom_id: String,
    /// What to answer.
    pub request: Parsed,
}

/// Why a line is refused.
pub type LineProblem = InvalidRequest;

/// Reads one line.
pub fn parse_line(operation: Operation, line: &[u8]) -> Result<BatchLine, LineProblem> {
    // Some editors put a byte-order mark before the first line.
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let value: Value = serde_json::from_slice(line)
        .map_err(|e| InvalidRequest { message: format!("not JSON: {}", syntax(&e)), param: None })?;
    let mut fields = Fields::of(value, "").map_err(|_| InvalidRequest {
        message: "each line must be a JSON object with custom_id, method, url and body".to_owned(),
        param: None,
    })?;
    let custom_id: String = fields.require("custom_id", "a string")?;
    if custom_id.is_empty() || custom_id.len() > MAX_CUSTOM_ID_BYTES || custom_id.contains('\0') {
        return Err(fields.wrong(
            "custom_id",
            format_args!("must have 1 to {MAX_CUSTOM_ID_BYTES} bytes, none of them zero"),
        ));
    }
    if fields.require::<String>("method", "\"POST\"")? != "POST" {
        return Err(fields.wrong("method", "must be \"POST\""));
    }
    if fields.require::<String>("url", "a path")? != operation.path() {
        return Err(
            fields.wrong("url", format_args!("must be {}, as the batch's endpoint", operation.path()))
        );
    }
    let body = fields.require_value("body")?;
    fields.finish()?;
    let request = parse(operation, body).map_err(|e| InvalidRequest {
        message: format!("body: {}", e.message),
        param: Some(e.param.map_or_else(|| "body".to_owned(), |param| format!("body.{param}"))),
    })?;
    if request.stream {
        return Err(InvalidRequest::about("body.stream", "body: stream must be left out of a batch"));
    }
    Ok(BatchLine { custom_id, request })
}

/// serde_json's words, without "line 1" which would be taken for the file's.
fn syntax(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", e.column())
}

/// One line of an output or error file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchOutput {
    /// `batch_req_` and the request.
    pub id: String,
    /// From the input line.
    pub custom_id: String,
    /// The answer; `None` if there was none at all.
    pub response: Option<BatchResponse>,
    /// Why there was no answer.
    pub error: Option<BatchError>,
}

/// An answer as if it had been asked for alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchResponse {
    /// HTTP status.
    pub status_code: u16,
    /// The request.
    pub request_id: String,
    /// The body.
    pub body: Value,
}

/// Why a line has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl BatchOutput {
    /// The line for a result that is kept as `status_code` and `body`.
    pub fn new(request: RequestId, custom_id: String, status_code: u16, body: Value) -> Self {
        let request_id = request.0.simple().to_string();
        Self {
            id: format!("batch_req_{request_id}"),
            custom_id,
            response: Some(BatchResponse { status_code, request_id, body }),
            error: None,
        }
    }
}

impl ErrorObject {
    /// What a caller reads of an engine's failure.
    pub fn of_failure(kind: FailureKind, message: &str) -> (u16, Self) {
        let (status, class, code, message) = match kind {
            FailureKind::Invalid => (400, "invalid_request_error", "invalid_request", Cow::Borrowed(message)),
            FailureKind::Overloaded => (
                429,
                "rate_limit_error",
                "overloaded",
                Cow::Borrowed("too many requests wait; try again later"),
            ),
            FailureKind::NotReady => {
                (503, "server_error", "not_ready", Cow::Borrowed("the model was not ready; try again later"))
            }
            FailureKind::Internal => (
                500,
                "server_error",
                "engine_failed",
                Cow::Borrowed("the engine failed; try again, and tell the operator if it repeats"),
            ),
        };
        let error = Self {
            // PostgreSQL's jsonb holds no zero character.
            message: message.replace('\0', "\u{fffd}"),
            kind: class.to_owned(),
            param: None,
            code: Some(code.to_owned()),
        };
        (status, error)
    }
}

impl From<ErrorObject> for ErrorBody {
    fn from(error: ErrorObject) -> Self {
        Self { error }
    }
}
