//! Sessions of people, by keyed hash.

use std::time::Duration;

use domain::principals::Credential;
use domain::sessions::Session;
use domain::{PrincipalId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

/// A session to open.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// Whose.
    pub principal: PrincipalId,
    /// Keyed hash of its token.
    pub hash: &'a [u8; 32],
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// A one-time code was given too.
    pub one_time_code: bool,
    /// Where it was opened from.
    pub address: Option<&'a str>,
    /// With what program.
    pub user_agent: Option<&'a str>,
}

/// Opens a session and notes that its owner signed in.
pub async fn create(tx: &mut SystemTx, new: NewSession<'_>, now: Timestamp) -> Result<Uuid, StoreError> {
    let (id, now) = (Uuid::now_v7(), OffsetDateTime::from(now));
    query!(
        "INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at,
             one_time_code, address, user_agent)
         VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8)",
        new.hash.as_slice(),
        id,
        new.principal.0,
        now,
        OffsetDateTime::from(new.expires_at),
        new.one_time_code,
        new.address,
        new.user_agent,
    )
    .execute(tx.conn())
    .await?;
    query!("UPDATE principals SET signed_in_at = $2 WHERE id = $1", new.principal.0, now)
        .execute(tx.conn())
        .await?;
    Ok(id)
}

/// Notes that a session was used, unless that was noted less than `resolution` ago.
pub async fn note_use(
    tx: &mut SystemTx,
    id: Uuid,
    now: Timestamp,
    resolution: Duration,
) -> Result<(), StoreError> {
    query!(
        "UPDATE sessions SET last_seen_at = $2 WHERE id = $1 AND last_seen_at <= $3",
        id,
        OffsetDateTime::from(now),
        OffsetDateTime::from(now - resolution),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Up to `limit` open sessions of a principal, newest first, before the one
/// with id `before`. One that was not used for `idle` is none.
pub async fn list(
    tx: &mut SystemTx,
    principal: PrincipalId,
    before: Option<Uuid>,
    limit: u32,
    now: Timestamp,
    idle: Duration,
) -> Result<Vec<Session>, StoreError> {
    let rows = query!(
        "SELECT id, created_at, last_seen_at, expires_at, one_time_code, address, user_agent FROM sessions
         WHERE principal_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND last_seen_at > $3
             AND ($4::uuid IS NULL OR id < $4)
         ORDER BY id DESC LIMIT $5",
        principal.0,
        OffsetDateTime::from(now),
        OffsetDateTime::from(now - idle),
        before,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?;
    let sessions = rows.into_iter().map(|row| Session {
        id: row.id,
        created_at: row.created_at.into(),
        last_seen_at: row.last_seen_at.into(),
        expires_at: row.expires_at.into(),
        one_time_code: row.one_time_code,
        address: row.address,
        user_agent: row.user_agent,
        current: false,
    });
    Ok(sessions.collect())
}

/// Ends a session; returns whether it was open and the principal's.
pub async fn revoke(
    tx: &mut SystemTx,
    principal: PrincipalId,
    id: Uuid,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(query!(
        "UPDATE sessions SET revoked_at = $3 WHERE id = $1 AND principal_id = $2 AND revoked_at IS NULL",
        id,
        principal.0,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?
    .rows_affected()
        == 1)
}

/// Ends every session of a principal but `except`; returns which.
pub async fn revoke_all(
    tx: &mut SystemTx,
    principal: PrincipalId,
    except: Option<Credential>,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    let kept = match except {
        Some(Credential::Session(id)) => Some(id),
        _ => None,
    };
    let rows = query!(
        "UPDATE sessions SET revoked_at = $2
         WHERE principal_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $3 RETURNING id",
        principal.0,
        OffsetDateTime::from(now),
        kept,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Forgets sessions of a principal that are over; returns how many.
pub async fn prune(tx: &mut SystemTx, principal: PrincipalId, now: Timestamp) -> Result<u64, StoreError> {
    let now = OffsetDateTime::from(now);
    Ok(query!("DELETE FROM sessions WHERE principal_id = $1 AND expires_at < $2", principal.0, now)
        .execute(tx.conn())
        .await?
        .rows_affected())
}
