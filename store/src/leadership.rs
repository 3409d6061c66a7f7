//! Which scheduler leads. Leading is holding an advisory lock on a connection
//! of its own, and saying something on it at least every [`SILENCE`]: whoever
//! stands by ends the connection of a leader that is silent for longer, because
//! its process is paused or its machine is gone. Each new leader raises the
//! epoch, and every write of a scheduler proves that its epoch is still the
//! present one. A leader that was paused and wakes up is refused by its first
//! write.

use std::time::Duration;

use domain::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, query, query_scalar};
use time::OffsetDateTime;

use crate::{Store, StoreError, SystemTx, Tx};

/// The lock of whoever leads, in the database's space of advisory locks.
const LEADER_LOCK: i64 = 0x6368_616e_6365_7279;
/// A leader that says nothing for so long has lost the lead to whoever would
/// have it.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How long the connection that holds the lock may take to answer.
const CHECK_TIMEOUT: Duration = SILENCE;
/// What the database answers who waited for a lock as long as it would.
const LOCK_NOT_AVAILABLE: &str = "55P03";
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
    /// Takes the lead if nobody has it, or who has it is silent.
    pub async fn try_lead(mut self, now: Timestamp) -> Result<Attempt, StoreError> {
        let mut locked = self.lock().await?;
        if !locked && self.end_silent_leader().await? {
            locked = self.lock().await?;
        }
        if !locked {
            return Ok(Attempt::Waits(self));
        }
        let mut epoch = self.begin_term(now).await;
        if epoch.as_ref().is_err_and(is_held_up) {
            self.end_silent_writers().await?;
            epoch = self.begin_term(now).await;
        }
        match epoch {
            Ok(epoch) => Ok(Attempt::Leads(Leader { conn: self.conn, term: Term { epoch, since: now } })),
            Err(e) if is_held_up(&e) => Ok(Attempt::Waits(self)),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether it has the lock; what it has it gets again.
    async fn lock(&mut self) -> Result<bool, sqlx::Error> {
        query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, LEADER_LOCK)
            .fetch_one(&mut self.conn)
            .await
    }

    /// Raises the epoch, when writes of the last have ended. Waits for them only
    /// for a moment: an open transaction of a process that is paused never ends.
    async fn begin_term(&mut self, now: Timestamp) -> Result<i64, sqlx::Error> {
        let mut tx = self.conn.begin().await?;
        query!("SET LOCAL ROLE chancery_system").execute(&mut *tx).await?;
        query!("SET LOCAL lock_timeout = '250ms'").execute(&mut *tx).await?;
        let epoch = query_scalar!(
            "UPDATE leadership SET epoch = epoch + 1, holder = $1, since = $2 RETURNING epoch",
            self.holder,
            OffsetDateTime::from(now),
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(epoch)
    }

    /// Ends the connection that holds the lock if it was silent for too long.
    async fn end_silent_leader(&mut self) -> Result<bool, sqlx::Error> {
        let ended = query_scalar!(
            r#"SELECT pg_terminate_backend(a.pid, 1000) AS "ended!"
               FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND (l.classid::bigint << 32) | l.objid::bigint = $1
                 AND a.state LIKE 'idle%' AND a.state_change < clock_timestamp() - make_interval(secs => $2)"#,
            LEADER_LOCK,
            SILENCE.as_secs_f64(),
        )
        .fetch_all(&mut self.conn)
        .await?;
        Ok(ended.contains(&true))
    }

    /// Ends transactions of an earlier leader, which [`fence`] began, whose
    /// process is silent. Only for who holds the lock: nobody leads then.
    async fn end_silent_writers(&mut self) -> Result<(), sqlx::Error> {
        query!(
            r#"SELECT pg_terminate_backend(a.pid, 1000) AS "ended!"
               FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
               WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'RowShareLock'
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND l.relation = 'leadership'::regclass
                 AND a.state LIKE 'idle in transaction%'
                 AND a.state_change < clock_timestamp() - make_interval(secs => $1)"#,
            SILENCE.as_secs_f64(),
        )
        .fetch_all(&mut self.conn)
        .await?;
        Ok(())
    }
}

/// Whether a write of an earlier leader holds the row still.
fn is_held_up(e: &sqlx::Error) -> bool {
    e.as_database_error().is_some_and(|e| e.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
}

impl Leader {
    /// What its writes name.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Says on the connection that holds the lock that it leads on; to be said
    /// more often than every [`SILENCE`]. [`StoreError::NotLeader`] when nobody
    /// answers: the lock is free then, or soon will be.
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
