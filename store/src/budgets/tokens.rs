//! Tokens: reserved before a request or a chunk runs, spent when it is billed
//! (`spend_tokens` in the migrations). Budgets are locked in one order while
//! something is reserved, so that no two take the same.

use std::time::Duration;

use domain::budgets::TokensShort;
use domain::quotas::Amount;
use domain::{JobId, ProjectId, RequestId, TenantId, Timestamp};
use sqlx::{query, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, TenantTx, Tx};

/// How long a reservation lasts if nobody settles it, because its process died.
const EXPIRES_AFTER: Duration = Duration::from_secs(3600);
/// Most jobs that are looked at again at once.
const RESUME_BATCH: i64 = 1000;

struct Row {
    project: Option<Uuid>,
    period: String,
    amount: i64,
    spent: i64,
    reserved: i64,
}

impl Row {
    fn short(self, asked: Amount, now: Timestamp) -> Result<TokensShort, StoreError> {
        let period: domain::budgets::Period =
            self.period.parse().map_err(|_| StoreError::corrupt("budgets", "period", &self.period))?;
        Ok(TokensShort {
            of_project: self.project.is_some(),
            period,
            limit: self.amount,
            left: self.amount - self.spent - self.reserved,
            asked,
            ends: period.ends(now),
        })
    }
}

/// Reserves what a request of a project may come to, in one statement; or says
/// which budget has too little left.
pub async fn reserve(
    tx: &mut TenantTx,
    request: RequestId,
    project: ProjectId,
    tokens: Amount,
    now: Timestamp,
) -> Result<Option<TokensShort>, StoreError> {
    let tenant = tx.tenant().0;
    let short = sqlx::query_as!(
        Row,
        r#"WITH short AS MATERIALIZED (SELECT * FROM tokens_short($2, $3, $4, $5)),
                reserved AS (
                    INSERT INTO token_reservations (id, tenant_id, project_id, tokens, expires_at)
                    SELECT $1, $2, $3, $4, $6 WHERE NOT EXISTS (SELECT FROM short))
           SELECT project, period AS "period!", amount AS "amount!", spent AS "spent!", reserved AS "reserved!"
           FROM short"#,
        request.0,
        tenant,
        project.0,
        tokens,
        OffsetDateTime::from(now),
        OffsetDateTime::from(now + EXPIRES_AFTER),
    )
    .fetch_optional(tx.conn())
    .await?;
    short.map(|row| row.short(tokens, now)).transpose()
}

/// A request is over: what it used is billed in the same transaction, if it used
/// anything.
pub async fn release(tx: &mut TenantTx, request: RequestId) -> Result<(), StoreError> {
    query!("DELETE FROM token_reservations WHERE id = $1", request.0).execute(tx.conn()).await?;
    Ok(())
}

/// Forgets reservations whose processes died; returns how many.
pub async fn prune(tx: &mut SystemTx, now: Timestamp) -> Result<u64, StoreError> {
    let gone = query!("DELETE FROM token_reservations WHERE expires_at <= $1", OffsetDateTime::from(now))
        .execute(tx.conn())
        .await?;
    Ok(gone.rows_affected())
}

/// Keeps others from reserving under a tenant's budgets of tokens.
pub(crate) async fn lock(tx: &mut SystemTx, tenant: TenantId) -> Result<(), StoreError> {
    query!(
        "SELECT id FROM budgets WHERE tenant_id = $1 AND class IS NULL ORDER BY id FOR NO KEY UPDATE",
        tenant.0
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(())
}

/// The budget that has too little left for the next chunk of a job, if one has.
pub(crate) async fn next_chunk_short(
    tx: &mut SystemTx,
    tenant: TenantId,
    job: JobId,
    now: Timestamp,
) -> Result<Option<TokensShort>, StoreError> {
    let short = query!(
        r#"SELECT b.project, b.period, b.amount, k.spent AS "spent!", k.reserved AS "reserved!", n.tokens
           FROM jobs j
           CROSS JOIN LATERAL (
               SELECT c.tokens FROM job_chunks c
               WHERE c.tenant_id = j.tenant_id AND c.job_id = j.id
                 AND (c.state = 'waiting' OR (c.state = 'leased' AND c.lease_expires_at <= $3))
               ORDER BY c.index LIMIT 1) n
           JOIN budgets b ON b.tenant_id = j.tenant_id AND b.class IS NULL
               AND (b.project IS NULL OR b.project = j.project_id)
           CROSS JOIN LATERAL token_spending(b, $3) k
           WHERE j.tenant_id = $1 AND j.id = $2
             AND greatest(1, least(n.tokens, b.amount)) > b.amount - k.spent - k.reserved
           ORDER BY b.id LIMIT 1"#,
        tenant.0,
        job.0,
        OffsetDateTime::from(now),
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = short else { return Ok(None) };
    let asked = row.tokens;
    let row = Row {
        project: row.project,
        period: row.period,
        amount: row.amount,
        spent: row.spent,
        reserved: row.reserved,
    };
    row.short(asked, now).map(Some)
}

/// A job begins no lines until a budget has room for them; returns whether that
/// is news.
pub async fn wait_for_tokens(tx: &mut SystemTx, job: JobId, why: &TokensShort) -> Result<bool, StoreError> {
    let noted = query!(
        "UPDATE jobs SET waits_for = $2 WHERE id = $1 AND state = 'in_progress' AND waits_for IS NULL",
        job.0,
        why.to_string(),
    )
    .execute(tx.conn())
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Lets jobs go on that waited for tokens and for whose next lines there is room
/// by now; returns how many.
pub async fn resume_jobs(tx: &mut SystemTx, now: Timestamp) -> Result<u64, StoreError> {
    let waiting = query!(
        "SELECT tenant_id, id FROM jobs WHERE waits_for IS NOT NULL AND state = 'in_progress'
         ORDER BY created_at LIMIT $1",
        RESUME_BATCH
    )
    .fetch_all(tx.conn())
    .await?;
    let mut room = Vec::new();
    for job in waiting {
        if next_chunk_short(tx, TenantId(job.tenant_id), JobId(job.id), now).await?.is_none() {
            room.push(job.id);
        }
    }
    if room.is_empty() {
        return Ok(0);
    }
    let resumed = query_scalar!(
        "UPDATE jobs SET waits_for = NULL WHERE id = ANY($1) AND waits_for IS NOT NULL RETURNING id",
        &room
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(resumed.len() as u64)
}
