//! OpenAI's request and answer bodies, and what they mean here: pure
//! conversions to [`GenerateRequest`](crate::inference::GenerateRequest) and
//! from its outcome. The `/v1` handlers and the lines of jobs use the same.
//!
//! Source: the OpenAI API reference (chat completions, completions, batch).
//! A field that we do not know, or know and cannot honour, is refused by name;
//! one that changes nothing is accepted.

mod answer;
mod batch;
mod fields;
mod request;
mod stream;

pub use answer::{
    ChatAnswer, ChatChoice, ChatCompletion, Completion, CompletionChoice, ErrorBody, ErrorObject, Usage,
    answer_body, fingerprint,
};
pub use batch::{BatchError, BatchLine, BatchOutput, BatchResponse, LineProblem, parse_line};
pub use request::{
    ChatCompletionRequest, ChatContent, ChatMessage, CompletionRequest, ContentPart, OneOrMany, Parsed,
    Prompt, StreamOptions, parse,
};
pub use stream::{StreamWriter, Written};

use serde::{Deserialize, Serialize};

/// Most turns of one conversation.
pub const MAX_MESSAGES: usize = 4096;
/// Longest stop string.
pub const MAX_STOP_BYTES: usize = 256;
/// Longest answer a request may ask for.
pub const MAX_TOKENS: u32 = 1 << 20;
/// What `/v1/completions` generates when `max_tokens` is left out, as OpenAI does.
pub const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// The operations that answer with text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Operation {
    /// A conversation.
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    /// Text to go on from.
    #[serde(rename = "/v1/completions")]
    Completions,
}

impl Operation {
    /// The path, which is also its name.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

impl std::str::FromStr for Operation {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::ChatCompletions, Self::Completions]
            .into_iter()
            .find(|o| o.path() == s)
            .ok_or_else(|| format!("{s:?} is no operation: use /v1/chat/completions or /v1/completions"))
    }
}

/// Why a request is refused: for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidRequest {
    /// What is wrong and what to do.
    pub message: String,
    /// The field it is about.
    pub param: Option<String>,
}

impl InvalidRequest {
    /// About the field `param`.
    pub fn about(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.into()) }
    }
}

#[cfg(test)]
mod tests;
