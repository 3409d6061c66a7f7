//! The one thread that owns the model. Each turn of its loop is one step of the
//! model, in which every active sequence may take part: so requests interleave
//! token by token, and none holds the model for the length of its answer.
//!
//! Rules, in order:
//! - Waiting requests become active when a place and cache for the longest they may
//!   become are free: interactive ones first, and batch work never takes the last
//!   place.
//! - A step has one token of every sequence that generates, and at most one piece
//!   of one prompt: of the interactive one with the fewest tokens done, so that a
//!   short prompt does not wait for a long one. Pieces are short while others
//!   generate.
//! - While somebody waits, batch work takes part in one step of [`BATCH_TURN`].
//! - A sequence whose reader is gone leaves before the next step.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::inference::{FailureKind, Priority};
use tracing::{debug, error};

use crate::model::Model;
use crate::sequence::{Sequence, Waiting};
use crate::tokenizer::Tokenizer;

/// Prompt tokens in a step while other sequences generate.
pub const SHARED_PROMPT_TOKENS: usize = 32;
/// Prompt tokens in a step when no other sequence waits for it: bounds how long a
/// cancelled prompt is still worked on.
pub const ALONE_PROMPT_TOKENS: usize = 128;
/// Batch work runs in one of so many steps while interactive requests are active.
pub const BATCH_TURN: u64 = 4;

/// What the queue and the model's thread may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub active: usize,
    pub waiting: usize,
    /// Positions of cache of all active sequences together.
    pub positions: usize,
}

/// How busy the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub active: usize,
    pub waiting: usize,
    pub positions: usize,
    /// The model's thread is gone.
    pub ended: bool,
}

/// Between callers and the model's thread.
pub(crate) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    interactive: VecDeque<Waiting>,
    batch: VecDeque<Waiting>,
    /// Of the active sequences, as of the last step.
    active: usize,
    positions: usize,
    closed: bool,
    ended: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.interactive.len() + self.batch.len()
    }

    fn drop_cancelled(&mut self) {
        self.interactive.retain(|w| !w.events.cancelled());
        self.batch.retain(|w| !w.events.cancelled());
    }
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing more can wait, if so. Batch work may fill half of the queue.
    pub(crate) fn full(&self, priority: Priority) -> Option<(FailureKind, String)> {
        full(&mut self.lock(), &self.limits, priority)
    }

    /// Queues a request, or fails it.
    pub(crate) fn push(&self, waiting: Waiting) {
        let mut state = self.lock();
        if let Some((kind, message)) = full(&mut state, &self.limits, waiting.priority) {
            drop(state);
            return waiting.events.fail(kind, message);
        }
        match waiting.priority {
            Priority::Interactive => state.interactive.push_back(waiting),
            Priority::Batch => state.batch.push_back(waiting),
        }
        self.changed.notify_all();
    }

    /// Takes no more requests; what was accepted is still answered.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `condition` holds. False if it does not after `timeout`, or never
    /// can, because the thread has ended.
    pub(crate) fn wait(&self, timeout: Option<Duration>, condition: impl Fn(Load) -> bool) -> bool {
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut state = self.lock();
        loop {
            let load = load(&state);
            if condition(load) {
                return true;
            }
            if load.ended {
                return false;
            }
            state = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn load(&self) -> Load {
        load(&self.lock())
    }
}

fn load(state: &State) -> Load {
    Load { active: state.active, waiting: state.waiting(), positions: state.positions, ended: state.ended }
}

fn full(state: &mut State, limits: &Limits, priority: Priority) -> Option<(FailureKind, String)> {
    if state.closed {
        return Some((FailureKind::NotReady, "the engine is stopping".to_owned()));
    }
    if state.ended {
        return Some((FailureKind::Internal, "the model's thread has ended".to_owned()));
    }
    let room = |state: &State| match priority {
        Priority::Interactive => state.waiting() < limits.waiting,
        Priority::Batch => state.waiting() < limits.waiting && state.batch.len() < limits.waiting.div_ceil(2),
    };
    if !room(state) {
        state.drop_cancelled();
    }
    let waiting = state.waiting();
    let message = || format!("{waiting} requests wait already; try again later");
    (!room(state)).then(|| (FailureKind::Overloaded, message()))
}

/// The model's thread. Dropping it, also by a panic, fails what is left.
pub(crate) struct Worker {
    queue: Arc<Queue>,
    model: Model,
    tokenizer: Arc<Tokenizer>,
    active: Vec<Sequence>,
    steps: u64,
}

impl Worker {
    pub(crate) fn new(queue: Arc<Queue>, model: Model, tokenizer: Arc<Tokenizer>) -> Self {
        Self { queue, model, tokenizer, active: Vec::new(), steps: 0 }
    }

    /// Until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while self.admit() {
            self.step();
        }
    }

    /// Lets cancelled sequences go, starts waiting ones, sleeps while there is
    /// nothing to do. False at the end.
    fn admit(&mut self) -> bool {
        let queue = self.queue.clone();
        let mut state = queue.lock();
        loop {
            self.active.retain(|s| !s.events.cancelled());
            state.drop_cancelled();
            while let Some(waiting) = self.take_next(&mut state) {
                match Sequence::start(waiting, &self.model) {
                    Ok(sequence) => self.active.push(sequence),
                    Err((events, e)) => {
                        error!(error = &e as &dyn std::error::Error, "Cannot reserve cache");
                        events.fail(FailureKind::Internal, "memory for the request could not be had");
                    }
                }
            }
            (state.active, state.positions) = (self.active.len(), self.positions());
            queue.changed.notify_all();
            if !self.active.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
            state = queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next request that may start. One that does not fit keeps those behind it
    /// waiting, so that long requests are not overtaken for ever.
    fn take_next(&self, state: &mut State) -> Option<Waiting> {
        let limits = &self.queue.limits;
        let free = limits.positions - self.positions();
        let batch_places = if limits.active > 1 { limits.active - 1 } else { 1 };
        let (line, places) = match state.interactive.is_empty() {
            false => (&mut state.interactive, limits.active),
            true => (&mut state.batch, batch_places),
        };
        let fits = line.front()?.positions() <= free && self.active.len() < places;
        fits.then(|| line.pop_front()).flatten()
    }

    fn positions(&self) -> usize {
        self.active.iter().map(|s| s.positions).sum()
    }

    /// How many tokens each active sequence puts into the next step.
    fn plan(&self) -> Vec<usize> {
        let somebody_waits = self.active.iter().any(|s| s.priority == Priority::Interactive);
        let batch_turn = self.steps.is_multiple_of(BATCH_TURN);
        let takes_part = |s: &Sequence| s.priority == Priority::Interactive || !somebody_waits || batch_turn;
        let mut plan: Vec<usize> =
            self.active.iter().map(|s| usize::from(takes_part(s) && s.prompt_left() == 0)).collect();
        let generate = plan.contains(&1);
        let prompts = self.active.iter().enumerate().filter(|(_, s)| takes_part(s) && s.prompt_left() > 0);
        let next = prompts.min_by_key(|(_, s)| (std::cmp::Reverse(s.priority), s.len()));
        if let Some((i, sequence)) = next {
            let most = if generate { SHARED_PROMPT_TOKENS } else { ALONE_PROMPT_TOKENS };
            plan[i] = sequence.prompt_left().min(most);
        }
        plan
    }

    fn step(&mut self) {
        let plan = self.plan();
        self.steps += 1;
        let began = Instant::now();
        let with_plan = self.active.iter_mut().zip(&plan).filter(|&(_, &n)| n > 0);
        let mut pieces: Vec<_> = with_plan.map(|(s, &n)| s.piece(n)).collect();
        let wanted: Vec<bool> = pieces.iter().map(|p| p.logits > 0).collect();
        let result = self.model.step(&mut pieces);
        drop(pieces);
        let mut rows = match result {
            Ok(rows) => rows.into_iter(),
            Err(e) => return self.fail_step(&plan, &e),
        };
        let total: usize = plan.iter().sum();
        let share = began.elapsed() / u32::try_from(total).unwrap_or(1).max(1);
        let mut wanted = wanted.into_iter();
        let mut planned = plan.into_iter();
        let tokenizer = &self.tokenizer;
        self.active.retain_mut(|sequence| {
            let tokens = planned.next().unwrap_or(0);
            if tokens == 0 {
                return true;
            }
            sequence.spend(share * tokens as u32);
            if !wanted.next().unwrap_or(false) {
                return true;
            }
            let mut logits = rows.next().expect("the model gives a row for each piece that wants one");
            let done = sequence.advance(&mut logits, tokenizer);
            if done {
                debug!(request.id = %sequence.id, "Answered");
            }
            !done
        });
    }

    /// The caches of those that took part are of no more use.
    fn fail_step(&mut self, plan: &[usize], cause: &crate::EngineError) {
        error!(error = cause as &dyn std::error::Error, "A step of the model failed");
        let mut planned = plan.iter();
        self.active.retain(|sequence| {
            let took_part = planned.next().is_some_and(|&n| n > 0);
            if took_part {
                sequence.events.fail(FailureKind::Internal, "the model could not be evaluated");
            }
            !took_part
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.active.clear();
        let mut state = self.queue.lock();
        state.ended = true;
        (state.active, state.positions) = (0, 0);
        let left: Vec<Waiting> = state.interactive.drain(..).collect();
        let batch: Vec<Waiting> = state.batch.drain(..).collect();
        self.queue.changed.notify_all();
        drop(state);
        // Their event senders report the failure when they are dropped.
        drop((left, batch));
    }
}
