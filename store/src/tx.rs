//! Transactions that know whose rows they may see.

use std::time::Duration;

use domain::TenantId;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction, query};

use crate::StoreError;

/// How long a request waits for a connection before it is told to come again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// No statement of ours runs longer; a lock held longer is a defect.
const STATEMENT_TIMEOUT: &str = "30s";

/// The database, logged in as `chancery_app`.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects, with at most `connections` at a time.
    pub async fn connect(url: &str, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.application_name("chancery").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        query!("SELECT 1 AS one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// The only way to a tenant's rows.
    pub async fn tenant(&self, tenant: TenantId) -> Result<TenantTx, StoreError> {
        let mut tx = self.pool.begin().await?;
        query!("SET LOCAL ROLE chancery_tenant").execute(&mut *tx).await?;
        query!("SELECT set_config('chancery.tenant', $1, true)", tenant.to_string())
            .fetch_one(&mut *tx)
            .await?;
        Ok(TenantTx { tx, tenant })
    }

    /// Every tenant's rows: for loops, the gateway and the platform's own work.
    pub async fn system(&self) -> Result<SystemTx, StoreError> {
        let mut tx = self.pool.begin().await?;
        query!("SET LOCAL ROLE chancery_system").execute(&mut *tx).await?;
        Ok(SystemTx { tx })
    }

    /// Closes every connection, after those in use are returned.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A transaction that sees and writes the rows of one tenant. Dropped without
/// [`TenantTx::commit`], it changes nothing.
#[derive(Debug)]
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: TenantId,
}

impl TenantTx {
    /// Whose rows.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Makes it so.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}

/// A transaction that sees and writes the rows of every tenant.
#[derive(Debug)]
pub struct SystemTx {
    tx: Transaction<'static, Postgres>,
}

impl SystemTx {
    /// Makes it so.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}

/// Either transaction, for statements that mean the same in both.
pub trait Tx: Send {
    /// The connection inside, for statements of this crate.
    fn conn(&mut self) -> &mut PgConnection;
}

impl Tx for TenantTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

impl Tx for SystemTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}
