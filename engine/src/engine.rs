//! A loaded model that answers requests: the public face of the crate.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::inference::{FailureKind, GenerateRequest, Input, MAX_STOP_STRINGS};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::batch::{Limits, Load, Queue, Worker};
use crate::events::{Events, channel};
use crate::gguf::Gguf;
use crate::model::{Config, Model, Precision};
use crate::sampling;
use crate::sequence::Waiting;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 256;
/// Fewest positions of context with which a model is of use.
pub const MIN_CONTEXT: usize = 64;

/// What an engine may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests worked on at the same time.
    pub max_active: usize,
    /// Requests that may wait; more are refused as overloaded.
    pub max_waiting: usize,
    /// Bytes for the caches of all active requests. A request reserves for the
    /// longest it may become, and waits until that is free.
    pub kv_bytes: u64,
    /// Positions a request may have, if fewer than the model was made for.
    pub max_context: Option<usize>,
    /// Most tokens of one answer, also for requests that set no limit: bounds what
    /// they reserve.
    pub max_completion_tokens: u32,
    /// Where requests without a seed of their own draw theirs; `None`: from the
    /// operating system.
    pub seed: Option<u64>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_active: 8,
            max_waiting: 64,
            kv_bytes: 1 << 30,
            max_context: None,
            max_completion_tokens: domain::inference::MAX_COMPLETION_TOKENS,
            seed: None,
        }
    }
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// `general.name` of the file, if it has one.
    pub name: Option<String>,
    /// Tokens of prompt and answer together that a request may have.
    pub context_length: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Numbers in the weights.
    pub parameters: u64,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Bytes of cache for each token of a request.
    pub kv_bytes_per_token: u64,
    /// Bytes set aside for caches.
    pub kv_bytes: u64,
    /// Requests worked on at the same time.
    pub max_active: u32,
    /// Requests that may wait.
    pub max_waiting: u32,
    /// Threads that compute.
    pub threads: u32,
    /// Whether the file has a chat template; without, only plain text can be continued.
    pub chat: bool,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Requests being worked on.
    pub active: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Bytes of cache reserved by active requests.
    pub kv_bytes_reserved: u64,
}

/// A loaded model and the thread that runs it. Dropping it answers what was
/// accepted, then frees the model.
pub struct Engine {
    info: EngineInfo,
    max_completion_tokens: u32,
    seeds: Mutex<StdRng>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Reads a GGUF file and starts the model's thread.
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Self, EngineError> {
        let mut gguf = Gguf::open(path)?;
        let config = Config::from_gguf(&gguf)?;
        let limits = limits(&config, options)?;
        let context = options.max_context.unwrap_or(config.context).min(config.context).min(limits.positions);
        if context < MIN_CONTEXT {
            return Err(EngineError::Options(format!(
                "only {context} tokens of context fit, and at least {MIN_CONTEXT} are needed; \
                 give the engine more cache memory ({} bytes are needed for each token)",
                config.kv_bytes_per_token()
            )));
        }
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
        if tokenizer.len() != config.vocab {
            let problem = format!("has {} entries, but the embedding {}", tokenizer.len(), config.vocab);
            return Err(EngineError::BadKey { key: "tokenizer.ggml.tokens".to_owned(), problem });
        }
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
        let info = info(&gguf, &config, context, options, template.is_some())?;
        let model = Model::load(&mut gguf, context, Precision::Stored)?;
        drop(gguf);
        let queue = Arc::new(Queue::new(limits));
        let worker = Worker::new(queue.clone(), model, tokenizer.clone());
        let thread = std::thread::Builder::new()
            .name("engine-model".to_owned())
            .spawn(|| worker.run())
            .map_err(|source| EngineError::System { what: "start the model's thread", source })?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the engine's only source of randomness, if none is given"
        )]
        let seed = options.seed.unwrap_or_else(rand::random);
        Ok(Self {
            info,
            max_completion_tokens: options.max_completion_tokens,
            seeds: Mutex::new(StdRng::seed_from_u64(seed)),
            tokenizer,
            template,
            queue,
            thread: Some(thread),
        })
    }

    /// What is loaded.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// How busy it is.
    pub fn status(&self) -> EngineStatus {
        self.status_of(self.queue.load())
    }

    fn status_of(&self, load: Load) -> EngineStatus {
        EngineStatus {
            active: load.active,
            waiting: load.waiting,
            kv_bytes_reserved: load.positions as u64 * self.info.kv_bytes_per_token,
        }
    }

    /// Waits until the engine's status is as `condition` wants it. False if it is not
    /// after `timeout`, or the model's thread has ended.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(EngineStatus) -> bool) -> bool {
        self.queue.wait(Some(timeout), |load| condition(self.status_of(load)))
    }

    /// Asks for an answer. Checks, template and tokens are done here, on the
    /// caller's thread; all that can go wrong arrives as `Event::Failed`.
    pub fn generate(&self, request: GenerateRequest) -> Events {
        let (sender, events) = channel();
        if let Some((kind, message)) = self.queue.full(request.priority) {
            sender.fail(kind, message);
            return events;
        }
        match self.prepare(&request) {
            Ok((prompt, limit)) => self.queue.push(Waiting {
                id: request.id,
                prompt,
                limit,
                sampling: request.sampling,
                seed: self.seeds.lock().unwrap_or_else(PoisonError::into_inner).random(),
                stop: request.stop,
                priority: request.priority,
                events: sender,
            }),
            Err((kind, message)) => sender.fail(kind, message),
        }
        events
    }

    /// The tokens that the model would see for an input.
    pub fn tokens(&self, input: &Input) -> Result<Vec<u32>, (FailureKind, String)> {
        self.check_bytes(input)?;
        let internal = |e: EngineError| (FailureKind::Internal, e.to_string());
        match input {
            Input::Text(text) => self.tokenizer.encode_text(text).map_err(internal),
            Input::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    invalid("this model has no chat template: it continues text, and cannot chat")
                })?;
                let rendered = template.render(messages, &self.tokenizer).map_err(invalid)?;
                self.tokenizer.encode_rendered(&rendered).map_err(internal)
            }
        }
    }

    /// Takes no more requests and waits until those accepted are answered. False if
    /// they are not after `timeout`.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.queue.close();
        self.queue.wait(Some(timeout), |load| load.ended)
    }

    /// Waits until the model's thread has ended: after [`Engine::drain`] began, or
    /// by a defect.
    pub fn wait_ended(&self) {
        self.queue.wait(None, |load| load.ended);
    }

    fn prepare(&self, request: &GenerateRequest) -> Result<(Vec<u32>, u32), (FailureKind, String)> {
        sampling::check(&request.sampling).map_err(invalid)?;
        if request.stop.len() > MAX_STOP_STRINGS {
            let n = request.stop.len();
            return Err(invalid(format!(
                "there are {n} stop strings; at most {MAX_STOP_STRINGS} are allowed"
            )));
        }
        if request.stop.iter().any(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
            return Err(invalid(format!("a stop string must have from 1 to {MAX_STOP_BYTES} bytes")));
        }
        if request.max_tokens == Some(0) {
            return Err(invalid("max_tokens is 0; it must be at least 1"));
        }
        let prompt = self.tokens(&request.input)?;
        if prompt.is_empty() {
            return Err(invalid("the prompt is empty"));
        }
        let context = self.info.context_length;
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if length >= context {
            return Err(invalid(format!(
                "the prompt has {length} tokens, but prompt and answer together may have {context}; shorten it"
            )));
        }
        let most = request.max_tokens.unwrap_or(u32::MAX).min(self.max_completion_tokens);
        Ok((prompt, most.min(context - length)))
    }

    /// Refuses what is certainly too long before any work is done on it.
    fn check_bytes(&self, input: &Input) -> Result<(), (FailureKind, String)> {
        let bytes = match input {
            Input::Text(text) => text.len(),
            Input::Chat(messages) => messages.iter().map(|m| m.content.len() + m.role.len()).sum(),
        };
        let (context, longest) = (self.info.context_length, self.tokenizer.longest_token_bytes());
        let fewest = bytes / longest;
        if fewest <= context as usize {
            return Ok(());
        }
        Err(invalid(format!(
            "the prompt has {bytes} bytes, at least {fewest} tokens, but prompt and answer together may have \
             {context} tokens; shorten it"
        )))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported to the log and to every waiting request.
            let _ = thread.join();
        }
    }
}

fn invalid(message: impl Into<String>) -> (FailureKind, String) {
    (FailureKind::Invalid, message.into())
}

fn limits(config: &Config, options: &EngineOptions) -> Result<Limits, EngineError> {
    if options.max_active == 0 || options.max_waiting == 0 || options.max_completion_tokens == 0 {
        let reason = "max_active, max_waiting and max_completion_tokens must be at least 1";
        return Err(EngineError::Options(reason.to_owned()));
    }
    let positions = options.kv_bytes / config.kv_bytes_per_token();
    let positions = usize::try_from(positions).unwrap_or(usize::MAX);
    Ok(Limits { active: options.max_active, waiting: options.max_waiting, positions })
}

fn info(
    gguf: &Gguf,
    config: &Config,
    context: usize,
    options: &EngineOptions,
    chat: bool,
) -> Result<EngineInfo, EngineError> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(EngineInfo {
        architecture: gguf.architecture()?.to_owned(),
        name: gguf.optional_string("general.name")?.map(str::to_owned),
        context_length: count(context),
        vocabulary: count(config.vocab),
        parameters: gguf.parameters(),
        weights_bytes: gguf.weights_bytes(),
        kv_bytes_per_token: config.kv_bytes_per_token(),
        kv_bytes: options.kv_bytes,
        max_active: count(options.max_active),
        max_waiting: count(options.max_waiting),
        threads: count(candle_core::utils::get_num_threads()),
        chat,
    })
}
