//! Passwords: Argon2id, a few at a time, and a limit on wrong guesses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use domain::Timestamp;
use tokio::sync::Semaphore;

use crate::problem::{ApiError, Result};

/// OWASP's recommendation for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes computed at once; each takes a core and [`MEMORY_KIB`].
const AT_ONCE: usize = 2;
/// How long a sign-in waits for its turn.
const WAIT: Duration = Duration::from_secs(5);
/// Shortest password of an account.
pub(crate) const MIN_PASSWORD_CHARS: usize = 12;
/// Longest password of an account.
pub(crate) const MAX_PASSWORD_BYTES: usize = 1024;

/// Hashes and checks passwords.
#[derive(Clone, Debug)]
pub struct Passwords(Arc<Semaphore>);

impl Passwords {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// What to store of a password.
    pub(crate) async fn hash(&self, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.run(move || hash(password.as_bytes())).await?.map_err(ApiError::internal)
    }

    /// Whether it is the password. Takes as long when there is no account, so
    /// that time does not tell which logins exist.
    pub(crate) async fn verify(&self, password: &str, stored: Option<String>) -> Result<bool> {
        let password = password.to_owned();
        self.run(move || {
            let known = stored.is_some();
            let stored = stored.as_deref().unwrap_or(NOBODY);
            let matches = PasswordHash::new(stored)
                .is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok());
            known && matches
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let permit = tokio::time::timeout(WAIT, self.0.clone().acquire_owned())
            .await
            .map_err(|_| ApiError::TooManyRequests {
                retry_after_secs: WAIT.as_secs(),
                detail: "too many people sign in at this moment; try again".to_owned(),
            })?
            .map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(ApiError::internal)
    }
}

/// A hash with our parameters that no password is known for.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constants within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &[u8]) -> Result<String, argon2::password_hash::Error> {
    let salt: [u8; 16] = crate::state::random();
    Ok(argon2().hash_password_with_salt(password, &salt)?.to_string())
}

/// Failures of one login before it must wait.
const MAX_FAILURES: u32 = 10;
/// After this, failures of a login are forgotten.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Failures of all logins together before everyone must wait, for a short
/// while: guessing over many logins is slow, and nobody is locked out for long.
const MAX_FAILURES_ALL: u32 = 120;
/// After this, failures of all logins together are forgotten.
const WINDOW_ALL: Duration = Duration::from_secs(60);
/// Logins remembered at once.
const MAX_LOGINS: usize = 10_000;

/// Counts wrong passwords, in this process.
#[derive(Debug, Default)]
pub struct LoginLimiter(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    by_login: HashMap<String, Window>,
    all: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Timestamp,
    failures: u32,
}

impl Window {
    fn seconds_left(self, now: Timestamp, limit: u32, window: Duration) -> Option<u64> {
        let left = window.checked_sub(now.since(self.since))?;
        (self.failures >= limit && !left.is_zero()).then_some(left.as_secs().max(1))
    }

    fn failed(current: Option<Self>, now: Timestamp, window: Duration) -> Self {
        match current {
            Some(w) if now.since(w.since) < window => Self { failures: w.failures + 1, ..w },
            _ => Self { since: now, failures: 1 },
        }
    }
}

impl LoginLimiter {
    /// Whether this login may try now.
    pub(crate) fn check(&self, login: &str, now: Timestamp) -> Result<()> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = failures.by_login.get(login).and_then(|w| w.seconds_left(now, MAX_FAILURES, WINDOW));
        let all = failures.all.and_then(|w| w.seconds_left(now, MAX_FAILURES_ALL, WINDOW_ALL));
        match own.or(all) {
            None => Ok(()),
            Some(retry_after_secs) => Err(ApiError::TooManyRequests {
                retry_after_secs,
                detail: "too many wrong passwords; wait before the next attempt".to_owned(),
            }),
        }
    }

    pub(crate) fn failed(&self, login: &str, now: Timestamp) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.all = Some(Window::failed(failures.all, now, WINDOW_ALL));
        if failures.by_login.len() >= MAX_LOGINS && !failures.by_login.contains_key(login) {
            failures.by_login.retain(|_, w| now.since(w.since) < WINDOW);
            if failures.by_login.len() >= MAX_LOGINS {
                // The limit on all logins together still holds.
                return;
            }
        }
        let window = Window::failed(failures.by_login.get(login).copied(), now, WINDOW);
        failures.by_login.insert(login.to_owned(), window);
    }

    pub(crate) fn succeeded(&self, login: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_login.remove(login);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let passwords = Passwords::new();
        let stored = passwords.hash("correct horse battery").await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(passwords.verify("correct horse battery", Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify("correct horse", Some(stored)).await.unwrap());
        assert!(!passwords.verify("correct horse", None).await.unwrap());
        assert!(PasswordHash::new(NOBODY).is_ok(), "unknown logins must cost as much");
    }

    #[test]
    fn ten_wrong_passwords_make_a_login_wait() {
        let (limiter, now) = (LoginLimiter::default(), Timestamp::UNIX_EPOCH);
        for _ in 0..MAX_FAILURES {
            limiter.check("a", now).unwrap();
            limiter.failed("a", now);
        }
        let e = limiter.check("a", now + Duration::from_secs(60)).unwrap_err();
        assert!(matches!(e, ApiError::TooManyRequests { retry_after_secs: 840, .. }), "{e:?}");
        limiter.check("b", now).unwrap();
        limiter.check("a", now + WINDOW).unwrap();
    }

    #[test]
    fn guesses_over_many_logins_are_limited_too() {
        let (limiter, now) = (LoginLimiter::default(), Timestamp::UNIX_EPOCH);
        for n in 0..MAX_FAILURES_ALL {
            limiter.failed(&format!("login-{n}"), now);
        }
        assert!(limiter.check("another", now).is_err());
        limiter.check("another", now + WINDOW_ALL).unwrap();
    }
}
