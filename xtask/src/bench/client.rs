//! Prompts over HTTP, as a caller sends them, timed token by token.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use ureq::Agent;

const REQUEST_LIMIT: Duration = Duration::from_secs(120);
const READY_LIMIT: Duration = Duration::from_secs(1);

/// How one answer arrived.
pub struct Timing {
    /// Until the first text.
    pub first: Duration,
    /// Until the end.
    pub total: Duration,
    /// As counted by the engine.
    pub tokens: u32,
}

impl Timing {
    /// Tokens after the first, by the time after it.
    pub fn tokens_per_second(&self) -> f64 {
        f64::from(self.tokens.saturating_sub(1)) / (self.total - self.first).as_secs_f64().max(1e-9)
    }
}

pub struct Client {
    agent: Agent,
    base: String,
    pub key: String,
}

impl Client {
    pub fn new(base: &str) -> Self {
        let config =
            Agent::config_builder().timeout_global(Some(REQUEST_LIMIT)).http_status_as_error(false).build();
        Self { agent: config.into(), base: base.to_owned(), key: String::new() }
    }

    /// Can a prompt be answered?
    pub fn is_ready(&self) -> bool {
        let request = self.agent.get(format!("{}/readyz", self.base));
        let answer = request.config().timeout_global(Some(READY_LIMIT)).build().call();
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// Streams a greedy answer.
    pub fn chat(&self, model: &str, prompt: &str, max_tokens: u32) -> Result<Timing> {
        let body = json!({
            "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens,
            "temperature": 0, "stream": true, "stream_options": {"include_usage": true},
        });
        let started = Instant::now();
        let answer = self
            .agent
            .post(format!("{}/v1/chat/completions", self.base))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .send(body.to_string())
            .context("the prompt was not accepted")?;
        let status = answer.status();
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        if status != 200 {
            let text: String = lines.map_while(Result::ok).collect();
            bail!("the prompt was answered with {status}: {text}");
        }
        let (mut first, mut tokens) = (None, None);
        for line in lines {
            let line = line.context("the answer broke off")?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                break;
            }
            let chunk: Value = serde_json::from_str(data).with_context(|| format!("not JSON: {data}"))?;
            if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
                first.get_or_insert_with(|| started.elapsed());
            }
            tokens = chunk["usage"]["completion_tokens"].as_u64().or(tokens);
        }
        Ok(Timing {
            first: first.context("the answer has no text")?,
            total: started.elapsed(),
            tokens: tokens.context("the answer has no usage")?.try_into()?,
        })
    }
}
