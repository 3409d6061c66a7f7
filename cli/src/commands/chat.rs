//! `chancery chat`

use std::io::{BufRead, IsTerminal, Read};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Call, note};
use crate::args::Format;
use crate::client::Scope;
use crate::output;

/// Longest prompt from standard input.
const MAX_PROMPT_BYTES: u64 = 1 << 20;

/// What to ask whom.
#[derive(clap::Args, Debug)]
pub struct ChatOptions {
    /// The prompt; left out, it is read from standard input, or a conversation begins.
    prompt: Option<String>,
    /// The endpoint [default: the only one].
    #[arg(long, short)]
    model: Option<String>,
    /// What the model is told first.
    #[arg(long)]
    system: Option<String>,
    /// Longest answer, in tokens.
    #[arg(long)]
    max_tokens: Option<u32>,
    /// 0 is always the same answer; 1 is the model's own variety.
    #[arg(long)]
    temperature: Option<f32>,
    /// Same seed, same answer.
    #[arg(long)]
    seed: Option<u64>,
}

pub(super) async fn run(options: ChatOptions, at: &Call) -> Result<()> {
    let model = match &options.model {
        Some(model) => model.clone(),
        None => only_model(at).await?,
    };
    let mut messages: Vec<Value> = Vec::new();
    messages.extend(options.system.iter().map(|text| json!({"role": "system", "content": text})));
    let conversation = options.prompt.is_none() && std::io::stdin().is_terminal();
    if !conversation {
        let prompt = match &options.prompt {
            Some(prompt) => prompt.trim().to_owned(),
            None => prompt_from_stdin()?,
        };
        if prompt.is_empty() {
            bail!("no prompt: give it as an argument or on standard input");
        }
        messages.push(json!({"role": "user", "content": prompt}));
        return ask(&options, at, &model, &messages).await.map(drop);
    }
    note(format_args!("Talking to {model}; an empty line or Ctrl-D ends."));
    loop {
        eprint!("> ");
        let Some(prompt) = next_prompt()? else { return Ok(()) };
        messages.push(json!({"role": "user", "content": prompt}));
        match ask(&options, at, &model, &messages).await {
            Ok(answer) => messages.push(json!({"role": "assistant", "content": answer})),
            Err(error) => {
                // The conversation goes on without this question.
                messages.pop();
                eprintln!("{}", crate::errors::describe(&error, false));
            }
        }
    }
}

/// One answer, printed as it comes; with `--output json` as the API gave it.
async fn ask(options: &ChatOptions, at: &Call, model: &str, messages: &[Value]) -> Result<String> {
    let stream = at.format == Format::Table;
    let mut request = json!({"model": model, "messages": messages, "stream": stream});
    if let Some(max_tokens) = options.max_tokens {
        request["max_tokens"] = json!(max_tokens);
    }
    if let Some(temperature) = options.temperature {
        request["temperature"] = json!(temperature);
    }
    if let Some(seed) = options.seed {
        request["seed"] = json!(seed);
    }
    let path = "v1/chat/completions";
    let response = at.client.stream(Scope::Tenant, Method::POST, path, Some(&request)).await?;
    if !stream {
        let answer: Value = response.json().await.context("the answer broke off")?;
        output::json(&answer)?;
        return Ok(answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned());
    }
    let mut answer = String::new();
    let mut events = Events::default();
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.try_next().await.context("the answer broke off")? {
        for event in events.push(&part) {
            let text = text_of(&event)?;
            answer.push_str(&text);
            if !output::part(&text)? {
                return Ok(answer);
            }
        }
    }
    output::part("\n")?;
    if !events.done {
        bail!("the answer broke off before its end");
    }
    Ok(answer)
}

/// The new text of one chunk, or the error that ends the answer.
fn text_of(event: &str) -> Result<String> {
    let chunk: Value =
        serde_json::from_str(event).context("the API answered something else than expected")?;
    if let Some(message) = chunk["error"]["message"].as_str() {
        return Err(anyhow!("{message}"));
    }
    Ok(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
}

/// Data of server-sent events, put together from parts.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    done: bool,
}

impl Events {
    fn push(&mut self, part: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(part);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().strip_prefix("data:").map(str::trim_start) {
                Some("[DONE]") => self.done = true,
                Some(data) => events.push(data.to_owned()),
                None => {}
            }
        }
        events
    }
}

async fn only_model(at: &Call) -> Result<String> {
    let answer = at.client.get(Scope::Tenant, "v1/models", &[]).await?;
    let names: Vec<_> =
        answer["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
    match names[..] {
        [] => bail!("there is no endpoint: create one with `chancery endpoints create`"),
        [only] => Ok(only.to_owned()),
        _ => bail!("name one of these with --model: {}", names.join(", ")),
    }
}

fn prompt_from_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_PROMPT_BYTES)
        .read_to_string(&mut text)
        .context("the prompt cannot be read from standard input")?;
    Ok(text.trim().to_owned())
}

fn next_prompt() -> Result<Option<String>> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("the prompt cannot be read from standard input")?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_parts() {
        let stream = ": keep-alive\n\ndata: {\"a\":\"é\"}\n\ndata: [DONE]\n\n".as_bytes();
        for size in 1..stream.len() {
            let mut events = Events::default();
            let got: Vec<_> = stream.chunks(size).flat_map(|part| events.push(part)).collect();
            assert_eq!(got, ["{\"a\":\"é\"}"]);
            assert!(events.done);
        }
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let error = text_of(r#"{"error":{"message":"the worker was lost"}}"#).unwrap_err();
        assert_eq!(error.to_string(), "the worker was lost");
        assert_eq!(text_of(r#"{"choices":[{"delta":{"content":"x"}}]}"#).unwrap(), "x");
        assert_eq!(text_of(r#"{"choices":[],"usage":{}}"#).unwrap(), "");
    }
}
