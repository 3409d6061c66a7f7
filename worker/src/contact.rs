//! Whether this worker may still serve: [`domain::workers::Contact`], shared by
//! the loops that learn and the requests that ask.

use std::time::Instant;

use domain::workers;
use tokio::sync::watch;

/// When the API last heard from this worker, and this worker from the API.
#[derive(Debug)]
pub struct Contact(watch::Sender<workers::Contact>);

impl Contact {
    /// Nothing heard yet: serves nothing.
    pub fn new(now: Instant) -> Self {
        Self(watch::Sender::new(workers::Contact::new(now)))
    }

    /// A report that was sent at `sent` was answered at `answered`.
    pub fn reported(&self, sent: Instant, answered: Instant) {
        self.0.send_modify(|contact| contact.reported(sent, answered));
    }

    /// To be read before asking for the desired state and given to
    /// [`Contact::heard`] with the answer.
    pub fn losses(&self) -> u64 {
        self.0.borrow().losses()
    }

    /// The desired state, asked for at `losses`, has come and is followed.
    pub fn heard(&self, losses: u64) {
        self.0.send_modify(|contact| contact.heard(losses));
    }

    /// Whether new generations may start.
    pub fn may_serve(&self, now: Instant) -> bool {
        self.0.borrow().may_serve(now)
    }

    /// Waits until contact was lost and found again since `losses` was read.
    pub async fn found_again(&self, losses: u64) {
        let mut contacts = self.0.subscribe();
        // The sender is `self`: it outlives this.
        let _ = contacts.wait_for(|contact| contact.losses() != losses).await;
    }
}
