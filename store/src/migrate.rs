//! Bringing a database to the present schema.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::StoreError;
use crate::tx::why_not;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// Applies what is missing, logged in as `chancery_owner`. Safe to run twice at
/// once: the second waits for the first.
pub async fn migrate(owner_url: &str) -> Result<(), StoreError> {
    let options: PgConnectOptions = owner_url.parse()?;
    let pool = match PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await {
        Ok(pool) => pool,
        Err(e) => return Err(why_not(e, &options).await.into()),
    };
    let done = MIGRATIONS.run(&pool).await;
    pool.close().await;
    Ok(done?)
}

/// Version of the newest migration this program knows.
pub fn latest_version() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Prepares an empty cluster, as its superuser: the two login roles with these
/// passwords, and a database owned by `chancery_owner`. Repeating it sets the
/// passwords again and keeps everything else.
pub async fn bootstrap(
    superuser_url: &str,
    database: &str,
    owner_password: &str,
    app_password: &str,
) -> Result<(), StoreError> {
    let mut conn = PgConnection::connect(superuser_url).await?;
    sqlx::raw_sql(include_str!("bootstrap.sql")).execute(&mut conn).await?;
    // Utility statements take no parameters; the literals are quoted by the
    // database itself.
    for (role, password) in [("chancery_owner", owner_password), ("chancery_app", app_password)] {
        let statement = sqlx::query_scalar!(
            r#"SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text) AS "statement!""#,
            role,
            password
        )
        .fetch_one(&mut conn)
        .await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
    }
    create_database(&mut conn, database, None).await?;
    conn.close().await?;
    Ok(())
}

/// Creates a database owned by `chancery_owner` unless it exists, as a copy of
/// `template` if given.
pub async fn create_database(
    superuser: &mut PgConnection,
    database: &str,
    template: Option<&str>,
) -> Result<(), StoreError> {
    let statement = sqlx::query_scalar!(
        r#"SELECT format('CREATE DATABASE %I OWNER chancery_owner TEMPLATE %I', $1::text, $2::text) AS "statement!"
           WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)"#,
        database,
        template.unwrap_or("template1"),
    )
    .fetch_optional(&mut *superuser)
    .await?;
    if let Some(statement) = statement {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(superuser).await?;
    }
    Ok(())
}
