//! The record of plans.

use std::io::{Read as _, Write as _};

use domain::Timestamp;
use domain::models::Sha256Digest;
use domain::planner::{PlanId, Recorded};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sqlx::{query, query_scalar};
use time::OffsetDateTime;

use crate::{StoreError, SystemTx, Tx};

/// A plan, and the digest of what it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanRef {
    /// Which.
    pub id: PlanId,
    /// The digest of its page.
    pub inputs: Sha256Digest,
}

impl From<&Recorded> for PlanRef {
    fn from(recorded: &Recorded) -> Self {
        Self { id: recorded.plan, inputs: recorded.digest }
    }
}

/// The plan after the last of an epoch.
pub async fn next(tx: &mut SystemTx, epoch: i64) -> Result<PlanId, StoreError> {
    let last = query_scalar!("SELECT number FROM plans WHERE epoch = $1 ORDER BY number DESC LIMIT 1", epoch);
    let last = last.fetch_optional(tx.conn()).await?;
    Ok(PlanId { epoch, number: last.map_or(0, |last| last + 1) })
}

/// Keeps a page. [`StoreError::Conflict`] when another planned in its epoch.
pub async fn keep(tx: &mut SystemTx, page: &Recorded, now: Timestamp) -> Result<(), StoreError> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(page.line.as_bytes())
        .and_then(|()| gzip.try_finish())
        .expect("memory takes what is written");
    let compressed = gzip.finish().expect("memory takes what is written");
    query!(
        "INSERT INTO plans (epoch, number, at, began, digest, page) VALUES ($1, $2, $3, $4, $5, $6)",
        page.plan.epoch,
        page.plan.number,
        OffsetDateTime::from(now),
        page.began,
        &page.digest.0[..],
        compressed,
    )
    .execute(tx.conn())
    .await
    .map_err(|e| match &e {
        sqlx::Error::Database(d) if d.is_unique_violation() => {
            StoreError::Conflict("another planned in this epoch")
        }
        _ => e.into(),
    })?;
    Ok(())
}

/// The first page that is needed to make a plan again.
pub async fn beginning(tx: &mut SystemTx, plan: PlanId) -> Result<PlanId, StoreError> {
    let began = query!(
        r#"SELECT b.number FROM plans p JOIN plans b ON b.epoch = p.epoch AND b.number <= p.number AND b.began
           WHERE p.epoch = $1 AND p.number = $2 ORDER BY b.number DESC LIMIT 1"#,
        plan.epoch,
        plan.number,
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(StoreError::NotFound("plan"))?;
    Ok(PlanId { number: began.number, ..plan })
}

/// Up to `limit` pages, as lines, from one plan to another.
pub async fn pages(
    tx: &mut SystemTx,
    from: PlanId,
    to: PlanId,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let rows = query!(
        "SELECT number, page FROM plans WHERE epoch = $1 AND number BETWEEN $2 AND $3 ORDER BY number LIMIT $4",
        from.epoch,
        from.number,
        to.number,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let mut line = String::new();
            match GzDecoder::new(&*row.page).read_to_string(&mut line) {
                Ok(_) => Ok(line),
                Err(_) => Err(StoreError::corrupt("plans", "page", PlanId { number: row.number, ..from })),
            }
        })
        .collect()
}

/// Forgets the records that end before a moment: whole ones, from where a
/// planner began to where the next did. Returns how many pages those were.
pub async fn forget(tx: &mut SystemTx, before: Timestamp) -> Result<u64, StoreError> {
    let forgotten = query!(
        "DELETE FROM plans WHERE (epoch, number) < (
             SELECT epoch, number FROM plans WHERE began AND at < $1 ORDER BY epoch DESC, number DESC LIMIT 1)",
        OffsetDateTime::from(before),
    )
    .execute(tx.conn())
    .await?;
    Ok(forgotten.rows_affected())
}
