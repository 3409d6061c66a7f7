//! Answer bodies.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Operation;
use crate::inference::{FinishReason, TokenCounts};
use crate::models::Sha256Digest;
use crate::{RequestId, Timestamp};

/// Token counts with OpenAI's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Tokens of the rendered input.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
}

impl From<TokenCounts> for Usage {
    fn from(c: TokenCounts) -> Self {
        Self {
            prompt_tokens: c.prompt_tokens,
            completion_tokens: c.completion_tokens,
            total_tokens: c.prompt_tokens.saturating_add(c.completion_tokens),
        }
    }
}

/// Answer of `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-` and the request.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: i64,
    /// The name the caller used.
    pub model: String,
    /// Short digest of the model version that answered.
    pub system_fingerprint: String,
    /// One.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
}

/// The answer of a chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatChoice {
    /// 0.
    pub index: u32,
    /// What the model said.
    pub message: ChatAnswer,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<Value>,
    /// `stop` or `length`.
    pub finish_reason: FinishReason,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatAnswer {
    /// `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Always null.
    pub refusal: Option<String>,
}

/// Answer of `/v1/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Completion {
    /// `cmpl-` and the request.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: i64,
    /// The name the caller used.
    pub model: String,
    /// Short digest of the model version that answered.
    pub system_fingerprint: String,
    /// One.
    pub choices: Vec<CompletionChoice>,
    /// Token counts.
    pub usage: Usage,
}

/// The text of a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CompletionChoice {
    /// The text.
    pub text: String,
    /// 0.
    pub index: u32,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<Value>,
    /// `stop` or `length`.
    pub finish_reason: FinishReason,
}

/// Every error under `/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong, as OpenAI's clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// Class, e.g. `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field it is about.
    pub param: Option<String>,
    /// For programs, e.g. `model_not_found`.
    pub code: Option<String>,
}

/// Short name of a model version: what `system_fingerprint` shows.
pub fn fingerprint(digest: Sha256Digest) -> String {
    let mut hex = digest.to_string();
    hex.truncate(12);
    format!("fp_{hex}")
}

/// `chatcmpl-…` or `cmpl-…`.
pub(super) fn answer_id(operation: Operation, request: RequestId) -> String {
    let prefix = match operation {
        Operation::ChatCompletions => "chatcmpl",
        Operation::Completions => "cmpl",
    };
    format!("{prefix}-{}", request.0.simple())
}

/// The body of a whole answer, as sent or as kept for a line of a job.
#[expect(clippy::too_many_arguments, reason = "each is one field of the body")]
pub fn answer_body(
    operation: Operation,
    request: RequestId,
    at: Timestamp,
    model: &str,
    version: Sha256Digest,
    text: String,
    finish_reason: FinishReason,
    counts: TokenCounts,
) -> Value {
    let id = answer_id(operation, request);
    let (created, model, system_fingerprint, usage) =
        (at.unix_secs(), model.to_owned(), fingerprint(version), counts.into());
    let body = match operation {
        Operation::ChatCompletions => {
            let message = ChatAnswer { role: "assistant".to_owned(), content: text, refusal: None };
            let choices = vec![ChatChoice { index: 0, message, logprobs: None, finish_reason }];
            let object = "chat.completion".to_owned();
            serde_json::to_value(ChatCompletion {
                id,
                object,
                created,
                model,
                system_fingerprint,
                choices,
                usage,
            })
        }
        Operation::Completions => {
            let choices = vec![CompletionChoice { text, index: 0, logprobs: None, finish_reason }];
            let object = "text_completion".to_owned();
            serde_json::to_value(Completion {
                id,
                object,
                created,
                model,
                system_fingerprint,
                choices,
                usage,
            })
        }
    };
    body.expect("only strings, numbers and lists")
}
