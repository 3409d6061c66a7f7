//! Stops whoever leads at one step of what it writes, from inside the database:
//! the program under test knows nothing of it.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use crate::database::{Database, rows};
use crate::wait::until;

/// Locks of this class are what writers stand at.
const GATES: i32 = 4711;
/// How long a process may take to come to a step.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gate in front of one step of the transactions that the fence of leadership
/// guards. A step is named as `placements INSERT`; as `placements INSERT commit`
/// it is the commit of a transaction that did so.
pub struct Gate {
    conn: PgConnection,
    /// Number of the lock that is held, if the gate is closed.
    closed: Option<i32>,
    number: i32,
}

impl Gate {
    /// Puts gates, all open, at these steps.
    pub async fn install(db: &Database, steps: &[&str]) -> Self {
        let mut conn = db.superuser().await;
        let mut statements = vec![
            "CREATE TABLE gate AS SELECT ''::text AS step, 0 AS number".to_owned(),
            format!(
                "CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
                 BEGIN
                     IF concat_ws(' ', TG_TABLE_NAME, TG_OP, TG_ARGV[0]) = (SELECT step FROM gate)
                        AND EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'RowShareLock'
                                    AND locktype = 'relation' AND relation = 'leadership'::regclass) THEN
                         PERFORM pg_advisory_xact_lock({GATES}, (SELECT number FROM gate));
                     END IF;
                     RETURN NULL;
                 END $$"
            ),
        ];
        for (n, step) in steps.iter().enumerate() {
            let mut words = step.split(' ');
            let (table, event) = (words.next().expect("a table"), words.next().expect("an event"));
            // The last of its kind: after the triggers of the schema.
            statements.push(match words.next() {
                None => format!(
                    "CREATE TRIGGER zz_halt_{n} AFTER {event} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION halt()"
                ),
                Some(commit) => format!(
                    "CREATE CONSTRAINT TRIGGER zz_halt_{n} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED
                     FOR EACH ROW EXECUTE FUNCTION halt('{commit}')"
                ),
            });
        }
        for sql in statements {
            rows(&mut conn, &sql).await.expect("the statement is right");
        }
        Self { conn, closed: None, number: 0 }
    }

    /// Closes the gate in front of this step, and lets go who stands at another.
    pub async fn close(&mut self, step: &str) {
        self.number += 1;
        let number = self.number;
        self.run(&format!("SELECT pg_advisory_lock({GATES}, {number})")).await;
        self.run(&format!("UPDATE gate SET step = '{step}', number = {number}")).await;
        self.unlock().await;
        self.closed = Some(number);
    }

    /// Waits until somebody stands at it.
    pub async fn reached(&mut self, step: &str) {
        let number = self.closed.expect("it is closed");
        let sql = format!(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = {GATES} AND objid = {number}
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        until(&format!("the step {step}"), PATIENCE, async || {
            let waiting = rows(&mut self.conn, &sql).await.expect("the statement is right");
            (!waiting.is_empty()).then_some(())
        })
        .await;
    }

    /// Opens it for whoever stands there and who comes next.
    pub async fn open(&mut self) {
        self.run("UPDATE gate SET step = ''").await;
        self.unlock().await;
    }

    async fn unlock(&mut self) {
        if let Some(number) = self.closed.take() {
            self.run(&format!("SELECT pg_advisory_unlock({GATES}, {number})")).await;
        }
    }

    async fn run(&mut self, sql: &str) {
        rows(&mut self.conn, sql).await.expect("the statement is right");
    }
}
