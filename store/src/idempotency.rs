//! Answers of mutations by their Idempotency-Key, written in the transaction
//! of what they answer: an act and its answer exist together or not at all.

use std::time::Duration;

use domain::{TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use crate::{StoreError, SystemTx, Tx};

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: this transaction may act, and holds the key until it ends.
    Fresh,
    /// Another transaction is acting under it.
    InFlight,
    /// It was answered.
    Answered(Answer),
}

/// An answer that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// HTTP status.
    pub status: u16,
    /// The sealed body.
    pub sealed: Vec<u8>,
}

/// Claims a key until the end of the transaction, by its keyed hash.
pub async fn claim(tx: &mut impl Tx, key_hash: &[u8; 32]) -> Result<Claim, StoreError> {
    let lock = i64::from_be_bytes(key_hash[..8].try_into().expect("8 of 32 bytes"));
    let row = query!(
        r#"SELECT pg_try_advisory_xact_lock($2) AS "locked!", a.fingerprint AS "fingerprint?",
               a.status AS "status?", a.answer AS "answer?"
           FROM (VALUES (1)) AS one LEFT JOIN idempotent_answers a ON a.key_hash = $1"#,
        key_hash.as_slice(),
        lock,
    )
    .fetch_one(tx.conn())
    .await?;
    match (row.fingerprint, row.status, row.answer) {
        (Some(fingerprint), Some(status), Some(sealed)) => {
            let corrupt = |column| StoreError::corrupt("idempotent_answers", column, hex::encode(key_hash));
            Ok(Claim::Answered(Answer {
                fingerprint: fingerprint.try_into().map_err(|_| corrupt("fingerprint"))?,
                status: status.try_into().map_err(|_| corrupt("status"))?,
                sealed,
            }))
        }
        _ if row.locked => Ok(Claim::Fresh),
        _ => Ok(Claim::InFlight),
    }
}

/// Keeps an answer under a claimed key.
pub async fn keep(
    tx: &mut impl Tx,
    key_hash: &[u8; 32],
    tenant: Option<TenantId>,
    answer: &Answer,
    now: Timestamp,
) -> Result<(), StoreError> {
    query!(
        "INSERT INTO idempotent_answers (key_hash, tenant_id, fingerprint, status, answer, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        key_hash.as_slice(),
        tenant.map(|t| t.0),
        answer.fingerprint.as_slice(),
        i32::from(answer.status),
        answer.sealed,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await
    // The claim was read a moment before another's answer was committed.
    .map_err(|e| match &e {
        sqlx::Error::Database(d) if d.is_unique_violation() => {
            StoreError::Conflict("another request with this Idempotency-Key was quicker; send it again")
        }
        _ => e.into(),
    })?;
    Ok(())
}

/// Forgets answers older than `keep`; returns how many.
pub async fn prune(tx: &mut SystemTx, now: Timestamp, keep: Duration) -> Result<u64, StoreError> {
    let before = OffsetDateTime::from(now - keep);
    Ok(query!("DELETE FROM idempotent_answers WHERE created_at < $1", before)
        .execute(tx.conn())
        .await?
        .rows_affected())
}
