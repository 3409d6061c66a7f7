//! What gateway, worker and engine say to each other about one generation.
//! JSON: a request is one object, an answer is a stream of [`Event`] lines.

use serde::{Deserialize, Serialize};

use crate::RequestId;

/// Longest list of stop strings in a request.
pub const MAX_STOP_STRINGS: usize = 4;

/// Most tokens that an engine generates for one request, whatever it asks for.
pub const MAX_COMPLETION_TOKENS: u32 = 4096;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What to go on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A conversation, rendered with the model's own chat template.
    Chat(Vec<Message>),
    /// Text as it is.
    Text(String),
}

/// How to choose the next token. The engine applies, in this order:
/// repetition penalty, temperature, top-k, top-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy; otherwise logits are divided by it. At most 2.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Divide (positive) or multiply (negative) logits of tokens already seen; 1 is off.
    pub repetition_penalty: f32,
    /// Same seed, same request, same model version: same answer. `None`: random.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, seed: None }
    }
}

/// Who goes first when an engine is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Lines of a job.
    Batch,
    /// Somebody waits.
    #[default]
    Interactive,
}

/// Ask an engine to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// Identifies the request in logs.
    pub id: RequestId,
    /// What to go on from.
    pub input: Input,
    /// Stop after this many tokens; `None`: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// How to choose.
    pub sampling: Sampling,
    /// Stop before any of these, which are not part of the answer.
    pub stop: Vec<String>,
    /// Who goes first.
    pub priority: Priority,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End of text, or a stop string.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

/// Counts by the engine; what is billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenCounts {
    /// Tokens of the rendered input.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request cannot be answered by this model, e.g. longer than its context.
    Invalid,
    /// Too many wait already; try again later.
    Overloaded,
    /// The worker does not have this model version ready.
    NotReady,
    /// A defect.
    Internal,
}

/// One line of the answer. `Started` comes first, then any number of `Text`,
/// then one `Finished`; or `Failed` at any point, which is the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Input accepted and counted.
    Started {
        /// Tokens of the rendered input.
        prompt_tokens: u32,
    },
    /// More text, always whole UTF-8 characters. `tokens` new tokens were
    /// generated since the last event; text may be empty while a character or
    /// a possible stop string is incomplete.
    Text {
        /// The text to append.
        text: String,
        /// Tokens it stands for.
        tokens: u32,
    },
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Totals.
        counts: TokenCounts,
        /// Milliseconds on the accelerator, prefill and decode together.
        accelerator_ms: u64,
    },
    /// No answer, or none any more.
    Failed {
        /// Class of the failure.
        kind: FailureKind,
        /// For the reader of a log or, if `Invalid`, for the caller.
        message: String,
    },
}
