//! Attempts to prove who one is: counted before they are made, so that many at
//! once, over any number of processes, are no more guesses than one after the
//! other; and one-time codes, each taken once.

use std::time::Duration;

use domain::{PrincipalId, TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use crate::{StoreError, SystemTx, Tx};

/// Failures that cost nothing.
pub const FREE_FAILURES: i32 = 5;
/// Longest lock; the first lasts a second, and each doubles.
pub const LONGEST_LOCK: Duration = Duration::from_secs(15 * 60);

/// How long an account is locked after so many failures in a row.
fn lock(failures: i32) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(FREE_FAILURES)?).ok()?;
    Some(Duration::from_secs(1 << doublings.min(10)).min(LONGEST_LOCK))
}

/// An attempt that counts as failed until it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whose.
    pub principal: PrincipalId,
    /// Hash of the password, if there is one.
    pub password_hash: Option<String>,
    /// Sealed seed of one-time codes, once they are in force.
    pub seed: Option<Vec<u8>>,
    locked_until: Option<OffsetDateTime>,
}

/// Who is proved.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// Who signs in with this login.
    Login(&'a str),
    /// A person that is signed in already.
    Principal(PrincipalId),
}

/// Counts an attempt of an enabled local account that is not locked; `None` for
/// all others. To be committed before it is made.
pub async fn attempt(tx: &mut SystemTx, who: Who<'_>, now: Timestamp) -> Result<Option<Attempt>, StoreError> {
    // The count may be lost with the machine. What waits for the disk would
    // tell by its time which logins exist.
    query!("SELECT set_config('synchronous_commit', 'off', true)").fetch_one(tx.conn()).await?;
    let (login, principal) = match who {
        Who::Login(login) => (Some(login), None),
        Who::Principal(id) => (None, Some(id.0)),
    };
    let row = query!(
        "UPDATE principals SET failures = LEAST(failures + 1, 1000)
         WHERE (lower(login) = lower($1) OR id = $2) AND kind = 'person' AND provider_id IS NULL
             AND disabled_at IS NULL AND (locked_until IS NULL OR locked_until <= $3)
         RETURNING id, failures, password_hash,
             CASE WHEN totp_confirmed_at IS NOT NULL THEN totp_seed END AS seed",
        login,
        principal,
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let locked_until = lock(row.failures).map(|lock| OffsetDateTime::from(now + lock));
    query!("UPDATE principals SET locked_until = $2 WHERE id = $1", row.id, locked_until)
        .execute(tx.conn())
        .await?;
    Ok(Some(Attempt {
        principal: row.id.into(),
        password_hash: row.password_hash,
        seed: row.seed,
        locked_until,
    }))
}

/// Whom a login names, also one that cannot sign in now, for the audit log.
pub async fn meant(
    tx: &mut SystemTx,
    login: &str,
) -> Result<Option<(Option<TenantId>, PrincipalId)>, StoreError> {
    let row = query!(
        "SELECT tenant_id, id FROM principals
         WHERE lower(login) = lower($1) AND kind = 'person' AND provider_id IS NULL",
        login,
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| (row.tenant_id.map(TenantId), row.id.into())))
}

/// The attempt succeeded: the count begins anew.
pub async fn succeeded(tx: &mut SystemTx, attempt: &Attempt) -> Result<(), StoreError> {
    query!(
        "UPDATE principals SET failures = 0, locked_until = NULL WHERE id = $1 AND failures > 0",
        attempt.principal.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The attempt was neither right nor wrong: only itself is not counted.
pub async fn withdraw(tx: &mut SystemTx, attempt: &Attempt) -> Result<(), StoreError> {
    query!(
        "UPDATE principals SET failures = GREATEST(failures - 1, 0),
             locked_until = CASE WHEN locked_until = $2 THEN NULL ELSE locked_until END
         WHERE id = $1",
        attempt.principal.0,
        attempt.locked_until,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes the one-time code of a time step; `false` if it, or a later one, was
/// taken before.
pub async fn take_step(tx: &mut SystemTx, id: PrincipalId, step: i64) -> Result<bool, StoreError> {
    let taken = query!(
        "UPDATE principals SET totp_last_step = $2
         WHERE id = $1 AND (totp_last_step IS NULL OR totp_last_step < $2)",
        id.0,
        step,
    );
    Ok(taken.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Takes a recovery code by its keyed hash; `false` if there is none.
pub async fn take_recovery_code(
    tx: &mut SystemTx,
    id: PrincipalId,
    hash: &[u8; 32],
) -> Result<bool, StoreError> {
    let taken = query!(
        "UPDATE principals SET recovery_codes = array_remove(recovery_codes, $2)
         WHERE id = $1 AND $2 = ANY (recovery_codes)",
        id.0,
        hash.as_slice(),
    );
    Ok(taken.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Keeps the sealed seed of codes that are not in force yet.
pub async fn begin_one_time_codes(
    tx: &mut SystemTx,
    id: PrincipalId,
    sealed: &[u8],
) -> Result<(), StoreError> {
    let begun = query!(
        "UPDATE principals SET totp_seed = $2, totp_last_step = NULL
         WHERE id = $1 AND totp_confirmed_at IS NULL AND kind = 'person' AND provider_id IS NULL",
        id.0,
        sealed,
    );
    if begun.execute(tx.conn()).await?.rows_affected() == 1 {
        return Ok(());
    }
    Err(StoreError::Conflict(
        "one-time codes are in force already, or an identity provider signs this account in; remove them first",
    ))
}

/// The sealed seed that waits to be confirmed.
pub async fn unconfirmed_seed(tx: &mut SystemTx, id: PrincipalId) -> Result<Option<Vec<u8>>, StoreError> {
    let row = query!(
        "SELECT totp_seed FROM principals WHERE id = $1 AND totp_confirmed_at IS NULL FOR UPDATE",
        id.0
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.and_then(|row| row.totp_seed))
}

/// Puts one-time codes in force, with the keyed hashes of recovery codes.
pub async fn confirm_one_time_codes(
    tx: &mut SystemTx,
    id: PrincipalId,
    recovery: &[Vec<u8>],
    now: Timestamp,
) -> Result<(), StoreError> {
    query!(
        "UPDATE principals SET totp_confirmed_at = $2, recovery_codes = $3, revision = revision + 1 WHERE id = $1",
        id.0,
        OffsetDateTime::from(now),
        recovery,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Asks for no one-time codes any more; returns whether they were in force.
pub async fn remove_one_time_codes(tx: &mut SystemTx, id: PrincipalId) -> Result<bool, StoreError> {
    let row = query!("SELECT totp_confirmed_at FROM principals WHERE id = $1 FOR UPDATE", id.0)
        .fetch_one(tx.conn())
        .await?;
    query!(
        "UPDATE principals SET totp_seed = NULL, totp_confirmed_at = NULL, totp_last_step = NULL,
             recovery_codes = '{}', revision = revision + 1
         WHERE id = $1",
        id.0,
    )
    .execute(tx.conn())
    .await?;
    Ok(row.totp_confirmed_at.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_double_to_a_quarter_of_an_hour() {
        let secs = |failures| lock(failures).map(|lock| lock.as_secs());
        assert_eq!([secs(0), secs(4)], [None, None]);
        assert_eq!([secs(5), secs(6), secs(14)], [Some(1), Some(2), Some(512)]);
        assert_eq!([secs(15), secs(1000)], [Some(900), Some(900)]);
    }
}
