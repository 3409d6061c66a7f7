//! Results: exactly one per line of a job.

use domain::{JobId, RequestId, TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

/// How one line ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LineResult {
    /// Number of the line, from 0.
    pub line: u64,
    /// Chosen by the caller.
    pub custom_id: String,
    /// The request that ran it.
    pub request_id: RequestId,
    /// HTTP status that it would have had alone.
    pub status_code: u16,
    /// HTTP body that it would have had alone.
    pub body: serde_json::Value,
}

impl LineResult {
    /// Whether it is an answer.
    pub fn is_answer(&self) -> bool {
        self.status_code == 200
    }
}

/// Which results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answers.
    Answers,
    /// Failures.
    Failures,
}

/// Commits results. A second result of a line is impossible, so an error.
pub(crate) async fn insert(
    tx: &mut SystemTx,
    tenant: TenantId,
    job: JobId,
    results: &[LineResult],
    now: Timestamp,
) -> Result<(), StoreError> {
    let lines: Vec<i64> = results.iter().map(|r| signed(r.line)).collect();
    let custom_ids: Vec<String> = results.iter().map(|r| r.custom_id.clone()).collect();
    let requests: Vec<Uuid> = results.iter().map(|r| r.request_id.0).collect();
    let statuses: Vec<i32> = results.iter().map(|r| r.status_code.into()).collect();
    let bodies: Vec<serde_json::Value> = results.iter().map(|r| r.body.clone()).collect();
    query!(
        "INSERT INTO results (tenant_id, job_id, line, custom_id, request_id, status_code, body, committed_at)
         SELECT $1, $2, r.line, r.custom_id, r.request_id, r.status_code, r.body, $3
         FROM UNNEST($4::bigint[], $5::text[], $6::uuid[], $7::integer[], $8::jsonb[])
             AS r (line, custom_id, request_id, status_code, body)",
        tenant.0,
        job.0,
        OffsetDateTime::from(now),
        &lines,
        &custom_ids,
        &requests,
        &statuses,
        &bodies,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Results of a job in order of their lines, from line `from` on.
pub async fn page(
    tx: &mut SystemTx,
    tenant: TenantId,
    job: JobId,
    outcome: Outcome,
    from: u64,
    limit: i64,
) -> Result<Vec<LineResult>, StoreError> {
    let rows = query!(
        "SELECT line, custom_id, request_id, status_code, body FROM results
         WHERE tenant_id = $1 AND job_id = $2 AND line >= $3 AND (status_code = 200) = $4
         ORDER BY line LIMIT $5",
        tenant.0,
        job.0,
        signed(from),
        outcome == Outcome::Answers,
        limit,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |column| StoreError::corrupt("results", column, format!("{job}/{}", row.line));
            Ok(LineResult {
                line: u64::try_from(row.line).map_err(|_| corrupt("line"))?,
                status_code: u16::try_from(row.status_code).map_err(|_| corrupt("status_code"))?,
                custom_id: row.custom_id,
                request_id: RequestId(row.request_id),
                body: row.body,
            })
        })
        .collect()
}

fn signed(line: u64) -> i64 {
    i64::try_from(line).unwrap_or(i64::MAX)
}
