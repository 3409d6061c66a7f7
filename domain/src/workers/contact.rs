//! Whether a worker may still serve. A worker that has not reported for
//! [`WORKER_LOST_SECS`] is lost for the scheduler, which places its work
//! elsewhere; so it refuses new generations from then on, until it has reported
//! again and has heard what it should hold now.

use std::time::{Duration, Instant};

use super::WORKER_LOST_SECS;

const LOST_AFTER: Duration = Duration::from_secs(WORKER_LOST_SECS);

/// When the API last heard from a worker, and the worker from the API, by a
/// clock that the worker alone goes by.
#[derive(Clone, Copy, Debug)]
pub struct Contact {
    /// When the last report that arrived was sent.
    reported: Instant,
    /// How often contact was lost and found again.
    losses: u64,
    /// The value of `losses` when the desired state was last heard.
    heard: u64,
}

impl Contact {
    /// Nothing heard yet: serves nothing.
    pub fn new(now: Instant) -> Self {
        Self { reported: now, losses: 1, heard: 0 }
    }

    /// A report that was sent at `sent` has arrived, as is known at `answered`.
    /// It may have been under way for so long that the worker was lost meanwhile.
    pub fn reported(&mut self, sent: Instant, answered: Instant) {
        if answered.saturating_duration_since(self.reported) >= LOST_AFTER {
            self.losses += 1;
        }
        self.reported = self.reported.max(sent);
    }

    /// To be read before asking for the desired state and given to
    /// [`Contact::heard`] with the answer.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// The desired state, asked for at `losses`, has come and is followed.
    pub fn heard(&mut self, losses: u64) {
        self.heard = self.heard.max(losses);
    }

    /// Whether new generations may start.
    pub fn may_serve(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.reported) < LOST_AFTER && self.heard == self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing takes time on the way.
    fn report(contact: &mut Contact, at: Instant) {
        contact.reported(at, at);
    }

    #[test]
    fn a_lost_worker_serves_only_after_it_reported_and_heard_again() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut contact = Contact::new(start);
        assert!(!contact.may_serve(at(0)), "has heard nothing yet");
        contact.heard(contact.losses());
        assert!(contact.may_serve(at(WORKER_LOST_SECS - 1)));
        report(&mut contact, at(10));
        assert!(contact.may_serve(at(10 + WORKER_LOST_SECS - 1)));
        assert!(!contact.may_serve(at(10 + WORKER_LOST_SECS)));
        let before = contact.losses();
        report(&mut contact, at(60));
        assert!(!contact.may_serve(at(60)), "its placements may be elsewhere by now");
        contact.heard(before);
        assert!(!contact.may_serve(at(60)), "that answer was asked for before");
        contact.heard(contact.losses());
        assert!(contact.may_serve(at(61)));
    }

    #[test]
    fn a_report_that_arrives_late_counts_from_when_it_was_sent() {
        let start = Instant::now();
        let mut contact = Contact::new(start);
        contact.heard(contact.losses());
        report(&mut contact, start + Duration::from_secs(5));
        report(&mut contact, start + Duration::from_secs(2));
        assert!(contact.may_serve(start + Duration::from_secs(4 + WORKER_LOST_SECS)));
        assert!(!contact.may_serve(start + Duration::from_secs(5 + WORKER_LOST_SECS)));
    }

    #[test]
    fn a_worker_that_was_lost_while_its_report_was_under_way_hears_first_what_to_hold() {
        let start = Instant::now();
        let mut contact = Contact::new(start);
        contact.heard(contact.losses());
        // Sent in time, arrived when its work was elsewhere already.
        let sent = start + Duration::from_secs(WORKER_LOST_SECS - 1);
        let answered = sent + Duration::from_secs(3);
        contact.reported(sent, answered);
        assert!(!contact.may_serve(answered));
        contact.heard(contact.losses());
        assert!(contact.may_serve(answered));
    }
}
