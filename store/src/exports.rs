//! A tenant's rows, for its export: every table of the catalogue, without what
//! is secret. Read as the tenant, so that no other's row can be among them.

use futures_util::TryStreamExt;
use sqlx::{query, query_scalar};

use crate::{StoreError, TenantTx, Tx};

/// Tables that hold nothing of the tenant's own: sealed answers to requests.
const WITHOUT: [&str; 2] = ["idempotent_answers", "tenant_deletions"];

/// The tables to export, of one moment from here on.
pub async fn begin(tx: &mut TenantTx) -> Result<Vec<String>, StoreError> {
    query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(tx.conn()).await?;
    let tables = query_scalar!(r#"SELECT name AS "name!" FROM tenant_tables()"#).fetch_all(tx.conn()).await?;
    let own = tables.into_iter().filter(|name| !WITHOUT.contains(&name.as_str()));
    Ok(std::iter::once("tenants".to_owned()).chain(own).collect())
}

/// Hands every row of a table, as JSON, to `take`.
pub async fn rows<E: From<StoreError>>(
    tx: &mut TenantTx,
    table: &str,
    mut take: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let tenant = tx.tenant().0;
    let mut rows = query_scalar!(r#"SELECT export_rows($1, $2) AS "row!""#, table, tenant).fetch(tx.conn());
    while let Some(row) = rows.try_next().await.map_err(|e| E::from(e.into()))? {
        take(&row)?;
    }
    Ok(())
}
