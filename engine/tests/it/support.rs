//! The model, the reference answers, and requests.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use domain::RequestId;
use domain::inference::{
    Event, FinishReason, GenerateRequest, Input, Message, Priority, Sampling, TokenCounts,
};
use engine::{Engine, EngineOptions, Events};
use serde::Deserialize;

/// Long enough for a loaded machine; a test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What other engines answer: see tests/reference/reference.py.
#[derive(Deserialize)]
pub struct Reference {
    pub steps: usize,
    pub cases: Vec<Case>,
    pub texts: Vec<Text>,
}

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub messages: Vec<Message>,
    pub prompt_ids: Vec<u32>,
    pub llama_cpp_ids: Vec<u32>,
    pub f32_ids: Vec<u32>,
    /// How far the logit of each of `f32_ids` was above the second best.
    pub f32_gaps: Vec<f32>,
}

#[derive(Deserialize)]
pub struct Text {
    pub text: String,
    pub ids: Vec<u32>,
}

pub fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let json = include_str!("../../../tests/fixtures/greedy.json");
        serde_json::from_str(json).unwrap()
    })
}

pub fn case(name: &str) -> &'static Case {
    reference().cases.iter().find(|c| c.name == name).unwrap()
}

pub fn model_path() -> PathBuf {
    let path = std::env::var_os("CHANCERY_TEST_MODEL").map(PathBuf::from).unwrap_or_else(|| {
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let home = std::env::var_os("HOME").expect("HOME or CARGO_HOME must be set");
            PathBuf::from(home).join(".cargo")
        });
        let cache = std::env::var_os("CHANCERY_CACHE_DIR").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| cargo.join("chancery"));
        cache.join("models/smollm2-135m-instruct-q4_1.gguf")
    });
    assert!(
        path.is_file(),
        "there is no model at {}: run `cargo xtask test`, which fetches it",
        path.display()
    );
    path
}

pub fn load(options: &EngineOptions) -> Engine {
    Engine::load(&model_path(), options).unwrap()
}

/// One engine for the tests that need nothing special.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| load(&EngineOptions::default()))
}

pub fn chat(messages: &[(&str, &str)]) -> Input {
    let message = |&(role, content): &(&str, &str)| Message { role: role.into(), content: content.into() };
    Input::Chat(messages.iter().map(message).collect())
}

pub fn greedy(input: Input, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        id: RequestId::generate(),
        input,
        max_tokens: Some(max_tokens),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        priority: Priority::Interactive,
    }
}

/// Something that goes on for as long as it may.
pub fn endless(max_tokens: u32) -> GenerateRequest {
    greedy(chat(&[("user", "List the even numbers between 2 and 4000.")]), max_tokens)
}

/// A whole answer.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    pub reason: FinishReason,
    pub counts: TokenCounts,
}

/// Reads an answer to its end, and checks that its events are as promised.
pub fn read(events: Events) -> Answer {
    collect(events).unwrap_or_else(|failure| panic!("{failure:?}"))
}

pub fn collect(events: impl IntoIterator<Item = Event>) -> Result<Answer, Event> {
    let mut events = events.into_iter();
    let prompt_tokens = match events.next().expect("at least one event") {
        Event::Started { prompt_tokens } => prompt_tokens,
        other => return Err(other),
    };
    let (mut all, mut delivered) = (String::new(), 0);
    loop {
        match events.next().expect("a last event") {
            Event::Text { text, tokens } => {
                all.push_str(&text);
                delivered += tokens;
            }
            Event::Finished { reason, counts, .. } => {
                assert_eq!(counts, TokenCounts { prompt_tokens, completion_tokens: delivered });
                assert_eq!(events.next(), None);
                return Ok(Answer { text: all, reason, counts });
            }
            other => return Err(other),
        }
    }
}
