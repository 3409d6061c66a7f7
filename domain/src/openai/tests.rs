use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::RequestId;
use crate::inference::{FinishReason, Input, Message, Priority, Sampling, TokenCounts};
use crate::models::Sha256Digest;

fn chat(extra: &Value) -> Value {
    let mut body = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn refusal(body: Value) -> InvalidRequest {
    parse(Operation::ChatCompletions, body).unwrap_err()
}

#[test]
fn the_smallest_chat_request_has_openai_defaults() {
    let parsed = parse(Operation::ChatCompletions, chat(&json!({}))).unwrap();
    assert_eq!(parsed.model, "smollm2");
    assert_eq!(parsed.input, Input::Chat(vec![Message { role: "user".into(), content: "Hi".into() }]));
    assert_eq!(parsed.sampling, Sampling::default());
    assert_eq!((parsed.max_tokens, parsed.stream, parsed.include_usage), (None, false, false));
}

#[test]
fn a_completion_stops_after_sixteen_tokens_unless_told() {
    let parsed = parse(Operation::Completions, json!({"model": "m", "prompt": ["Once"]})).unwrap();
    assert_eq!(parsed.input, Input::Text("Once".into()));
    assert_eq!(parsed.max_tokens, Some(16));
    for bad in [json!(["a", "b"]), json!([]), json!([[1, 2]]), json!(7), json!(null)] {
        let e = parse(Operation::Completions, json!({"model": "m", "prompt": bad})).unwrap_err();
        assert_eq!(e.param.as_deref(), Some("prompt"));
    }
    let e = parse(Operation::Completions, json!({"model": "m", "prompt": "a", "echo": true})).unwrap_err();
    assert_eq!(e.param.as_deref(), Some("echo"));
}

#[test]
fn what_changes_nothing_is_accepted() {
    let harmless = json!({"user": "u", "metadata": {"a": "b"}, "store": false, "logprobs": false, "n": 1,
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "auto",
        "response_format": {"type": "text"}, "stop": null, "temperature": null, "top_k": -1,
        "service_tier": "auto", "modalities": ["text"]});
    assert!(parse(Operation::ChatCompletions, chat(&harmless)).is_ok());
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (field, value) in [
        ("logprobs", json!(true)),
        ("n", json!(2)),
        ("n", json!("1")),
        ("presence_penalty", json!(0.5)),
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_object"})),
        ("temperature", json!(2.1)),
        ("temperature", json!(-0.1)),
        ("temperature", json!("hot")),
        ("top_p", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1.5)),
        ("max_completion_tokens", json!(-1)),
        ("seed", json!(1.5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!([""])),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("tempreature", json!(1)),
        ("messages", json!([])),
        ("messages", json!("Hi")),
        ("model", json!("")),
        ("model", json!(null)),
    ] {
        let e = refusal(chat(&json!({field: value})));
        assert_eq!(e.param.as_deref(), Some(field), "{e}");
        assert!(e.message.contains(field), "{e}");
    }
    assert_eq!(refusal(json!([])).param, None);
    assert_eq!(
        refusal(chat(&json!({"max_tokens": 1, "max_completion_tokens": 2}))).param.as_deref(),
        Some("max_tokens")
    );
}

#[test]
fn content_is_text_or_parts_of_text() {
    let body = chat(&json!({"messages": [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c", "name": "someone"},
    ]}));
    let Input::Chat(messages) = parse(Operation::ChatCompletions, body).unwrap().input else { panic!() };
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
    for (bad, param) in [
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "wizard", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "tool", "content": "x", "tool_call_id": "1"}]), "messages[0].role"),
        (json!([{"role": "user", "content": "x", "mood": "good"}]), "messages[0].mood"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0].type",
        ),
        (json!(["Hi"]), "messages[0]"),
    ] {
        assert_eq!(refusal(chat(&json!({"messages": bad}))).param.as_deref(), Some(param));
    }
}

/// Every documented field is accepted, so the document cannot drift from the parser.
#[test]
fn the_documented_fields_are_the_accepted_ones() {
    fn properties<T: utoipa::PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    }
    let full = ChatCompletionRequest {
        model: "m".into(),
        messages: vec![ChatMessage { role: "user".into(), content: ChatContent::Text("x".into()) }],
        max_completion_tokens: Some(1),
        max_tokens: Some(1),
        temperature: Some(0.5),
        top_p: Some(0.5),
        top_k: Some(1),
        repetition_penalty: Some(1.1),
        seed: Some(-1),
        stop: Some(OneOrMany::Many(vec!["x".into()])),
        stream: Some(true),
        stream_options: Some(StreamOptions { include_usage: true }),
        n: Some(1),
    };
    let body = serde_json::to_value(&full).unwrap();
    assert_eq!(properties::<ChatCompletionRequest>().len(), body.as_object().unwrap().len());
    let parsed = parse(Operation::ChatCompletions, body).unwrap();
    assert!(parsed.stream && parsed.include_usage);
    assert_eq!(parsed.sampling.seed, Some(u64::MAX));
}

prop_compose! {
    fn any_request()(
        model in "[a-z][a-z0-9-]{0,20}[a-z0-9]",
        messages in prop::collection::vec((prop::sample::select(vec!["system", "user", "assistant"]), ".{0,40}"), 1..5),
        max in prop::option::of(1u32..10_000),
        temperature in prop::option::of(0.0f64..=2.0),
        top_p in prop::option::of(0.0f64..=1.0),
        top_k in prop::option::of(0u32..1000),
        repetition_penalty in prop::option::of(0.1f64..=2.0),
        seed in prop::option::of(any::<i64>()),
        stop in prop::collection::vec(".{1,20}", 0..=4),
        stream in prop::option::of(any::<bool>()),
    ) -> ChatCompletionRequest {
        ChatCompletionRequest {
            model,
            messages: messages.into_iter()
                .map(|(role, text)| ChatMessage { role: role.to_owned(), content: ChatContent::Text(text) })
                .collect(),
            max_completion_tokens: max,
            temperature, top_p, top_k, repetition_penalty, seed,
            stop: (!stop.is_empty()).then_some(OneOrMany::Many(stop)),
            stream,
            ..ChatCompletionRequest::default()
        }
    }
}

proptest! {
    #[test]
    fn any_valid_request_means_what_it_says(request in any_request()) {
        let parsed = parse(Operation::ChatCompletions, serde_json::to_value(&request).unwrap()).unwrap();
        let id = RequestId::generate();
        let stream = parsed.stream;
        prop_assert_eq!(&parsed.model, &request.model);
        let generate = parsed.into_generate(id, Priority::Interactive);
        let Input::Chat(messages) = &generate.input else { panic!() };
        let texts: Vec<ChatMessage> = messages.iter()
            .map(|m| ChatMessage { role: m.role.clone(), content: ChatContent::Text(m.content.clone()) })
            .collect();
        prop_assert_eq!(&texts, &request.messages);
        prop_assert_eq!(generate.max_tokens, request.max_completion_tokens);
        prop_assert_eq!(stream, request.stream.unwrap_or(false));
        prop_assert_eq!(generate.sampling.temperature, request.temperature.unwrap_or(1.0) as f32);
        prop_assert_eq!(generate.sampling.seed, request.seed.map(i64::cast_unsigned));
        prop_assert_eq!(generate.stop, match &request.stop { Some(OneOrMany::Many(s)) => s.clone(), _ => vec![] });
        // What goes to the worker comes back as it was.
        let wire = serde_json::to_string(&generate.input).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Input>(&wire).unwrap(), &generate.input);
    }

    #[test]
    fn any_valid_request_is_a_valid_line(mut request in any_request(), custom_id in "[ -~]{1,64}") {
        request.stream = None;
        let line = json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": request});
        let parsed = parse_line(Operation::ChatCompletions, line.to_string().as_bytes()).unwrap();
        prop_assert_eq!(parsed.custom_id, custom_id);
        prop_assert_eq!(parsed.request.model, request.model);
    }

    #[test]
    fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..200), json in "\\PC{0,80}") {
        let _ = parse_line(Operation::Completions, &line);
        let _ = parse_line(Operation::ChatCompletions, format!("{{\"custom_id\": {json}}}").as_bytes());
    }
}

#[test]
fn each_wrong_line_says_why() {
    let good =
        json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat(&json!({}))});
    assert!(parse_line(Operation::ChatCompletions, good.to_string().as_bytes()).is_ok());
    for (field, value, says) in [
        ("custom_id", json!(""), "custom_id must have 1 to 512 bytes"),
        ("custom_id", json!("x\0"), "custom_id must have 1 to 512 bytes"),
        ("method", json!("GET"), "method must be \"POST\""),
        ("url", json!("/v1/completions"), "url must be /v1/chat/completions"),
        ("body", json!(null), "body is required"),
        ("body", json!({"model": "m"}), "body: messages is required"),
        ("body", chat(&json!({"stream": true})), "stream must be left out"),
        ("extra", json!(1), "extra is not a known field"),
    ] {
        let mut line = good.clone();
        line[field] = value;
        let e = parse_line(Operation::ChatCompletions, line.to_string().as_bytes()).unwrap_err();
        assert!(e.message.contains(says), "{e}");
    }
    let e = parse_line(Operation::ChatCompletions, b"{\"custom_id\": }").unwrap_err();
    assert_eq!(e.message, "not JSON: expected value at column 15");
}

#[test]
fn answers_have_openai_shape() {
    let (request, digest) = (RequestId::generate(), Sha256Digest::of(b"x"));
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let counts = TokenCounts { prompt_tokens: 3, completion_tokens: 4 };
    let body = answer_body(
        Operation::ChatCompletions,
        request,
        at,
        "m",
        digest,
        "Hello".into(),
        FinishReason::Stop,
        counts,
    );
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["created"], 1_767_323_045);
    assert_eq!(body["choices"][0]["message"]["content"], "Hello");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["total_tokens"], 7);
    assert_eq!(body["system_fingerprint"], format!("fp_{}", &digest.to_string()[..12]));

    let writer = StreamWriter::new(Operation::ChatCompletions, request, at, "m", digest, true);
    let opening: Value = serde_json::from_str(&writer.opening().unwrap()).unwrap();
    assert_eq!(opening["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(opening["id"], body["id"]);
    assert!(opening["usage"].is_null() && opening.as_object().unwrap().contains_key("usage"));
    let closing = writer.closing(FinishReason::Length, counts);
    assert_eq!(closing.len(), 3);
    let last: Value = serde_json::from_str(&closing[1]).unwrap();
    assert_eq!((&last["choices"], &last["usage"]["prompt_tokens"]), (&json!([]), &json!(3)));
    assert_eq!(closing[2], "[DONE]");
}
