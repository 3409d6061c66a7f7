//! Whether this worker may still serve. A worker that has not reported for
//! `WORKER_LOST_SECS` is lost for the scheduler, which places its work
//! elsewhere; so it refuses new generations from then on, until it has reported
//! again and has heard what it should hold now.

use std::time::{Duration, Instant};

use domain::workers::WORKER_LOST_SECS;
use tokio::sync::watch;

const LOST_AFTER: Duration = Duration::from_secs(WORKER_LOST_SECS);

#[derive(Clone, Copy, Debug)]
struct State {
    /// When the last report that arrived was sent.
    reported: Instant,
    /// How often contact was lost and found again.
    losses: u64,
    /// The value of `losses` when the desired state was last heard.
    heard: u64,
}

/// When the API last heard from this worker, and this worker from the API.
#[derive(Debug)]
pub struct Contact(watch::Sender<State>);

impl Contact {
    /// Nothing heard yet: serves nothing.
    pub fn new(now: Instant) -> Self {
        Self(watch::Sender::new(State { reported: now, losses: 1, heard: 0 }))
    }

    /// A report that was sent at `sent` has arrived.
    pub fn reported(&self, sent: Instant) {
        self.0.send_modify(|state| {
            if sent.saturating_duration_since(state.reported) >= LOST_AFTER {
                state.losses += 1;
            }
            state.reported = state.reported.max(sent);
        });
    }

    /// To be read before asking for the desired state and given to
    /// [`Contact::heard`] with the answer.
    pub fn losses(&self) -> u64 {
        self.0.borrow().losses
    }

    /// The desired state, asked for at `losses`, has come and is followed.
    pub fn heard(&self, losses: u64) {
        self.0.send_modify(|state| state.heard = state.heard.max(losses));
    }

    /// Whether new generations may start.
    pub fn may_serve(&self, now: Instant) -> bool {
        let state = *self.0.borrow();
        now.saturating_duration_since(state.reported) < LOST_AFTER && state.heard == state.losses
    }

    /// Waits until contact was lost and found again since `losses` was read.
    pub async fn found_again(&self, losses: u64) {
        let mut states = self.0.subscribe();
        // The sender is `self`: it outlives this.
        let _ = states.wait_for(|state| state.losses != losses).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_worker_serves_only_after_it_reported_and_heard_again() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let contact = Contact::new(start);
        assert!(!contact.may_serve(at(0)), "has heard nothing yet");
        contact.heard(contact.losses());
        assert!(contact.may_serve(at(WORKER_LOST_SECS - 1)));
        contact.reported(at(10));
        assert!(contact.may_serve(at(10 + WORKER_LOST_SECS - 1)));
        assert!(!contact.may_serve(at(10 + WORKER_LOST_SECS)));
        let before = contact.losses();
        contact.reported(at(60));
        assert!(!contact.may_serve(at(60)), "its placements may be elsewhere by now");
        contact.heard(before);
        assert!(!contact.may_serve(at(60)), "that answer was asked for before");
        contact.heard(contact.losses());
        assert!(contact.may_serve(at(61)));
    }

    #[test]
    fn a_report_that_arrives_late_counts_from_when_it_was_sent() {
        let start = Instant::now();
        let contact = Contact::new(start);
        contact.heard(contact.losses());
        contact.reported(start + Duration::from_secs(5));
        contact.reported(start + Duration::from_secs(2));
        assert!(contact.may_serve(start + Duration::from_secs(4 + WORKER_LOST_SECS)));
        assert!(!contact.may_serve(start + Duration::from_secs(5 + WORKER_LOST_SECS)));
    }
}
