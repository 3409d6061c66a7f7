//! Pools of workers, and the tenants that they are dedicated to.

use domain::pools::Pool;
use domain::tenants::Slug;
use domain::{TenantId, Timestamp};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, SystemTx, Tx};

struct Row {
    name: String,
    description: String,
    tenants: Vec<String>,
    workers: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for Pool {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |_| StoreError::corrupt("pools", "name", &row.name);
        let tenants = row.tenants.iter().map(|slug| slug.parse());
        Ok(Self {
            tenants: tenants.collect::<Result<_, _>>().map_err(corrupt)?,
            name: row.name.parse().map_err(corrupt)?,
            description: row.description,
            workers: row.workers.unsigned_abs(),
            created_at: row.created_at.into(),
        })
    }
}

/// Up to `limit` pools by name, after the one named `after`.
pub async fn list(tx: &mut SystemTx, after: Option<&str>, limit: u32) -> Result<Vec<Pool>, StoreError> {
    select(tx, None, after, limit).await
}

/// The pool of that name.
pub async fn get(tx: &mut SystemTx, name: &Slug) -> Result<Pool, StoreError> {
    select(tx, Some(name), None, 1).await?.pop().ok_or(StoreError::NotFound("pool"))
}

async fn select(
    tx: &mut SystemTx,
    name: Option<&Slug>,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Pool>, StoreError> {
    query_as!(
        Row,
        r#"SELECT p.name, p.description, p.created_at,
                  ARRAY(SELECT t.slug FROM pool_tenants m JOIN tenants t ON t.id = m.tenant_id
                        WHERE m.pool = p.name ORDER BY t.slug) AS "tenants!",
                  (SELECT count(*) FROM workers w WHERE w.pool = p.name) AS "workers!"
           FROM pools p WHERE ($1::text IS NULL OR p.name = $1) AND ($2::text IS NULL OR p.name > $2)
           ORDER BY p.name LIMIT $3"#,
        name.map(Slug::as_str),
        after,
        i64::from(limit),
    )
    .fetch_all(tx.conn())
    .await?
    .into_iter()
    .map(Pool::try_from)
    .collect()
}

/// Makes a pool, or sets what is there of that name. From now on only work of these
/// tenants is placed on its workers, and theirs nowhere else; what runs stays.
pub async fn put(
    tx: &mut SystemTx,
    name: &Slug,
    description: &str,
    tenants: &[TenantId],
    now: Timestamp,
) -> Result<Pool, StoreError> {
    let tenants: Vec<Uuid> = tenants.iter().map(|id| id.0).collect();
    lock(tx, name, &tenants).await?;
    query!(
        "INSERT INTO pools (name, description, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET description = excluded.description",
        name.as_str(),
        description,
        OffsetDateTime::from(now),
    )
    .execute(tx.conn())
    .await?;
    query!("DELETE FROM pool_tenants WHERE pool = $1 AND tenant_id <> ALL($2)", name.as_str(), &tenants)
        .execute(tx.conn())
        .await?;
    query!(
        "INSERT INTO pool_tenants (tenant_id, pool) SELECT id, $1 FROM unnest($2::uuid[]) AS t (id)
         ON CONFLICT DO NOTHING",
        name.as_str(),
        &tenants,
    )
    .execute(tx.conn())
    .await?;
    get(tx, name).await
}

/// Takes a pool away: its workers are for everybody, and so is everywhere else for
/// its tenants. What runs stays.
pub async fn delete(tx: &mut SystemTx, name: &Slug) -> Result<(), StoreError> {
    lock(tx, name, &[]).await?;
    query!("DELETE FROM pool_tenants WHERE pool = $1", name.as_str()).execute(tx.conn()).await?;
    let gone = query!("DELETE FROM pools WHERE name = $1", name.as_str()).execute(tx.conn()).await?;
    if gone.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NotFound("pool")) }
}

/// Whoever places holds the rows of workers, then of tenants: nothing lands where
/// it may not be while this changes.
async fn lock(tx: &mut SystemTx, name: &Slug, tenants: &[Uuid]) -> Result<(), StoreError> {
    query!("SELECT id FROM workers WHERE pool = $1 ORDER BY id FOR NO KEY UPDATE", name.as_str())
        .fetch_all(tx.conn())
        .await?;
    query!(
        "SELECT id FROM tenants WHERE id = ANY($2) OR id IN (SELECT tenant_id FROM pool_tenants WHERE pool = $1)
         ORDER BY id FOR NO KEY UPDATE",
        name.as_str(),
        tenants,
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(())
}
