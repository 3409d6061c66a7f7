//! Passwords: Argon2id, a few at a time, what they may be, and a limit on wrong
//! guesses from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
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

/// Passwords that everyone tries, in lower case.
const COMMON: &str = include_str!("passwords/common.txt");

/// Whether an account may have this password: long enough, not its login, and
/// none that everyone tries.
pub(crate) fn check_new(field: &str, password: &str, login: &str) -> Result<()> {
    let wrong = |detail: String| Err(ApiError::field(field, detail));
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return wrong(format!("must have at least {MIN_PASSWORD_CHARS} characters"));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return wrong(format!("must have at most {MAX_PASSWORD_BYTES} bytes"));
    }
    let lower = password.to_lowercase();
    if lower == login || login.split('@').next() == Some(&lower) {
        return wrong("must not be the login".to_owned());
    }
    if COMMON.lines().any(|common| common == lower) {
        return wrong("is one of those that everyone tries first; choose another".to_owned());
    }
    Ok(())
}

/// Failures from one address before it must wait. A ministry may have one address.
const MAX_FAILURES: u32 = 60;
/// After this, failures of an address are forgotten.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once.
const MAX_ADDRESSES: usize = 100_000;

/// Counts failed sign-ins by address, in this process. Those of an account are
/// counted in the database.
#[derive(Debug, Default)]
pub struct AddressLimiter(Mutex<HashMap<IpAddr, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Timestamp,
    failures: u32,
}

/// Who has one IPv6 address has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl AddressLimiter {
    /// Whether this address may try now.
    pub(crate) fn check(&self, address: IpAddr, now: Timestamp) -> Result<()> {
        let windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = windows.get(&network(address)).and_then(|window| {
            let left = WINDOW.checked_sub(now.since(window.since)).filter(|left| !left.is_zero())?;
            (window.failures >= MAX_FAILURES).then_some(left.as_secs().max(1))
        });
        match left {
            None => Ok(()),
            Some(retry_after_secs) => Err(ApiError::TooManyRequests {
                retry_after_secs,
                detail: "too many failed sign-ins from your address; wait before the next attempt".to_owned(),
            }),
        }
    }

    pub(crate) fn failed(&self, address: IpAddr, now: Timestamp) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network(address);
        if windows.len() >= MAX_ADDRESSES && !windows.contains_key(&network) {
            windows.retain(|_, w| now.since(w.since) < WINDOW);
            if windows.len() >= MAX_ADDRESSES {
                // Locks of accounts still hold.
                windows.clear();
            }
        }
        let window = windows.entry(network).or_insert(Window { since: now, failures: 0 });
        if now.since(window.since) >= WINDOW {
            *window = Window { since: now, failures: 0 };
        }
        window.failures += 1;
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
    fn weak_passwords_are_refused() {
        let check = |password| check_new("password", password, "anna.schmidt@interior");
        check("a long enough password").unwrap();
        for weak in
            ["eleven char", "PasswordPassword", "anna.schmidt@interior", "Anna.Schmidt", &"a".repeat(1025)]
        {
            assert!(check(weak).is_err(), "{weak}");
        }
        for common in COMMON.lines() {
            assert!(common.len() >= MIN_PASSWORD_CHARS && common.to_lowercase() == common, "{common}");
        }
    }

    #[test]
    fn an_address_that_fails_often_waits() {
        let (limiter, now) = (AddressLimiter::default(), Timestamp::UNIX_EPOCH);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for n in 0..MAX_FAILURES {
            limiter.check(address("2001:db8::1"), now).unwrap();
            limiter.failed(address(&format!("2001:db8::{n:x}")), now);
        }
        let e = limiter.check(address("2001:db8::ffff"), now + Duration::from_secs(20)).unwrap_err();
        assert!(matches!(e, ApiError::TooManyRequests { retry_after_secs: 40, .. }), "{e:?}");
        limiter.check(address("2001:db8:0:1::1"), now).unwrap();
        limiter.check(address("192.0.2.1"), now).unwrap();
        limiter.check(address("2001:db8::1"), now + WINDOW).unwrap();
    }
}
