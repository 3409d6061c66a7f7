//! The outbox: what changed, told to the processes that must look.

use std::time::Duration;

use domain::Timestamp;
use domain::outbox::Topic;
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

/// Tells listeners, when this transaction commits. `subject` is an identifier.
pub async fn publish(
    tx: &mut impl Tx,
    topic: Topic,
    subject: impl std::fmt::Display + Send,
    now: Timestamp,
) -> Result<(), StoreError> {
    query!(
        "INSERT INTO outbox (topic, subject, created_at) VALUES ($1, $2, $3)",
        topic.as_str(),
        subject.to_string(),
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Tells listeners of several subjects.
pub async fn publish_all(
    tx: &mut SystemTx,
    topic: Topic,
    subjects: &[Uuid],
    now: Timestamp,
) -> Result<(), StoreError> {
    query!(
        "INSERT INTO outbox (topic, subject, created_at) SELECT $1, subject::text, $3 FROM unnest($2::uuid[]) subject",
        topic.as_str(),
        subjects,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets rows older than `keep`; returns how many.
pub async fn prune(tx: &mut SystemTx, now: Timestamp, keep: Duration) -> Result<u64, StoreError> {
    let before = OffsetDateTime::from(now - keep);
    Ok(query!("DELETE FROM outbox WHERE created_at < $1", before).execute(tx.conn()).await?.rows_affected())
}
