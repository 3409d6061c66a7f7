//! Which scheduler leads. Leading is holding an advisory lock on a connection
//! of its own; each new leader raises the epoch, and every write of a
//! scheduler proves that its epoch is still the present one. A leader that was
//! paused and wakes up is refused by its first write.

use std::time::Duration;

use domain::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, query, query_scalar};
use time::OffsetDateTime;

use crate::{Store, StoreError, SystemTx, Tx};

/// The lock of whoever leads, in the database's space of advisory locks.
const LEADER_LOCK: i64 = 0x6368_616e_6365_7279;
/// How long the connection that holds the lock may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Lets the server notice within seconds that a leader's machine is gone, and
/// free the lock for the next. Without effect on a local socket, where it
/// notices at once.
const KEEPALIVE: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "5"), ("tcp_keepalives_interval", "2"), ("tcp_keepalives_count", "3")];

/// One time of leading: what a scheduler's writes are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Higher than that of every leader before.
    pub epoch: i64,
    /// When it began.
    pub since: Timestamp,
}

/// A scheduler that would lead.
#[derive(Debug)]
pub struct Candidate {
    conn: PgConnection,
    holder: String,
}

/// How a try to lead went.
#[derive(Debug)]
pub enum Attempt {
    /// It leads now.
    Leads(Leader),
    /// Another leads; try again later.
    Waits(Candidate),
}

/// A scheduler that leads, for as long as this lives and its connection with it.
#[derive(Debug)]
pub struct Leader {
    conn: PgConnection,
    term: Term,
}

impl Store {
    /// Stands for leading, on a connection outside the pool: a pool would give
    /// the lock back with the connection. `holder` tells people which process
    /// leads.
    pub async fn candidate(&self, holder: impl Into<String>) -> Result<Candidate, StoreError> {
        let options = self.pool().connect_options();
        let options = (*options).clone().application_name("chancery leadership").options(KEEPALIVE);
        Ok(Candidate { conn: options.connect().await?, holder: holder.into() })
    }
}

impl Candidate {
    /// Takes the lead if nobody has it.
    pub async fn try_lead(mut self, now: Timestamp) -> Result<Attempt, StoreError> {
        let locked = query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LEADER_LOCK)
            .fetch_one(&mut self.conn)
            .await?;
        if !locked {
            return Ok(Attempt::Waits(self));
        }
        let mut tx = self.conn.begin().await?;
        query!("SET LOCAL ROLE chancery_system").execute(&mut *tx).await?;
        let epoch = query_scalar!(
            "UPDATE leadership SET epoch = epoch + 1, holder = $1, since = $2 RETURNING epoch",
            self.holder,
            OffsetDateTime::from(now),
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Attempt::Leads(Leader { conn: self.conn, term: Term { epoch, since: now } }))
    }
}

impl Leader {
    /// What its writes name.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Asks the connection that holds the lock. [`StoreError::NotLeader`] when
    /// it does not answer: the lock is free then, or soon will be.
    pub async fn check(&mut self) -> Result<(), StoreError> {
        match tokio::time::timeout(CHECK_TIMEOUT, self.conn.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::NotLeader),
        }
    }

    /// Lets another lead at once.
    pub async fn resign(self) -> Result<(), StoreError> {
        Ok(self.conn.close().await?)
    }
}

/// The first statement of every transaction in which a scheduler writes. Until
/// it ends nobody can begin a new term, so what it writes is of this one.
pub async fn fence(tx: &mut SystemTx, epoch: i64) -> Result<(), StoreError> {
    let present = query_scalar!("SELECT epoch FROM leadership FOR SHARE").fetch_one(tx.conn()).await?;
    if present == epoch { Ok(()) } else { Err(StoreError::NotLeader) }
}
