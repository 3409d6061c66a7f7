//! Two tenants on two connections: operations that are abandoned at any await,
//! connections that the database ends, requests whose client hangs up. None may
//! ever see or write the other tenant's rows.

mod random;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use domain::audit::AuditEvent;
use domain::keys::{CredentialKind, Pepper, mint};
use domain::projects::ProjectLimits;
use domain::{Clock, KeyId, PrincipalId, ProjectId, TenantId, Timestamp};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use store::objects::Objects;
use store::{Store, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, rows};
use random::Random;

/// Connections that all share.
const CONNECTIONS: u32 = 2;
/// How many operations are under way at once.
const AT_ONCE: u64 = 16;
/// Of a hundred operations, how many go through the router.
const HTTP_PERCENT: u64 = 5;
/// Between two connections that the database ends.
const KILL_EVERY: Duration = Duration::from_millis(200);
/// Between two lines that say how far it is.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// An operation takes about this long; time limits lie around it.
const LONGEST: Duration = Duration::from_millis(4);
/// Polls of an operation; it is dropped before one of them.
const MOST_POLLS: u64 = 24;
/// Of so many operations that write, one is committed.
const COMMITTED: u64 = 16;
const ROWS: u32 = 20;

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Operations in all.
    pub operations: u64,
    /// That ran to their end.
    pub done: u64,
    /// That were dropped in the middle.
    pub cut: u64,
    /// That the end of their connection failed.
    pub broken: u64,
    /// Of all: requests to the router.
    pub requests: u64,
    /// Connections that the database ended.
    pub kills: u64,
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows of the other tenant among them.
    pub foreign: u64,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// One line for people.
    pub fn summary(&self) -> String {
        format!(
            "{} operations ({} requests) in {:.0} s, {:.0}/s: {} done, {} dropped, {} broken by {} ended connections; \
             {} rows seen, {} foreign",
            self.operations,
            self.requests,
            self.took.as_secs_f64(),
            self.operations as f64 / self.took.as_secs_f64(),
            self.done,
            self.cut,
            self.broken,
            self.kills,
            self.rows,
            self.foreign,
        )
    }
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    cut: AtomicU64,
    broken: AtomicU64,
    requests: AtomicU64,
    rows: AtomicU64,
    foreign: AtomicU64,
}

impl Counts {
    /// Looks at whose rows these are.
    fn see(&self, own: TenantId, owners: impl IntoIterator<Item = Option<TenantId>>) {
        for owner in owners {
            self.rows.fetch_add(1, Ordering::Relaxed);
            if owner != Some(own) {
                self.foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One of the two.
#[derive(Clone)]
struct Side {
    tenant: TenantId,
    /// What its projects' names begin with.
    name: &'static str,
    /// A project of the other.
    others_project: &'static str,
    /// The session of its administrator.
    session: String,
}

/// What each operation works with.
struct Scene {
    store: Store,
    http: Client,
    base: String,
    sides: [Side; 2],
    counts: Counts,
}

/// Runs that many operations; the seed decides all but the timing.
///
/// # Panics
/// If an operation fails in a way that the end of a connection does not explain.
pub async fn run(db: &Database, operations: u64, seed: u64) -> Report {
    let sides = two_sides(db).await;
    let store = db.connect(CONNECTIONS).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let deps = api::Deps {
        store: store.clone(),
        objects: Objects::local(dir.path()).expect("an object store"),
        clock: Clock::system(),
        pepper: pepper(),
        join_token: mint(CredentialKind::Join, [7; 20]),
    };
    let any = "127.0.0.1:0".parse().expect("an address");
    let settings = api::Settings {
        listen: any,
        internal_listen: any,
        requests_per_minute: u32::MAX,
        ..api::Settings::default()
    };
    let server = api::Server::bind(settings, deps).await.expect("the API listens");
    let base = format!("http://{}/api/v1", server.public_addr);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let http = Client::builder().no_proxy().build().expect("a client");
    let scene = Arc::new(Scene { store, http, base, sides, counts: Counts::default() });
    control(&scene).await;

    let killing = CancellationToken::new();
    let killer = tokio::spawn(kill(db.superuser().await, killing.clone()));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let (scene, mut random) = (scene.clone(), Random::new(seed, worker));
        let own = operations / AT_ONCE + u64::from(worker < operations % AT_ONCE);
        tasks.spawn(async move {
            for n in 0..own {
                operate(&scene, usize::from((n + worker) % 2 == 1), &mut random).await;
            }
        });
    }
    let shown = scene.clone();
    let telling = CancellationToken::new();
    let teller = tokio::spawn(tell(shown, operations, telling.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no operation panics");
    }
    telling.cancel();
    teller.await.expect("it tells how far it is");
    let took = started.elapsed();
    killing.cancel();
    let kills = killer.await.expect("the connections are ended");
    shutdown.cancel();
    serving.await.expect("the API stops");
    scene.store.close().await;
    check_written(db).await;

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &scene.counts;
    Report {
        operations,
        done: count(&counts.done),
        cut: count(&counts.cut),
        broken: count(&counts.broken),
        requests: count(&counts.requests),
        kills,
        rows: count(&counts.rows),
        foreign: count(&counts.foreign),
        took,
    }
}

/// Says how far it is, for who waits for a long run.
async fn tell(scene: Arc<Scene>, operations: u64, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_some() {
        let counts = &scene.counts;
        let ended = [&counts.done, &counts.cut, &counts.broken].map(|n| n.load(Ordering::Relaxed));
        println!("{} of {operations}", ended.iter().sum::<u64>());
    }
}

fn pepper() -> Pepper {
    Pepper::new([3; 32])
}

/// Two tenants with three projects, a key and an administrator each, made by the superuser.
async fn two_sides(db: &Database) -> [Side; 2] {
    let side = |name, others_project, n| Side {
        tenant: TenantId::generate(),
        name,
        others_project,
        session: mint(CredentialKind::Session, [n; 20]),
    };
    let sides = [side("left", "right-0", 1), side("right", "left-0", 2)];
    let mut su = db.superuser().await;
    for Side { tenant, name, session, .. } in &sides {
        let mut sql = vec![format!(
            "INSERT INTO tenants (id, slug, name, created_at) VALUES ('{tenant}', '{name}', '{name}', now())"
        )];
        let mut objects = vec![format!("tenant:{tenant}")];
        for n in 0..3 {
            let id = if n == 0 { ProjectId(tenant.0) } else { ProjectId::generate() };
            sql.push(format!(
                "INSERT INTO projects (id, tenant_id, slug, name, created_at) VALUES ('{id}', '{tenant}', '{name}-{n}', '{name}', now())"
            ));
            objects.push(format!("project:{id}"));
        }
        let (id, admin, hash) =
            (KeyId::generate(), PrincipalId::generate(), hex::encode(pepper().hash(session)));
        sql.push(format!(
            "INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at)
             VALUES ('{id}', '{tenant}', '{tenant}', 'key', 'chy_', sha256('{name}'), now())"
        ));
        sql.push(format!(
            "INSERT INTO principals (id, tenant_id, login, display_name, role, created_at)
             VALUES ('{admin}', '{tenant}', 'admin@{name}', '{name}', 'tenant_admin', now())"
        ));
        sql.push(format!(
            "INSERT INTO sessions (token_hash, id, principal_id, created_at, last_seen_at, expires_at)
             VALUES (decode('{hash}', 'hex'), gen_random_uuid(), '{admin}', now(), now(), '2100-01-01')"
        ));
        objects.push(format!("key:{id}"));
        for object in objects {
            sql.push(format!(
                "INSERT INTO audit_events (id, tenant_id, at, actor, action, object, verdict, detail)
                 VALUES (gen_random_uuid(), '{tenant}', now(), 'test', 'create', '{object}', 'allowed', '{{}}')"
            ));
        }
        for statement in sql {
            rows(&mut su, &statement).await.expect("the statement is right");
        }
    }
    sides
}

/// That foreign rows exist and would be noticed: a transaction that sees both
/// tenants is looked at in the same way.
async fn control(scene: &Scene) {
    let seen = Counts::default();
    let mut tx = scene.store.system().await.expect("the store answers");
    let events = store::audit::list(&mut tx, None, None, ROWS).await.expect("the store answers");
    seen.see(scene.sides[0].tenant, events.iter().map(|event| event.tenant_id));
    let (rows, foreign) = (seen.rows.into_inner(), seen.foreign.into_inner());
    assert!(0 < foreign && foreign < rows, "control: {foreign} of {rows} rows are the other tenant's");
}

/// Ends a random connection of this database's own processes, again and again.
async fn kill(mut su: sqlx::PgConnection, stop: CancellationToken) -> u64 {
    let mut kills = 0;
    while stop.run_until_cancelled(tokio::time::sleep(KILL_EVERY)).await.is_some() {
        let ended = rows(
            &mut su,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = 'chancery_app' ORDER BY random() LIMIT 1",
        )
        .await
        .expect("the superuser may");
        kills += ended.len() as u64;
    }
    kills
}

/// One operation of one side, most often cut off somewhere.
async fn operate(scene: &Scene, side: usize, random: &mut Random) {
    let side = &scene.sides[side];
    let what = random.below(100);
    let work: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + '_>> = if what < HTTP_PERCENT {
        scene.counts.requests.fetch_add(1, Ordering::Relaxed);
        Box::pin(request(scene, side, random.below(3)))
    } else {
        Box::pin(transaction(scene, side, what, random.next()))
    };
    let ended = match random.below(3) {
        0 => Some(work.await),
        1 => {
            let limit = Duration::from_micros(random.below(LONGEST.as_micros() as u64));
            tokio::time::timeout(limit, work).await.ok()
        }
        _ => Polled { work, left: 1 + random.below(MOST_POLLS) }.await,
    };
    let counter = match ended {
        None => &scene.counts.cut,
        Some(Ok(())) => &scene.counts.done,
        Some(Err(Failure::Broken)) => &scene.counts.broken,
        Some(Err(Failure::Wrong(what))) => panic!("{what}"),
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why an operation did not end well.
enum Failure {
    /// Its connection was ended.
    Broken,
    /// Anything else.
    Wrong(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_transient() { Self::Broken } else { Self::Wrong(format!("{error:?}")) }
    }
}

/// Through the store.
async fn transaction(scene: &Scene, side: &Side, what: u64, random: u64) -> Result<(), Failure> {
    let (counts, own) = (&scene.counts, side.tenant);
    let mut tx = scene.store.tenant(own).await?;
    match what % 8 {
        0 => {
            let keys = store::keys::list(&mut tx, None, ROWS).await?;
            counts.see(own, keys.iter().map(|key| Some(key.tenant_id)));
        }
        1 => {
            let events = store::audit::list(&mut tx, None, None, ROWS).await?;
            counts.see(own, events.iter().map(|event| event.tenant_id));
        }
        2 => {
            let slug = side.others_project.parse().expect("a short name");
            match store::projects::by_slug(&mut tx, &slug).await {
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
                Ok(project) => counts.see(own, [Some(project.tenant_id)]),
            }
        }
        3 => {
            let slug = format!("{}-{random:x}", side.name).parse().expect("a short name");
            let now = Clock::system().now();
            let project =
                store::projects::create(&mut tx, &slug, side.name, ProjectLimits::default(), now).await?;
            store::audit::record(&mut tx, &made(own, &project, now)).await?;
            if random.is_multiple_of(COMMITTED) {
                return Ok(tx.commit().await?);
            }
        }
        _ => {
            let projects = store::projects::list(&mut tx, None, ROWS).await?;
            if projects.len() < 3 {
                return Err(Failure::Wrong("its own rows are missing".to_owned()));
            }
            counts.see(own, projects.iter().map(|project| Some(project.tenant_id)));
        }
    }
    // Half of those that read are dropped, which rolls back.
    if random.is_multiple_of(2) { Ok(tx.commit().await?) } else { Ok(()) }
}

fn made(tenant: TenantId, project: &domain::projects::Project, now: Timestamp) -> AuditEvent {
    store::audit::allowed(Some(tenant), now, "test", "create_project", format!("project:{}", project.id))
}

/// Through the router; dropped, the client hangs up.
async fn request(scene: &Scene, side: &Side, which: u64) -> Result<(), Failure> {
    let list = ["projects", "api-keys", "audit"][which as usize];
    let url = format!("{}/{list}?limit={ROWS}", scene.base);
    let Ok(answer) = scene.http.get(url).bearer_auth(&side.session).send().await else {
        return Err(Failure::Broken);
    };
    let status = answer.status();
    if status.is_server_error() {
        return Err(Failure::Broken);
    }
    let Ok(text) = answer.text().await else { return Err(Failure::Broken) };
    if status != StatusCode::OK {
        return Err(Failure::Wrong(format!("{list} was answered with {status}: {text}")));
    }
    let page: Value = serde_json::from_str(&text).map_err(|error| Failure::Wrong(error.to_string()))?;
    let Some(items) = page["items"].as_array() else {
        return Err(Failure::Wrong(format!("{list} has no items: {text}")));
    };
    let owner = |item: &Value| item["tenant_id"].as_str()?.parse().ok();
    scene.counts.see(side.tenant, items.iter().map(owner));
    Ok(())
}

/// What was written is where it belongs. The superuser sees both tenants' rows.
async fn check_written(db: &Database) {
    let tenants = "SELECT count(DISTINCT tenant_id) FROM projects";
    assert_eq!(db.count(tenants).await, 2, "control: both tenants' rows exist");
    let made = "SELECT count(*) FROM projects WHERE slug NOT LIKE '%-0' AND slug NOT LIKE '%-1' AND slug NOT LIKE '%-2'";
    println!("{} projects were committed", db.count(made).await);
    let misplaced = "SELECT count(*) FROM projects p JOIN tenants t ON t.id = p.tenant_id WHERE p.slug NOT LIKE t.slug || '-%'";
    assert_eq!(db.count(misplaced).await, 0, "a project was written for the other tenant");
    let misplaced = "SELECT count(*) FROM audit_events a JOIN projects p ON a.object = 'project:' || p.id
        WHERE a.tenant_id IS DISTINCT FROM p.tenant_id";
    assert_eq!(db.count(misplaced).await, 0, "an audit record was written for the other tenant");
}

/// Drops a future after so many polls: at any of its awaits.
struct Polled<'a, T> {
    work: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    left: u64,
}

impl<T> Future for Polled<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.work.as_mut().poll(context).map(Some)
    }
}
