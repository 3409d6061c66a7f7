//! What the internal listener remembers of workers: whose credential it saw a
//! moment ago, and who waits for news of its desired state.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::outbox::Topic;
use domain::{Timestamp, WorkerId};
use store::listen::Change;
use tokio::sync::Notify;

/// How long a credential is believed without asking again. A worker that joins
/// anew ends it earlier.
const CREDENTIAL_TTL: Duration = Duration::from_secs(5);
/// Most credentials remembered.
const MAX_CREDENTIALS: usize = 20_000;
/// Most workers that are woken singly; beyond it they look by timer.
const MAX_WAITERS: usize = 20_000;

/// Shared by the handlers of the internal listener.
#[derive(Debug, Default)]
pub struct Fleet {
    credentials: Mutex<Credentials>,
    waiters: Mutex<HashMap<WorkerId, Arc<Notify>>>,
}

#[derive(Debug, Default)]
struct Credentials {
    by_hash: HashMap<[u8; 32], (WorkerId, Timestamp)>,
    /// Counts invalidations: what was read before one is not kept after it.
    epoch: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Whose credential has this hash, if it was checked a moment ago.
    pub fn known(&self, hash: &[u8; 32], now: Timestamp) -> Option<WorkerId> {
        let credentials = lock(&self.credentials);
        let (worker, checked_at) = credentials.by_hash.get(hash)?;
        (now.since(*checked_at) < CREDENTIAL_TTL).then_some(*worker)
    }

    /// To be read before the database is asked, and given to [`Fleet::remember`].
    pub fn epoch(&self) -> u64 {
        lock(&self.credentials).epoch
    }

    /// Keeps what the database said, unless a worker has joined meanwhile.
    pub fn remember(&self, hash: [u8; 32], worker: WorkerId, now: Timestamp, epoch: u64) {
        let mut credentials = lock(&self.credentials);
        if credentials.epoch != epoch {
            return;
        }
        if credentials.by_hash.len() >= MAX_CREDENTIALS {
            credentials.by_hash.retain(|_, (_, at)| now.since(*at) < CREDENTIAL_TTL);
        }
        if credentials.by_hash.len() < MAX_CREDENTIALS {
            credentials.by_hash.insert(hash, (worker, now));
        }
    }

    /// Whoever had a credential of this worker has it no more.
    pub fn forget(&self, worker: WorkerId) {
        let mut credentials = lock(&self.credentials);
        credentials.epoch += 1;
        credentials.by_hash.retain(|_, (of, _)| *of != worker);
    }

    /// Woken when placements of the worker change.
    pub fn waiter(&self, worker: WorkerId) -> Arc<Notify> {
        let mut waiters = lock(&self.waiters);
        if waiters.len() >= MAX_WAITERS {
            // Those that wait hold theirs; they look by timer until they ask again.
            waiters.clear();
        }
        waiters.entry(worker).or_default().clone()
    }

    /// Takes a notice from the database.
    pub fn tell(&self, change: &Change) {
        match change {
            Change::Of(Topic::Placements, subject) => {
                if let Ok(worker) = subject.parse()
                    && let Some(waiter) = lock(&self.waiters).get(&worker)
                {
                    waiter.notify_one();
                }
            }
            Change::Of(Topic::Credentials, subject) => {
                if let Ok(worker) = subject.parse() {
                    self.forget(worker);
                }
            }
            Change::Of(Topic::Desired | Topic::Tenants | Topic::Demand, _) => {}
            Change::Anything => {
                let mut credentials = lock(&self.credentials);
                credentials.epoch += 1;
                credentials.by_hash.clear();
                drop(credentials);
                for waiter in lock(&self.waiters).values() {
                    waiter.notify_one();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_credential_is_believed_for_a_moment() {
        let (fleet, worker) = (Fleet::default(), WorkerId::generate());
        fleet.remember([1; 32], worker, NOW, fleet.epoch());
        assert_eq!(fleet.known(&[1; 32], NOW + Duration::from_secs(4)), Some(worker));
        assert_eq!(fleet.known(&[1; 32], NOW + Duration::from_secs(5)), None);
        assert_eq!(fleet.known(&[2; 32], NOW), None);
    }

    #[test]
    fn a_worker_that_joins_anew_ends_its_former_credential() {
        let (fleet, worker) = (Fleet::default(), WorkerId::generate());
        let before = fleet.epoch();
        fleet.remember([1; 32], worker, NOW, before);
        fleet.tell(&Change::Of(Topic::Credentials, worker.to_string()));
        assert_eq!(fleet.known(&[1; 32], NOW), None);
        // An answer of the database from before is not believed after.
        fleet.remember([1; 32], worker, NOW, before);
        assert_eq!(fleet.known(&[1; 32], NOW), None);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_its_own_changes() {
        let fleet = Fleet::default();
        let (mine, other) = (WorkerId::generate(), WorkerId::generate());
        let (my_waiter, other_waiter) = (fleet.waiter(mine), fleet.waiter(other));
        fleet.tell(&Change::Of(Topic::Placements, mine.to_string()));
        my_waiter.notified().await;
        assert!(futures_util::FutureExt::now_or_never(other_waiter.notified()).is_none());
        fleet.tell(&Change::Anything);
        other_waiter.notified().await;
    }
}
