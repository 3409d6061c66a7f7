//! `/v1/chat/completions` and `/v1/completions`: whole answers and streams.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domain::openai::{
    ChatCompletion, ChatCompletionRequest, Completion, CompletionRequest, ErrorObject, InvalidRequest,
    Operation, Parsed, StreamWriter, answer_body,
};
use futures_util::Stream;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::TenantScope;
use crate::extract::Json;
use crate::gateway::{Answer, Part};
use crate::problem::{ApiError, Result};
use crate::state::App;

/// How often a comment tells the client of a silent stream that it goes on.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Keeps reverse proxies from gathering a stream before they pass it on.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create_chat_completion)).routes(routes!(create_completion))
}

/// Answer a conversation
///
/// Whole, or with `stream` as server-sent events of `chat.completion.chunk`
/// objects that end with `[DONE]`. A stream that breaks ends with an `error`.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "inference", request_body = ChatCompletionRequest,
    responses((status = 200, content((ChatCompletion = "application/json"), (String = "text/event-stream")))))]
async fn create_chat_completion(
    State(app): State<App>,
    scope: TenantScope,
    Json(body): Json<Value>,
) -> Result<Response> {
    answer(&app, scope, Operation::ChatCompletions, body).await
}

/// Go on from a text
///
/// Whole, or with `stream` as server-sent events that end with `[DONE]`.
#[utoipa::path(post, path = "/v1/completions", tag = "inference", request_body = CompletionRequest,
    responses((status = 200, content((Completion = "application/json"), (String = "text/event-stream")))))]
async fn create_completion(
    State(app): State<App>,
    scope: TenantScope,
    Json(body): Json<Value>,
) -> Result<Response> {
    answer(&app, scope, Operation::Completions, body).await
}

async fn answer(app: &App, scope: TenantScope, operation: Operation, body: Value) -> Result<Response> {
    let parsed = domain::openai::parse(operation, body)?;
    let Parsed { model, stream, include_usage, .. } = parsed.clone();
    let mut answer = Answer::begin(app, scope, parsed).await?;
    let (request, version, now) = (answer.request(), answer.version(), app.clock.now());
    if stream {
        let writer = StreamWriter::new(operation, request, now, &model, version, include_usage);
        let events = Sse::new(events(answer, writer)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        return Ok(([NO_BUFFERING], events).into_response());
    }
    let (text, reason, counts) = answer.whole().await?;
    Ok(Json(answer_body(operation, request, now, &model, version, text, reason, counts)).into_response())
}

/// What is left to send: written events, then those of the answer.
struct Sending {
    ready: VecDeque<String>,
    answer: Option<Answer>,
    writer: StreamWriter,
}

fn events(answer: Answer, writer: StreamWriter) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let sending = Sending { ready: writer.opening().into_iter().collect(), answer: Some(answer), writer };
    futures_util::stream::unfold(sending, |mut sending| async move {
        loop {
            if let Some(data) = sending.ready.pop_front() {
                return Some((Ok(Event::default().data(data)), sending));
            }
            match sending.answer.as_mut()?.next().await {
                Ok(Part::Text(text)) => sending.ready.push_back(sending.writer.text(&text)),
                Ok(Part::Finished(reason, counts)) => {
                    sending.answer = None;
                    sending.ready.extend(sending.writer.closing(reason, counts));
                }
                Err(e) => {
                    sending.answer = None;
                    sending.ready.push_back(sending.writer.broken(&error_of(&e)));
                }
            }
        }
    })
}

/// An error that comes when the status was sent already.
fn error_of(e: &ApiError) -> ErrorObject {
    let code = match e {
        ApiError::Malformed(_) => "invalid_request",
        ApiError::TooManyRequests { .. } => "overloaded",
        _ => "answer_broken",
    };
    ErrorObject {
        message: e.to_string(),
        kind: "server_error".to_owned(),
        param: None,
        code: Some(code.to_owned()),
    }
}

impl From<InvalidRequest> for ApiError {
    fn from(e: InvalidRequest) -> Self {
        match e.param {
            Some(field) => Self::InvalidField { field, detail: e.message },
            None => Self::Malformed(e.message),
        }
    }
}
