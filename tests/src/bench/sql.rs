//! Statements of the played workers and of loads that are created in bulk. They
//! go past the store, by one superuser's connection, so that they cost the
//! machine less than what is measured.

use std::time::Duration;

use anyhow::Result;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

/// Most times that a statement is repeated.
const MAX_TRIES: u32 = 1000;
/// Before a statement is repeated.
const PAUSE: Duration = Duration::from_millis(2);

/// Makes this connection give way where it and the scheduler wait for each
/// other: who looks first is who is refused, and by default that takes a second
/// and may be either.
pub async fn gives_way(conn: &mut PgConnection) -> Result<()> {
    execute(conn, "SET deadlock_timeout = '5ms'", &[]).await?;
    Ok(())
}

/// Runs a statement on lists of identifiers, `$1`, `$2` and so on; again where
/// the database refused it because of another transaction.
pub async fn execute(conn: &mut PgConnection, sql: &'static str, ids: &[&[Uuid]]) -> Result<Vec<PgRow>> {
    for _ in 1..MAX_TRIES {
        match run(conn, sql, ids).await {
            Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("40P01" | "40001")) => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return Ok(done?),
        }
    }
    Ok(run(conn, sql, ids).await?)
}

/// The one number that a statement answers.
pub async fn number(conn: &mut PgConnection, sql: &'static str) -> Result<i64> {
    Ok(run(conn, sql, &[]).await?[0].try_get(0)?)
}

#[expect(clippy::disallowed_methods, reason = "benchmarks look behind the store, as tests do")]
async fn run(conn: &mut PgConnection, sql: &'static str, ids: &[&[Uuid]]) -> Result<Vec<PgRow>, sqlx::Error> {
    ids.iter().fold(sqlx::query(sql), |query, list| query.bind(list.to_vec())).fetch_all(conn).await
}
