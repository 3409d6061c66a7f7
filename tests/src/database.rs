//! One throwaway PostgreSQL per test binary, one fresh database per test.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use store::Store;
use tokio::sync::OnceCell;

const APP_PASSWORD: &str = "app";
const OWNER_PASSWORD: &str = "owner";
const TEMPLATE: &str = "chancery_template";
const CONNECTIONS: u32 = 8;

/// The server of this test binary. It ends with the process.
pub fn server() -> &'static postgres::Server {
    static SERVER: OnceLock<postgres::Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let binaries =
            postgres::Binaries::find().expect("PostgreSQL is installed by `cargo xtask test`; run that once");
        postgres::Server::throwaway(&binaries).expect("a private PostgreSQL starts")
    })
}

/// A database of one test, with every migration applied and no rows.
pub struct Database {
    name: String,
    /// The store as processes have it: logged in as `chancery_app`.
    pub store: Store,
    finished: bool,
}

impl Database {
    /// A fresh copy of the migrated template.
    pub async fn fresh() -> Self {
        static TEMPLATE_READY: OnceCell<()> = OnceCell::const_new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        TEMPLATE_READY
            .get_or_init(|| async {
                store::migrate::bootstrap(&superuser_url("postgres"), TEMPLATE, OWNER_PASSWORD, APP_PASSWORD)
                    .await
                    .expect("the cluster can be bootstrapped");
                store::migrate::migrate(&role_url("chancery_owner", OWNER_PASSWORD, TEMPLATE))
                    .await
                    .expect("every migration applies");
            })
            .await;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut conn = PgConnection::connect(&superuser_url("postgres")).await.expect("the server answers");
        store::migrate::create_database(&mut conn, &name, Some(TEMPLATE))
            .await
            .expect("a database is created");
        let store = Store::connect(&role_url("chancery_app", APP_PASSWORD, &name), CONNECTIONS)
            .await
            .expect("the application role can log in");
        Self { name, store, finished: false }
    }

    /// A connection that row-level security does not bind: the control that
    /// shows that a row exists.
    pub async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&superuser_url(&self.name)).await.expect("the server answers")
    }

    /// A connection as the role that owns the tables.
    pub async fn owner(&self) -> PgConnection {
        PgConnection::connect(&role_url("chancery_owner", OWNER_PASSWORD, &self.name))
            .await
            .expect("the owner logs in")
    }

    /// What processes are given as the URL of their database.
    pub fn url(&self) -> String {
        role_url("chancery_app", APP_PASSWORD, &self.name)
    }

    /// A store of its own, with that many connections.
    pub async fn connect(&self, connections: u32) -> Store {
        Store::connect(&role_url("chancery_app", APP_PASSWORD, &self.name), connections)
            .await
            .expect("the application role can log in")
    }

    /// A connection as the role that processes log in as.
    pub async fn app(&self) -> PgConnection {
        PgConnection::connect(&role_url("chancery_app", APP_PASSWORD, &self.name))
            .await
            .expect("the app logs in")
    }

    /// One number, seen by the superuser.
    pub async fn count(&self, sql: &str) -> i64 {
        rows(&mut self.superuser().await, sql).await.expect("the query is right")[0].get(0)
    }

    /// Ends the test: nothing may be left leased or held by an ended placement,
    /// and what devices hold must equal what live placements ask for.
    pub async fn finish(mut self) {
        for (what, sql) in [
            (
                "a leased chunk of a finished job",
                "SELECT count(*) FROM job_chunks c JOIN jobs j ON j.id = c.job_id WHERE c.state = 'leased' AND j.ended_at IS NOT NULL",
            ),
            (
                "a device held by an ended placement",
                "SELECT count(*) FROM placement_devices d JOIN placements p ON p.id = d.placement_id WHERE p.state = 'ended'",
            ),
            (
                "a device whose use differs from its live placements",
                "SELECT count(*) FROM devices d LEFT JOIN LATERAL (SELECT coalesce(sum(memory_bytes), 0) AS memory, coalesce(sum(milli), 0) AS milli FROM placement_devices p WHERE p.device_id = d.id) held ON true WHERE (d.used_memory_bytes, d.used_milli) IS DISTINCT FROM (held.memory::bigint, held.milli::int)",
            ),
            (
                "a job whose counts differ from its results",
                "SELECT count(*) FROM jobs j WHERE j.results_erased_at IS NULL AND j.completed_lines + j.failed_lines <> (SELECT count(*) FROM results r WHERE r.job_id = j.id)",
            ),
            (
                "a tenant, project, key, endpoint, job or version without its audit record",
                "SELECT count(*) FROM (SELECT 'tenant:' || id AS object FROM tenants UNION ALL SELECT 'project:' || id FROM projects UNION ALL SELECT 'key:' || id FROM api_keys UNION ALL SELECT 'endpoint:' || id FROM endpoints UNION ALL SELECT 'job:' || id FROM jobs UNION ALL SELECT 'model_version:' || id FROM model_versions) made WHERE NOT EXISTS (SELECT FROM audit_events a WHERE a.object = made.object)",
            ),
        ] {
            let left = self.count(sql).await;
            assert_eq!(left, 0, "the test left behind {left} × {what}");
        }
        self.store.close().await;
        self.finished = true;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        assert!(self.finished || std::thread::panicking(), "a test must end with Database::finish");
    }
}

/// Runs a statement of a test and returns its rows.
#[expect(clippy::disallowed_methods, reason = "tests look behind the store, with statements of their own")]
pub async fn rows(conn: &mut PgConnection, sql: &str) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(conn).await
}

fn superuser_url(database: &str) -> String {
    server().url("postgres", database)
}

fn role_url(role: &str, password: &str, database: &str) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", server().port())
}
