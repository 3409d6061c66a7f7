//! One line of a chunk. An engine that dies under it is waited for, and the
//! line tried again, now alone: a line that kills engines must not take the
//! others of its chunk with it.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::inference::{Event, FailureKind, GenerateRequest};
use domain::workers::LineOutcome;
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::engines::{EngineHandle, EventStream, StreamError};

/// How often a line is begun that the engine does not finish.
const MAX_TRIES: u32 = 4;
/// How long to wait for an engine that is not there; then the chunk is given up.
const ENGINE_WAIT: Duration = Duration::from_secs(120);
/// How long an engine that is full of other work may put a line off.
const OVERLOAD_WAIT: Duration = Duration::from_secs(1800);
/// Longest silence of an engine in an answer.
const MAX_SILENCE: Duration = Duration::from_secs(900);
/// Longest answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// How one try went.
enum Try {
    Done(LineOutcome),
    /// Not begun: no engine there.
    Absent,
    /// Not begun: too much other work.
    Overloaded(String),
    /// Begun and broken off.
    Broken(String),
}

/// The outcome, or `None` when no engine is there for too long.
pub async fn run(
    engine: &EngineHandle,
    permits: &Semaphore,
    lines_at_once: u32,
    request: &GenerateRequest,
) -> Option<LineOutcome> {
    let mut backoff = Backoff::spread(RETRY_LEAST, RETRY_MOST, crate::seed());
    let mut broken = 0;
    let mut absent_since: Option<Instant> = None;
    let mut overloaded_since: Option<Instant> = None;
    loop {
        let permit = permits.acquire_many(if broken == 0 { 1 } else { lines_at_once });
        let _permit = permit.await.expect("the semaphore is never closed");
        let left = ENGINE_WAIT.saturating_sub(absent_since.map_or(Duration::ZERO, |since| since.elapsed()));
        let socket = tokio::time::timeout(left, engine.ready()).await.ok()?;
        match once(&socket, request).await {
            Try::Done(outcome) => return Some(outcome),
            Try::Absent => {
                absent_since.get_or_insert_with(Instant::now);
            }
            Try::Overloaded(message) => {
                absent_since = None;
                if overloaded_since.get_or_insert_with(Instant::now).elapsed() > OVERLOAD_WAIT {
                    return Some(LineOutcome::Failed { kind: FailureKind::Overloaded, message });
                }
            }
            Try::Broken(message) => {
                absent_since = None;
                broken += 1;
                if broken >= MAX_TRIES {
                    let message = format!("{message}; gave up after {MAX_TRIES} tries");
                    return Some(LineOutcome::Failed { kind: FailureKind::Internal, message });
                }
            }
        }
        metrics::counter!("chancery_worker_line_retries_total").increment(1);
        tokio::time::sleep(backoff.delay()).await;
    }
}

async fn once(socket: &Path, request: &GenerateRequest) -> Try {
    let Ok(mut events) = EventStream::open(socket, request).await else { return Try::Absent };
    let mut text = String::new();
    loop {
        let Ok(next) = tokio::time::timeout(MAX_SILENCE, events.next()).await else {
            return Try::Broken(format!("the engine was silent for {} s", MAX_SILENCE.as_secs()));
        };
        let event = match next {
            Some(Ok((event, _))) => event,
            Some(Err(error)) => return Try::Broken(error.to_string()),
            None => return Try::Broken(StreamError::Broken.to_string()),
        };
        crate::count_tokens(&event);
        match event {
            Event::Started { .. } => {}
            Event::Text { text: more, .. } => {
                text.push_str(&more);
                if text.len() > MAX_ANSWER_BYTES {
                    return Try::Broken(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"));
                }
            }
            Event::Finished { reason, counts, accelerator_ms } => {
                return Try::Done(LineOutcome::Answered { text, reason, counts, accelerator_ms });
            }
            Event::Failed { kind, message } => {
                return match kind {
                    FailureKind::Invalid => Try::Done(LineOutcome::Failed { kind, message }),
                    FailureKind::Overloaded => Try::Overloaded(message),
                    FailureKind::NotReady => Try::Absent,
                    FailureKind::Internal => Try::Broken(message),
                };
            }
        }
    }
}
