//! Rates: how many requests a caller may send, by the generic cell rate
//! algorithm (ITU-T I.371). Counted in this process; each replica has its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::principals::{Caller, Credential};
use domain::{ProjectId, Timestamp};
use uuid::Uuid;

use crate::passwords::network;
use crate::problem::{ApiError, Result};

/// Callers remembered at once.
const MAX_CALLERS: usize = 100_000;
/// Requests a minute from one address to what needs no credential and asks the
/// database. A ministry may have one address.
const PUBLIC_PER_MINUTE: u32 = 600;
const MINUTE: Duration = Duration::from_secs(60);

/// Rates of callers, by account or key, of projects, and of addresses.
#[derive(Debug, Default)]
pub struct Rates {
    callers: Limiter<Uuid>,
    projects: Limiter<ProjectId>,
    addresses: Limiter<IpAddr>,
}

impl Rates {
    /// Counts a request; refuses it when the caller sent more than `per_minute`
    /// in the last minute.
    pub(super) fn check(&self, caller: &Caller, per_minute: u32, now: Timestamp) -> Result<()> {
        let id = match (caller.principal, caller.credential) {
            (Some(principal), _) => principal.0,
            (None, Credential::Key(key)) => key.0,
            (None, Credential::Session(id)) => id,
            (None, Credential::Token(provider)) => provider.0,
        };
        self.callers.check(id, per_minute, now).map_err(|wait| ApiError::TooManyRequests {
            retry_after_secs: wait.as_secs() + 1,
            detail: format!("more than {per_minute} requests a minute"),
        })
    }

    /// Counts a request of a project's keys against its own limit.
    pub(super) fn check_project(&self, project: ProjectId, per_minute: u32, now: Timestamp) -> Result<()> {
        self.projects.check(project, per_minute, now).map_err(|wait| ApiError::TooManyRequests {
            retry_after_secs: wait.as_secs() + 1,
            detail: format!("more than the {per_minute} requests a minute that the project may send"),
        })
    }

    /// Counts a request that comes without a credential.
    pub(crate) fn check_address(&self, address: IpAddr, now: Timestamp) -> Result<()> {
        self.addresses.check(network(address), PUBLIC_PER_MINUTE, now).map_err(|wait| {
            ApiError::TooManyRequests {
                retry_after_secs: wait.as_secs() + 1,
                detail: format!("more than {PUBLIC_PER_MINUTE} requests a minute from your address"),
            }
        })
    }
}

/// Times at which each key's allowance is whole again.
#[derive(Debug)]
pub(crate) struct Limiter<K>(Mutex<HashMap<K, Timestamp>>);

impl<K> Default for Limiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Limiter<K> {
    /// Takes one of `per_minute`, or says how long to wait.
    pub(crate) fn check(&self, key: K, per_minute: u32, now: Timestamp) -> Result<(), Duration> {
        let interval = MINUTE / per_minute.max(1);
        let mut whole_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if whole_at.len() >= MAX_CALLERS && !whole_at.contains_key(&key) {
            whole_at.retain(|_, at| *at > now);
            if whole_at.len() >= MAX_CALLERS {
                return Err(interval);
            }
        }
        let at = whole_at.entry(key).or_insert(now);
        let next = (*at).max(now) + interval;
        let ahead = next.since(now);
        if ahead > MINUTE {
            return Err(ahead - MINUTE);
        }
        *at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_minutes_worth_and_then_they_trickle() {
        let (limiter, start) = (Limiter::default(), Timestamp::UNIX_EPOCH);
        for _ in 0..60 {
            limiter.check("a", 60, start).unwrap();
        }
        assert_eq!(limiter.check("a", 60, start), Err(Duration::from_secs(1)));
        limiter.check("b", 60, start).unwrap();
        limiter.check("a", 60, start + Duration::from_secs(1)).unwrap();
        assert!(limiter.check("a", 60, start + Duration::from_secs(1)).is_err());
    }
}
