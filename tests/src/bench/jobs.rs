//! Jobs of one chunk: one by one as the API creates them, or many at once.

use anyhow::Result;
use domain::accelerators::ResourceRequest;
use domain::jobs::ChunkRange;
use domain::{Clock, JobId, ProjectId, VersionId};
use serde_json::json;
use sqlx::postgres::PgConnection;
use store::jobs::NewJob;
use store::{Store, audit};
use uuid::Uuid;

use super::ministries::Ministry;
use crate::database::rows;

/// What a job asks for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Accelerator class.
    pub class: &'a str,
    /// Milli-accelerators.
    pub milli: u32,
    /// Higher goes first.
    pub priority: i32,
}

/// Creates a job by the statements that the API uses, with its audit record.
pub async fn create(
    store: &Store,
    ministry: Ministry,
    version: VersionId,
    id: JobId,
    request: &Request<'_>,
) -> Result<()> {
    let job = NewJob {
        id,
        project_id: ProjectId(ministry.tenant.0),
        operation: "/v1/chat/completions".to_owned(),
        model: "small".to_owned(),
        version_id: version,
        resources: ResourceRequest {
            class: request.class.to_owned(),
            alternatives: Vec::new(),
            memory_bytes: 1,
            milli: request.milli,
        },
        priority: request.priority,
        input_file_id: ministry.file,
        metadata: json!({}),
    };
    let chunk = ChunkRange { first_line: 0, lines: 1, first_byte: 0, bytes: 100 };
    let now = Clock::system().now();
    let mut tx = store.tenant(ministry.tenant).await?;
    store::jobs::create(&mut tx, &job, &[chunk], &[100], now).await?;
    let event = audit::allowed(Some(ministry.tenant), now, "bench", "create_job", format!("job:{id}"));
    audit::record(&mut tx, &event).await?;
    Ok(tx.commit().await?)
}

/// Creates `count` jobs in one transaction, by turns of the ministries, each a
/// microsecond after the one before it and the last now. One notice tells of all.
pub async fn create_many(
    su: &mut PgConnection,
    ministries: &[Ministry],
    version: VersionId,
    count: u32,
    request: &Request<'_>,
) -> Result<()> {
    let list = |id: fn(&Ministry) -> Uuid| {
        let ids: Vec<String> = ministries.iter().map(|m| id(m).to_string()).collect();
        format!("'{{{}}}'::uuid[]", ids.join(","))
    };
    let (tenants, files) = (list(|m| m.tenant.0), list(|m| m.file.0));
    let (number, Request { class, milli, priority }) = (ministries.len(), request);
    // Identifiers begin with the time, as ours do.
    let sql = format!(
        "WITH new AS (
             SELECT (lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
                     || lpad(to_hex(n / 65536), 3, '0') || '8' || lpad(to_hex(n % 65536), 4, '0')
                     || substr(md5(random()::text), 1, 11))::uuid AS id,
                 ({tenants})[1 + n % {number}] AS tenant, ({files})[1 + n % {number}] AS file,
                 clock_timestamp() - ({count} - n) * interval '1 microsecond' AS at
             FROM generate_series(0, {count} - 1) AS n
         ), jobs AS (
             INSERT INTO jobs (id, tenant_id, project_id, operation, model, version_id, class, memory_bytes, milli,
                 state, total_lines, input_file_id, created_at, priority)
             SELECT id, tenant, tenant, '/v1/chat/completions', 'small', '{version}', '{class}', 1, {milli},
                 'in_progress', 1, file, at, {priority} FROM new
         ), chunks AS (
             INSERT INTO job_chunks (tenant_id, job_id, index, first_line, lines, first_byte, bytes)
             SELECT tenant, id, 0, 0, 1, 0, 100 FROM new
         )
         INSERT INTO outbox (topic, subject, created_at) SELECT 'desired', id::text, now() FROM new LIMIT 1"
    );
    rows(su, &sql).await?;
    Ok(())
}
