//! Request bodies: what they may hold, and how they become a
//! [`GenerateRequest`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, Tolerance};
use super::{DEFAULT_COMPLETION_TOKENS, InvalidRequest, MAX_MESSAGES, MAX_STOP_BYTES, MAX_TOKENS, Operation};
use crate::RequestId;
use crate::inference::{GenerateRequest, Input, MAX_STOP_STRINGS, Message, Priority, Sampling};

/// Longest name of a model or an end user that is read at all.
const MAX_NAME_BYTES: usize = 256;

/// Body of `POST /v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatCompletionRequest {
    /// Name of an endpoint, as listed by `/v1/models`.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    pub model: String,
    /// The conversation so far.
    #[schema(min_items = 1, max_items = 4096)]
    pub messages: Vec<ChatMessage>,
    /// Stop after this many tokens; left out: as many as the context holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub max_completion_tokens: Option<u32>,
    /// Former name of `max_completion_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub max_tokens: Option<u32>,
    /// 0 always chooses the most likely token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2, default = 1)]
    pub temperature: Option<f64>,
    /// Choose among the smallest set of tokens whose probability reaches this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, default = 1)]
    pub top_p: Option<f64>,
    /// Choose among this many tokens; 0 or -1 is all. Not in OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1, maximum = 4_294_967_295_i64, format = Int64)]
    pub top_k: Option<u32>,
    /// Make tokens that occurred less likely; 1 is off. Not in OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 10, default = 1)]
    pub repetition_penalty: Option<f64>,
    /// The same seed, request and model version give the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Stop before any of these: one, or up to four.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<OneOrMany>,
    /// Send the answer as it is made, as server-sent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// How many answers: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1)]
    pub n: Option<u32>,
}

/// Body of `POST /v1/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// Name of an endpoint, as listed by `/v1/models`.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length = 63)]
    pub model: String,
    /// Text to go on from: a string, or an array of one.
    pub prompt: Prompt,
    /// Stop after this many tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_048_576, default = 16)]
    pub max_tokens: Option<u32>,
    /// 0 always chooses the most likely token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2, default = 1)]
    pub temperature: Option<f64>,
    /// Choose among the smallest set of tokens whose probability reaches this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, default = 1)]
    pub top_p: Option<f64>,
    /// Choose among this many tokens; 0 or -1 is all. Not in OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1, maximum = 4_294_967_295_i64, format = Int64)]
    pub top_k: Option<u32>,
    /// Make tokens that occurred less likely; 1 is off. Not in OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 10, default = 1)]
    pub repetition_penalty: Option<f64>,
    /// The same seed, request and model version give the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Stop before any of these: one, or up to four.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<OneOrMany>,
    /// Send the answer as it is made, as server-sent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// How many answers: one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1)]
    pub n: Option<u32>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer` (the same), `user` or `assistant`.
    #[schema(pattern = "^(system|developer|user|assistant)$")]
    pub role: String,
    /// What was said.
    pub content: ChatContent,
}

/// Text, or parts of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ChatContent {
    /// The text.
    Text(String),
    /// Parts, one after the other.
    Parts(Vec<ContentPart>),
}

/// A part of a message: text is the only kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}

/// A string or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Text to go on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// The text.
    Text(String),
    /// An array of one text.
    Texts(Vec<String>),
}

/// How to stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StreamOptions {
    /// Send one more chunk at the end, with the token counts and no choices.
    pub include_usage: bool,
}

/// A request that can be answered, or refused only by the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What was asked for.
    pub operation: Operation,
    /// The name of an endpoint, or for jobs of a model.
    pub model: String,
    /// What to go on from.
    pub input: Input,
    /// Stop after this many tokens.
    pub max_tokens: Option<u32>,
    /// How to choose.
    pub sampling: Sampling,
    /// Stop before any of these.
    pub stop: Vec<String>,
    /// Whether to stream.
    pub stream: bool,
    /// Whether the stream ends with token counts.
    pub include_usage: bool,
}

impl Parsed {
    /// What to ask an engine.
    pub fn into_generate(self, id: RequestId, priority: Priority) -> GenerateRequest {
        GenerateRequest {
            id,
            input: self.input,
            max_tokens: self.max_tokens,
            sampling: self.sampling,
            stop: self.stop,
            priority,
        }
    }
}

fn is_empty(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty)
}

fn is_zero(v: &Value) -> bool {
    v.as_f64() == Some(0.0)
}

fn is_false(v: &Value) -> bool {
    v == &Value::Bool(false)
}

/// Fields of both operations that OpenAI knows and we do not act on.
const COMMON: &[(&str, Tolerance)] = &[
    ("user", Tolerance::Any),
    ("logit_bias", Tolerance::Only(is_empty, "leave it out")),
    ("presence_penalty", Tolerance::Only(is_zero, "leave it out, or use repetition_penalty")),
    ("frequency_penalty", Tolerance::Only(is_zero, "leave it out, or use repetition_penalty")),
];

const CHAT_ONLY: &[(&str, Tolerance)] = &[
    ("metadata", Tolerance::Any),
    ("store", Tolerance::Any),
    ("safety_identifier", Tolerance::Any),
    ("prompt_cache_key", Tolerance::Any),
    ("parallel_tool_calls", Tolerance::Any),
    ("service_tier", Tolerance::Only(|v| v == "auto" || v == "default", "leave it out")),
    ("logprobs", Tolerance::Only(is_false, "leave it out")),
    ("top_logprobs", Tolerance::Only(is_zero, "leave it out")),
    ("response_format", Tolerance::Only(|v| v["type"] == "text", "the only type is text")),
    ("modalities", Tolerance::Only(|v| v == &serde_json::json!(["text"]), "the only modality is text")),
    ("tools", Tolerance::Only(is_empty, "leave it out")),
    ("tool_choice", Tolerance::Only(|v| v == "none" || v == "auto", "leave it out")),
    ("functions", Tolerance::Only(is_empty, "leave it out")),
    ("function_call", Tolerance::Only(|v| v == "none" || v == "auto", "leave it out")),
    ("reasoning_effort", Tolerance::Only(|v| v == "none", "leave it out")),
    ("verbosity", Tolerance::Only(|v| v == "medium", "leave it out")),
    ("prediction", Tolerance::Only(|_| false, "leave it out")),
    ("audio", Tolerance::Only(|_| false, "leave it out")),
    ("web_search_options", Tolerance::Only(|_| false, "leave it out")),
];

const COMPLETION_ONLY: &[(&str, Tolerance)] = &[
    ("best_of", Tolerance::Only(|v| v == 1, "one answer is made")),
    ("echo", Tolerance::Only(is_false, "the prompt is not repeated")),
    ("logprobs", Tolerance::Only(|_| false, "leave it out")),
    ("suffix", Tolerance::Only(|v| v == "", "leave it out")),
];

/// Reads a request body.
pub fn parse(operation: Operation, body: Value) -> Result<Parsed, InvalidRequest> {
    let mut fields = Fields::of(body, "")?;
    let model: String = fields.require("model", "the name of an endpoint")?;
    if model.is_empty() || model.len() > MAX_NAME_BYTES {
        return Err(fields.wrong("model", "must be the name of an endpoint, as listed by /v1/models"));
    }
    let (input, max_tokens) = match operation {
        Operation::ChatCompletions => {
            fields.tolerate(CHAT_ONLY)?;
            let messages = chat_messages(&mut fields)?;
            let former = fields.integer("max_tokens", 1..=MAX_TOKENS)?;
            let max = fields.integer("max_completion_tokens", 1..=MAX_TOKENS)?;
            if former.is_some() && max.is_some() && former != max {
                return Err(fields.wrong("max_tokens", "and max_completion_tokens differ; send one of them"));
            }
            (Input::Chat(messages), max.or(former))
        }
        Operation::Completions => {
            fields.tolerate(COMPLETION_ONLY)?;
            let max = fields.integer("max_tokens", 1..=MAX_TOKENS)?;
            (Input::Text(prompt(&mut fields)?), Some(max.unwrap_or(DEFAULT_COMPLETION_TOKENS)))
        }
    };
    let sampling = sampling(&mut fields)?;
    let stop = stop(&mut fields)?;
    let (stream, include_usage) = streaming(&mut fields)?;
    fields.integer("n", 1..=1)?;
    fields.tolerate(COMMON)?;
    fields.finish()?;
    Ok(Parsed { operation, model, input, max_tokens, sampling, stop, stream, include_usage })
}

fn chat_messages(fields: &mut Fields) -> Result<Vec<Message>, InvalidRequest> {
    let messages: Vec<Value> = fields.require("messages", "an array of messages")?;
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        return Err(fields.wrong("messages", format_args!("must have between 1 and {MAX_MESSAGES} messages")));
    }
    messages.into_iter().enumerate().map(|(i, message)| chat_message(i, message)).collect()
}

fn chat_message(index: usize, message: Value) -> Result<Message, InvalidRequest> {
    let mut fields = Fields::of(message, &format!("messages[{index}]"))?;
    let role: String = fields.require("role", "system, developer, user or assistant")?;
    let role = match role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => {
            return Err(fields.wrong("role", format_args!("{role} is not supported: tools cannot be called")));
        }
        _ => return Err(fields.wrong("role", "must be system, developer, user or assistant")),
    };
    let content = match fields.require_value("content")? {
        Value::String(text) => text,
        Value::Array(parts) => content_parts(index, parts)?,
        _ => return Err(fields.wrong("content", "must be a string or an array of text parts")),
    };
    fields.tolerate(&[
        ("name", Tolerance::Any),
        ("refusal", Tolerance::Only(|_| false, "leave it out")),
        ("audio", Tolerance::Only(|_| false, "leave it out")),
        ("annotations", Tolerance::Any),
        ("tool_calls", Tolerance::Only(is_empty, "leave it out")),
        ("function_call", Tolerance::Only(|_| false, "leave it out")),
    ])?;
    fields.finish()?;
    Ok(Message { role: role.to_owned(), content })
}

fn content_parts(message: usize, parts: Vec<Value>) -> Result<String, InvalidRequest> {
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        let mut fields = Fields::of(part, &format!("messages[{message}].content[{i}]"))?;
        let kind: String = fields.require("type", "text")?;
        if kind != "text" {
            return Err(
                fields.wrong("type", format_args!("{kind:.40} is not supported: the only type is text"))
            );
        }
        texts.push(fields.require::<String>("text", "a string")?);
        fields.finish()?;
    }
    Ok(texts.concat())
}

fn prompt(fields: &mut Fields) -> Result<String, InvalidRequest> {
    match fields.require_value("prompt")? {
        Value::String(text) => Ok(text),
        Value::Array(mut texts) if texts.len() == 1 => match texts.remove(0) {
            Value::String(text) => Ok(text),
            _ => Err(fields.wrong("prompt", "must be text; tokens are not accepted")),
        },
        _ => Err(fields.wrong("prompt", "must be a string, or an array of one string")),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sampling does not need more digits than f32 has")]
fn sampling(fields: &mut Fields) -> Result<Sampling, InvalidRequest> {
    let defaults = Sampling::default();
    let top_k = match fields.value("top_k") {
        None => defaults.top_k,
        // Other servers write "all" as -1.
        Some(v) if v == -1 => 0,
        Some(v) => v
            .as_u64()
            .and_then(|k| u32::try_from(k).ok())
            .ok_or_else(|| fields.wrong("top_k", "must be an integer, 0 for all tokens"))?,
    };
    let seed = match fields.value("seed") {
        None => None,
        // OpenAI's seeds are signed.
        Some(v) => Some(
            v.as_i64()
                .map(i64::cast_unsigned)
                .ok_or_else(|| fields.wrong("seed", "must be an integer of 64 bits, with its sign"))?,
        ),
    };
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.map_or(defaults.temperature, |t| t as f32),
        top_p: fields.number("top_p", 0.0..=1.0)?.map_or(defaults.top_p, |p| p as f32),
        top_k,
        repetition_penalty: fields
            .number("repetition_penalty", 0.01..=10.0)?
            .map_or(defaults.repetition_penalty, |p| p as f32),
        seed,
    })
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, InvalidRequest> {
    let stop = match fields.take("stop", "a string or an array of strings")? {
        None => Vec::new(),
        Some(OneOrMany::One(one)) => vec![one],
        Some(OneOrMany::Many(many)) => many,
    };
    if stop.len() > MAX_STOP_STRINGS {
        return Err(fields.wrong("stop", format_args!("has at most {MAX_STOP_STRINGS} strings")));
    }
    if stop.iter().any(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
        return Err(fields.wrong("stop", format_args!("strings must have 1 to {MAX_STOP_BYTES} bytes each")));
    }
    Ok(stop)
}

fn streaming(fields: &mut Fields) -> Result<(bool, bool), InvalidRequest> {
    let stream = fields.take("stream", "true or false")?.unwrap_or(false);
    let Some(options) = fields.value("stream_options") else { return Ok((stream, false)) };
    if !stream {
        return Err(fields.wrong("stream_options", "may only be set when stream is true"));
    }
    let mut options = Fields::of(options, "stream_options")?;
    let include_usage = options.take("include_usage", "true or false")?.unwrap_or(false);
    // Padding against observers of encrypted traffic: streams here are not padded.
    options.tolerate(&[("include_obfuscation", Tolerance::Any)])?;
    options.finish()?;
    Ok((stream, include_usage))
}
