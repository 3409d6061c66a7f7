//! Usage day by day: time of accelerators from placements, tokens from answers.

use domain::usage::{AcceleratorDay, TokenDay};
use domain::{TenantId, Timestamp};
use sqlx::query;
use time::OffsetDateTime;

use super::MAX_SUMMARY_ROWS;
use crate::{StoreError, SystemTx, Tx};

/// Which days, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The first day begins then.
    pub from: Timestamp,
    /// The last has ended by then.
    pub to: Timestamp,
    /// Of this tenant only.
    pub tenant: Option<TenantId>,
    /// Of the project, or projects, of this short name only.
    pub project: Option<&'a str>,
}

/// Time of accelerators by day, tenant, project and class, newest day first; what
/// still runs counts until `now`.
pub async fn accelerators(
    tx: &mut SystemTx,
    range: Range<'_>,
    now: Timestamp,
) -> Result<Vec<AcceleratorDay>, StoreError> {
    let rows = query!(
        r#"SELECT to_char(u.day, 'YYYY-MM-DD') AS "day!", t.slug AS tenant, p.slug AS project, u.class AS "class!",
               sum(u.milli_ms)::bigint AS "milli_ms!"
           FROM (
               SELECT tenant_id, project_id, class, day, milli_ms FROM accelerator_usage
               WHERE $3::uuid IS NULL OR tenant_id = $3
               UNION ALL
               SELECT r.tenant_id, r.project_id, r.class, d.day::date,
                   r.milli * shared_ms(r.began, $5, d.day AT TIME ZONE 'UTC', d.day AT TIME ZONE 'UTC' + interval '1 day')
               FROM placement_times r
               CROSS JOIN LATERAL generate_series(
                   date_trunc('day', r.began AT TIME ZONE 'UTC'), $5 AT TIME ZONE 'UTC', interval '1 day') AS d (day)
               WHERE r.ended IS NULL AND ($3::uuid IS NULL OR r.tenant_id = $3)
           ) u
           JOIN tenants t ON t.id = u.tenant_id
           JOIN projects p ON p.tenant_id = u.tenant_id AND p.id = u.project_id
           WHERE u.day >= ($1::timestamptz AT TIME ZONE 'UTC')::date AND u.day < ($2::timestamptz AT TIME ZONE 'UTC')
             AND ($4::text IS NULL OR p.slug = $4)
           GROUP BY 1, 2, 3, 4 HAVING sum(u.milli_ms) > 0
           ORDER BY 1 DESC, 2, 3, 4 LIMIT $6"#,
        OffsetDateTime::from(range.from),
        OffsetDateTime::from(range.to),
        range.tenant.map(|t| t.0),
        range.project,
        OffsetDateTime::from(now),
        MAX_SUMMARY_ROWS,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |table| move |_| StoreError::corrupt(table, "slug", "in usage");
            Ok(AcceleratorDay {
                tenant: row.tenant.parse().map_err(corrupt("tenants"))?,
                project: row.project.parse().map_err(corrupt("projects"))?,
                day: row.day,
                class: row.class,
                // From thousandths times milliseconds.
                accelerator_seconds: row.milli_ms.unsigned_abs().div_ceil(1_000_000),
            })
        })
        .collect()
}

/// Tokens by day, tenant and project, newest day first.
pub async fn tokens(tx: &mut SystemTx, range: Range<'_>) -> Result<Vec<TokenDay>, StoreError> {
    let rows = query!(
        r#"SELECT u.day AS "day!", t.slug AS tenant, p.slug AS project, u.requests AS "requests!",
               u.prompt_tokens AS "prompt_tokens!", u.completion_tokens AS "completion_tokens!"
           FROM tenants t
           CROSS JOIN LATERAL (
               SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, project_id, count(*) AS requests,
                   sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens
               FROM usage
               WHERE tenant_id = t.id AND at >= $1 AND at < $2
               GROUP BY 1, 2
           ) u
           JOIN projects p ON p.tenant_id = t.id AND p.id = u.project_id
           WHERE ($3::uuid IS NULL OR t.id = $3) AND ($4::text IS NULL OR p.slug = $4)
           ORDER BY 1 DESC, 2, 3 LIMIT $5"#,
        OffsetDateTime::from(range.from),
        OffsetDateTime::from(range.to),
        range.tenant.map(|t| t.0),
        range.project,
        MAX_SUMMARY_ROWS,
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |table| move |_| StoreError::corrupt(table, "slug", "in usage");
            Ok(TokenDay {
                tenant: row.tenant.parse().map_err(corrupt("tenants"))?,
                project: row.project.parse().map_err(corrupt("projects"))?,
                day: row.day,
                requests: row.requests.unsigned_abs(),
                prompt_tokens: row.prompt_tokens.unsigned_abs(),
                completion_tokens: row.completion_tokens.unsigned_abs(),
            })
        })
        .collect()
}
