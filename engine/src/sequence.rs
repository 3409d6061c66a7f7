//! One request: while it waits, and while the model works on it.

use std::time::Duration;

use domain::RequestId;
use domain::inference::{Event, FailureKind, FinishReason, Priority, Sampling, TokenCounts};

use crate::EngineError;
use crate::events::EventSender;
use crate::model::{KvCache, Model, Piece};
use crate::sampling::Sampler;
use crate::stream::TextStream;
use crate::tokenizer::Tokenizer;

/// An accepted request in the queue.
pub(crate) struct Waiting {
    pub id: RequestId,
    pub prompt: Vec<u32>,
    /// Most tokens to generate; at least one, and the context holds prompt and these.
    pub limit: u32,
    pub sampling: Sampling,
    /// Used if the sampling settings have no seed.
    pub seed: u64,
    pub stop: Vec<String>,
    pub priority: Priority,
    pub events: EventSender,
}

impl Waiting {
    /// Positions of cache that the request may come to need.
    pub(crate) fn positions(&self) -> usize {
        self.prompt.len() + self.limit as usize
    }
}

/// A request that holds cache and takes part in steps.
pub(crate) struct Sequence {
    pub id: RequestId,
    pub priority: Priority,
    pub positions: usize,
    pub events: EventSender,
    prompt: Vec<u32>,
    /// The last token generated, not yet in the cache.
    last: Option<u32>,
    cache: KvCache,
    sampler: Sampler,
    text: TextStream,
    limit: u32,
    generated: u32,
    /// Generated since the last event.
    unreported: u32,
    busy: Duration,
}

impl Sequence {
    pub(crate) fn start(waiting: Waiting, model: &Model) -> Result<Self, (EventSender, EngineError)> {
        let positions = waiting.positions();
        let cache = match model.new_cache(positions) {
            Ok(cache) => cache,
            Err(e) => return Err((waiting.events, e)),
        };
        waiting.events.send(Event::Started { prompt_tokens: waiting.prompt.len() as u32 });
        Ok(Self {
            id: waiting.id,
            priority: waiting.priority,
            positions,
            events: waiting.events,
            sampler: Sampler::new(waiting.sampling, &waiting.prompt, waiting.seed),
            prompt: waiting.prompt,
            last: None,
            cache,
            text: TextStream::new(waiting.stop),
            limit: waiting.limit,
            generated: 0,
            unreported: 0,
            busy: Duration::ZERO,
        })
    }

    /// Prompt tokens that the model has not seen; 0 when the sequence generates.
    pub(crate) fn prompt_left(&self) -> usize {
        self.prompt.len().saturating_sub(self.cache.len())
    }

    /// Positions in the cache.
    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    /// What the sequence puts into a step: at most `tokens` of its prompt, or the
    /// last token generated.
    pub(crate) fn piece(&mut self, tokens: usize) -> Piece<'_> {
        let done = self.cache.len();
        let tokens = if done < self.prompt.len() {
            &self.prompt[done..self.prompt.len().min(done + tokens)]
        } else {
            self.last.as_slice()
        };
        let logits = usize::from(done + tokens.len() >= self.prompt.len());
        Piece { cache: &mut self.cache, tokens, logits }
    }

    /// Adds a share of a step's time.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.busy += time;
    }

    /// Takes the logits of a step: chooses a token and sends what text is certain.
    /// True when the answer is complete.
    pub(crate) fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> bool {
        let Some(token) = self.sampler.sample(logits) else {
            self.events.fail(FailureKind::Internal, "the model gave no number for any token");
            return true;
        };
        if tokenizer.ends_answer(token) {
            self.finish(FinishReason::Stop);
            return true;
        }
        self.last = Some(token);
        self.generated += 1;
        self.unreported += 1;
        let text = self.text.push(tokenizer.token_bytes(token));
        if self.text.stopped() {
            self.report(text, true);
            self.finish(FinishReason::Stop);
            return true;
        }
        self.report(text, false);
        if self.generated == self.limit {
            self.finish(FinishReason::Length);
            return true;
        }
        false
    }

    fn report(&mut self, text: String, even_if_empty: bool) {
        if !text.is_empty() || (even_if_empty && self.unreported > 0) {
            let tokens = std::mem::take(&mut self.unreported);
            self.events.send(Event::Text { text, tokens });
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let rest = self.text.finish();
        self.report(rest, true);
        let counts =
            TokenCounts { prompt_tokens: self.prompt.len() as u32, completion_tokens: self.generated };
        let accelerator_ms = u64::try_from(self.busy.as_millis()).unwrap_or(u64::MAX);
        self.events.send(Event::Finished { reason, counts, accelerator_ms });
    }
}
