//! Answers as server-sent events.

use serde_json::{Value, json};

use super::answer::{answer_id, fingerprint};
use super::{ErrorObject, Operation, Usage};
use crate::inference::{FinishReason, TokenCounts};
use crate::models::Sha256Digest;
use crate::{RequestId, Timestamp};

/// Data of one event, without the `data: ` before and the blank line after.
pub type Written = String;

/// Writes the events of one answer.
#[derive(Clone, Debug)]
pub struct StreamWriter {
    operation: Operation,
    id: String,
    created: i64,
    model: String,
    system_fingerprint: String,
    include_usage: bool,
}

impl StreamWriter {
    /// For the answer to `request`.
    pub fn new(
        operation: Operation,
        request: RequestId,
        at: Timestamp,
        model: &str,
        version: Sha256Digest,
        include_usage: bool,
    ) -> Self {
        Self {
            operation,
            id: answer_id(operation, request),
            created: at.unix_secs(),
            model: model.to_owned(),
            system_fingerprint: fingerprint(version),
            include_usage,
        }
    }

    /// What comes before any text: the role, for a conversation.
    pub fn opening(&self) -> Option<Written> {
        match self.operation {
            Operation::ChatCompletions => Some(self.chunk(
                &json!([{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null},
                    "logprobs": null, "finish_reason": null}]),
                None,
            )),
            Operation::Completions => None,
        }
    }

    /// More text.
    pub fn text(&self, text: &str) -> Written {
        let choice = match self.operation {
            Operation::ChatCompletions => {
                json!([{"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null}])
            }
            Operation::Completions => {
                json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}])
            }
        };
        self.chunk(&choice, None)
    }

    /// The end: why, the counts if they were asked for, and `[DONE]`.
    pub fn closing(&self, reason: FinishReason, counts: TokenCounts) -> Vec<Written> {
        let choice = match self.operation {
            Operation::ChatCompletions => {
                json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason}])
            }
            Operation::Completions => {
                json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": reason}])
            }
        };
        let mut out = vec![self.chunk(&choice, None)];
        if self.include_usage {
            out.push(self.chunk(&json!([]), Some(counts.into())));
        }
        out.push("[DONE]".to_owned());
        out
    }

    /// The end of a stream that broke. No `[DONE]` follows: the answer is not whole.
    pub fn broken(&self, error: &ErrorObject) -> Written {
        json!({ "error": error }).to_string()
    }

    fn chunk(&self, choices: &Value, usage: Option<Usage>) -> Written {
        let object = match self.operation {
            Operation::ChatCompletions => "chat.completion.chunk",
            Operation::Completions => "text_completion",
        };
        let mut chunk = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = json!(usage);
        }
        chunk.to_string()
    }
}
