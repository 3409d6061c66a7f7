//! Input of `jobs create`: what people have, wrapped as the lines that the API
//! takes. Pure, so that a wrong line is found before anything is sent.

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use domain::jobs::{MAX_INPUT_BYTES, MAX_LINE_BYTES, MAX_LINES};
use serde_json::{Map, Value, json};

/// The operation that lines ask for.
const OPERATION: &str = "/v1/chat/completions";

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON on each line.
    JsonLines,
    /// Each line is a prompt.
    Text,
}

/// What lines get that do not have it themselves.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The model.
    pub model: Option<String>,
    /// What the model is told before each prompt.
    pub system: Option<String>,
    /// Longest answer.
    pub max_tokens: Option<u32>,
}

/// Copies every line, wrapped; returns how many. An error names the line.
pub fn wrap_all(
    input: impl BufRead,
    mut out: impl Write,
    format: Format,
    defaults: &Defaults,
) -> Result<u64> {
    let (mut count, mut size) = (0, 0);
    for (index, line) in input.lines().enumerate() {
        let number = index + 1;
        let line = line.with_context(|| format!("line {number} cannot be read: is the file UTF-8 text?"))?;
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { &line };
        if line.trim().is_empty() {
            continue;
        }
        let mut wrapped = wrap(number, line, format, defaults).map_err(|e| {
            let sentence = format!("line {number} {e}");
            e.context(sentence)
        })?;
        wrapped.push('\n');
        count += 1;
        size += wrapped.len() as u64;
        if wrapped.len() > MAX_LINE_BYTES {
            bail!("line {number} is longer than {MAX_LINE_BYTES} bytes");
        }
        if count > MAX_LINES {
            bail!("there are more than {MAX_LINES} lines: split the file into several jobs");
        }
        if size > MAX_INPUT_BYTES {
            bail!("the lines are larger than {MAX_INPUT_BYTES} bytes: split the file into several jobs");
        }
        out.write_all(wrapped.as_bytes()).context("cannot write the lines beside")?;
    }
    if count == 0 {
        bail!("there is no line in it");
    }
    out.flush().context("cannot write the lines beside")?;
    Ok(count)
}

/// One line as the API takes it.
fn wrap(number: usize, line: &str, format: Format, defaults: &Defaults) -> Result<String> {
    if format == Format::Text {
        return request(number, Map::new(), &json!([user(line.trim_end())]), defaults);
    }
    let parsed: Value =
        serde_json::from_str(line).context("is not JSON; see `chancery jobs create --help`")?;
    match parsed {
        Value::String(prompt) => request(number, Map::new(), &json!([user(&prompt)]), defaults),
        Value::Object(object) if object.contains_key("body") => as_it_is(line, &object, defaults),
        Value::Object(mut object) => match (object.remove("prompt"), object.remove("messages")) {
            (Some(Value::String(prompt)), None) => request(number, object, &json!([user(&prompt)]), defaults),
            (None, Some(messages @ Value::Array(_))) => request(number, object, &messages, defaults),
            (Some(_), Some(_)) => bail!("has both \"prompt\" and \"messages\": keep one"),
            (Some(_), None) => bail!("has a \"prompt\" that is not a text"),
            (None, Some(_)) => bail!("has \"messages\" that are not a list"),
            (None, None) => bail!("has neither \"prompt\" nor \"messages\" nor \"body\""),
        },
        _ => bail!("is neither an object nor a text"),
    }
}

/// A line that is a request of the batch API already.
fn as_it_is(line: &str, object: &Map<String, Value>, defaults: &Defaults) -> Result<String> {
    for key in ["custom_id", "method", "url"] {
        if !object.get(key).is_some_and(Value::is_string) {
            bail!("is a request (it has \"body\") without the text {key:?}");
        }
    }
    match (&defaults.model, object["body"]["model"].as_str()) {
        (_, None) => bail!("has no \"model\" in its \"body\""),
        (Some(wanted), Some(has)) if wanted != has => {
            bail!(
                "asks for the model {has:?}, --model for {wanted:?}: leave --model out, or make them the same"
            )
        }
        _ => Ok(line.trim().to_owned()),
    }
}

/// A request with what the line says and else the defaults. Keys beside the
/// prompt, e.g. `temperature`, go into the request; the API knows which exist.
fn request(
    number: usize,
    mut rest: Map<String, Value>,
    messages: &Value,
    defaults: &Defaults,
) -> Result<String> {
    let custom_id = rest.remove("custom_id").unwrap_or_else(|| json!(format!("line-{number}")));
    let mut messages = messages.as_array().cloned().unwrap_or_default();
    if let Some(system) = &defaults.system
        && messages.first().is_none_or(|first| first["role"] != "system")
    {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    if !rest.contains_key("model") {
        let model = defaults.model.as_ref().context("names no model: give --model")?;
        rest.insert("model".to_owned(), json!(model));
    }
    if let Some(max_tokens) = defaults.max_tokens
        && !rest.contains_key("max_tokens")
        && !rest.contains_key("max_completion_tokens")
    {
        rest.insert("max_tokens".to_owned(), json!(max_tokens));
    }
    rest.insert("messages".to_owned(), Value::Array(messages));
    let line = json!({"custom_id": custom_id, "method": "POST", "url": OPERATION, "body": rest});
    Ok(line.to_string())
}

fn user(prompt: &str) -> Value {
    json!({"role": "user", "content": prompt})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, format: Format, defaults: &Defaults) -> Result<Vec<Value>> {
        let mut out = Vec::new();
        let count = wrap_all(text.as_bytes(), &mut out, format, defaults)?;
        let lines: Vec<Value> =
            String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len() as u64, count);
        Ok(lines)
    }

    fn smol() -> Defaults {
        Defaults { model: Some("smollm2".to_owned()), ..Defaults::default() }
    }

    #[test]
    fn prompts_in_each_form_become_requests() {
        let text = "\u{feff}{\"prompt\":\"a\",\"temperature\":0}\n\n\"b\"\n{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}],\"custom_id\":\"mine\"}\n";
        let lines = run(text, Format::JsonLines, &smol()).unwrap();
        let ids: Vec<_> = lines.iter().map(|l| l["custom_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["line-1", "line-3", "mine"]);
        let prompts: Vec<_> =
            lines.iter().map(|l| l["body"]["messages"][0]["content"].as_str().unwrap()).collect();
        assert_eq!(prompts, ["a", "b", "c"]);
        assert_eq!(lines[0]["body"]["temperature"], 0);
        assert!(lines.iter().all(|l| l["url"] == OPERATION && l["method"] == "POST"));
        assert!(lines.iter().all(|l| l["body"]["model"] == "smollm2"));
    }

    #[test]
    fn text_lines_are_prompts_with_the_defaults() {
        let defaults = Defaults { system: Some("Be brief.".to_owned()), max_tokens: Some(9), ..smol() };
        let lines = run("{\"prompt\"\r\nwhat?\n", Format::Text, &defaults).unwrap();
        assert_eq!(lines[0]["body"]["messages"][1]["content"], "{\"prompt\"");
        assert_eq!(lines[1]["body"]["messages"][0], json!({"role": "system", "content": "Be brief."}));
        assert_eq!(lines[1]["body"]["max_tokens"], 9);
    }

    #[test]
    fn requests_of_the_batch_api_pass_as_they_are() {
        let line =
            r#"{"custom_id":"x","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"p"}}"#;
        let mut out = Vec::new();
        wrap_all(line.as_bytes(), &mut out, Format::JsonLines, &Defaults::default()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().trim(), line);
        let error = run(line, Format::JsonLines, &smol()).unwrap_err();
        assert!(format!("{error:#}").contains("asks for the model \"m\""), "{error:#}");
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for (text, why) in [
            ("\"a\"\n{\"prompt\":", "line 2"),
            ("\"a\"\n\n{\"x\":1}", "line 3"),
            ("7", "neither an object nor a text"),
            ("{\"prompt\":1}", "not a text"),
            ("{\"prompt\":\"a\",\"messages\":[]}", "both"),
            ("\n \n", "no line"),
        ] {
            let error = run(text, Format::JsonLines, &smol()).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        let error = run("\"a\"", Format::JsonLines, &Defaults::default()).unwrap_err();
        assert!(format!("{error:#}").contains("--model"), "{error:#}");
    }
}
