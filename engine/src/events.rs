//! From the model's thread to whoever asked: a mailbox that never blocks the
//! model and never grows, because text that waits is joined.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use domain::inference::{Event, FailureKind};

/// From so many waiting events on, new text is added to the last one. What a slow
/// reader can make the engine hold is thus one answer's text.
const JOIN_ABOVE: usize = 16;

#[derive(Default)]
struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    ended: bool,
    cancelled: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mailbox's two ends.
pub(crate) fn channel() -> (EventSender, Events) {
    let mailbox = Arc::<Mailbox>::default();
    (EventSender { mailbox: mailbox.clone() }, Events { mailbox })
}

/// The model's end. Dropped without a last event, it reports a failure.
pub(crate) struct EventSender {
    mailbox: Arc<Mailbox>,
}

impl EventSender {
    /// Nothing may follow `Finished` or `Failed`.
    pub(crate) fn send(&self, event: Event) {
        let mut state = self.mailbox.lock();
        debug_assert!(!state.ended, "an event after the last");
        state.ended = is_last(&event);
        if state.waiting.len() >= JOIN_ABOVE
            && let Event::Text { text: more, tokens: new } = &event
            && let Some(Event::Text { text, tokens }) = state.waiting.back_mut()
        {
            text.push_str(more);
            *tokens += new;
            return;
        }
        state.waiting.push_back(event);
        self.mailbox.changed.notify_all();
    }

    pub(crate) fn fail(&self, kind: FailureKind, message: impl Into<String>) {
        self.send(Event::Failed { kind, message: message.into() });
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn cancelled(&self) -> bool {
        self.mailbox.lock().cancelled
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        if !self.mailbox.lock().ended {
            self.fail(FailureKind::Internal, "the engine stopped before the answer was complete");
        }
    }
}

/// The answer to one request, event by event. Dropping it cancels the request.
pub struct Events {
    mailbox: Arc<Mailbox>,
}

impl Events {
    /// Lets another thread cancel.
    pub fn canceller(&self) -> Canceller {
        Canceller { mailbox: self.mailbox.clone() }
    }
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event; `None` after the last.
    fn next(&mut self) -> Option<Event> {
        let mut state = self.mailbox.lock();
        loop {
            if let Some(event) = state.waiting.pop_front() {
                return Some(event);
            }
            if state.ended {
                return None;
            }
            state = self.mailbox.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.mailbox.lock().cancelled = true;
    }
}

/// Cancels a request from a thread that does not read its events.
pub struct Canceller {
    mailbox: Arc<Mailbox>,
}

impl Canceller {
    /// The engine stops working on the request at its next step.
    pub fn cancel(&self) {
        self.mailbox.lock().cancelled = true;
    }
}

fn is_last(event: &Event) -> bool {
    matches!(event, Event::Finished { .. } | Event::Failed { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_waits_is_joined() {
        let (sender, events) = channel();
        sender.send(Event::Started { prompt_tokens: 1 });
        for _ in 0..1000 {
            sender.send(Event::Text { text: "é".to_owned(), tokens: 2 });
        }
        sender.fail(FailureKind::Internal, "enough");
        let got: Vec<Event> = events.collect();
        assert_eq!(got.len(), JOIN_ABOVE + 1);
        let sum = |e: &Event| match e {
            Event::Text { text, tokens } => (text.chars().count(), *tokens),
            _ => (0, 0),
        };
        let total = got.iter().map(sum).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert_eq!(total, (1000, 2000));
    }

    #[test]
    fn a_lost_sender_is_a_failure_and_a_lost_reader_a_cancellation() {
        let (sender, events) = channel();
        drop(sender);
        let got: Vec<Event> = events.collect();
        assert!(matches!(&got[..], [Event::Failed { kind: FailureKind::Internal, .. }]), "{got:?}");

        let (sender, events) = channel();
        assert!(!sender.cancelled());
        drop(events);
        assert!(sender.cancelled());
    }
}
