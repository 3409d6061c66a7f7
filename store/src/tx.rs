//! Transactions that know whose rows they may see.

use std::time::Duration;

use domain::{ProjectId, TenantId};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Postgres, Transaction, query};

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
            .test_before_acquire(false)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone())
            .await;
        match pool {
            Ok(pool) => Ok(Self { pool }),
            Err(e) => Err(why_not(e, &options).await.into()),
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        query!("SELECT 1 AS one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// The only way to a tenant's rows.
    pub async fn tenant(&self, tenant: TenantId) -> Result<TenantTx, StoreError> {
        self.tenant_projects(tenant, None).await
    }

    /// The same, narrowed to the rows of these projects if any are given. One
    /// round trip: only identifiers, which are hexadecimal, enter the text.
    pub async fn tenant_projects(
        &self,
        tenant: TenantId,
        projects: Option<&[ProjectId]>,
    ) -> Result<TenantTx, StoreError> {
        let mut begin =
            format!("BEGIN; SET LOCAL ROLE chancery_tenant; SET LOCAL chancery.tenant = '{tenant}'");
        if let Some(projects) = projects {
            let list: Vec<String> = projects.iter().map(ToString::to_string).collect();
            begin.push_str(&format!("; SET LOCAL chancery.projects = '{{{}}}'", list.join(",")));
        }
        Ok(TenantTx { tx: self.begin(&begin).await?, tenant })
    }

    /// Every tenant's rows: for loops, the gateway and the platform's own work.
    pub async fn system(&self) -> Result<SystemTx, StoreError> {
        Ok(SystemTx { tx: self.begin("BEGIN; SET LOCAL ROLE chancery_system").await? })
    }

    /// Begins on a connection that still answers. The pool does not ask first,
    /// which would cost every transaction a round trip: a connection that was
    /// lost while it was idle is found out by this statement, which is the first.
    async fn begin(&self, statement: &str) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut tries = self.pool.options().get_max_connections();
        loop {
            match self.pool.begin_with(AssertSqlSafe(statement.to_owned())).await {
                Err(e) if tries > 0 && is_lost(&e) => tries -= 1,
                begun => return Ok(begun?),
            }
        }
    }

    /// Closes every connection, after those in use are returned.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A pool tries until its time is over, and then says only that; one attempt
/// says what is wrong.
pub(crate) async fn why_not(error: sqlx::Error, options: &PgConnectOptions) -> sqlx::Error {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return error;
    }
    match tokio::time::timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(Err(reason)) => reason,
        _ => error,
    }
}

/// The connection is gone; another may be there.
fn is_lost(e: &sqlx::Error) -> bool {
    match e {
        sqlx::Error::Io(_) | sqlx::Error::BeginFailed => true,
        // The administrator ended the session.
        sqlx::Error::Database(e) => e.code().as_deref() == Some("57P01"),
        _ => false,
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

    /// Makes it so.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Tx for TenantTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.commit().await
    }
}

impl Tx for SystemTx {
    fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.commit().await
    }
}

/// A transaction of one tenant or of the system, for what both do.
#[derive(Debug)]
pub enum AnyTx {
    /// Of one tenant.
    Tenant(TenantTx),
    /// Of every tenant.
    System(SystemTx),
}

impl Tx for AnyTx {
    fn conn(&mut self) -> &mut PgConnection {
        match self {
            Self::Tenant(tx) => tx.conn(),
            Self::System(tx) => tx.conn(),
        }
    }

    async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Tenant(tx) => tx.commit().await,
            Self::System(tx) => tx.commit().await,
        }
    }
}
