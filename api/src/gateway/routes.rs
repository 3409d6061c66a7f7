//! The routing table: every endpoint and its ready replicas, in memory. What a
//! notification names is read again at once; everything is by a timer, more
//! rarely the longer that takes.

mod table;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use domain::models::Sha256Digest;
use domain::outbox::Topic;
use domain::{EndpointId, PlacementId, ProjectId, TenantId, WorkerId};
use store::StoreError;
use store::listen::Change;
use store::routes::EndpointRoute;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use self::table::Table;
use crate::problem::chain;
use crate::state::App;

/// How old the table may be when a notification was lost.
const REFRESH: Duration = Duration::from_secs(2);
/// Reading everything takes at most one part in so many of the time.
const REFRESH_SHARE: u32 = 30;
/// More changed at once: everything is read instead.
const MOST_CHANGED: usize = 1000;
/// Changes that come together are read together.
const GATHER: Duration = Duration::from_millis(20);
/// A replica that did not answer comes last for this long: it would look idle.
const AVOID: Duration = Duration::from_secs(5);

/// Endpoints and their ready replicas. Outlives its contents: readers keep what
/// they found while the table moves on.
#[derive(Debug)]
pub struct Routes {
    table: RwLock<Table>,
    /// Counts changes of the table.
    version: watch::Sender<u64>,
    turn: AtomicUsize,
}

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Route {
    pub endpoint: EndpointId,
    pub project: ProjectId,
    pub version: Sha256Digest,
    /// Whether any replica is wanted, or would be if asked for: if not, waiting
    /// for one is vain.
    pub wanted: bool,
    /// Whether a budget of tokens may bind who pays for its answers.
    pub budgeted: bool,
    replicas: Vec<Arc<Replica>>,
}

impl Route {
    /// Whether a replica may come, and none is there.
    pub fn is_cold(&self) -> bool {
        self.wanted && self.replicas.is_empty()
    }
}

/// A ready replica and how busy this gateway keeps it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub placement: PlacementId,
    pub worker: WorkerId,
    /// Where its worker generates.
    pub url: String,
    address: String,
    outstanding: AtomicU32,
    avoid_until: Mutex<Option<Instant>>,
}

impl Replica {
    fn avoided(&self) -> bool {
        let until = *self.avoid_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It did not answer: others are better for a while.
    pub fn avoid(&self) {
        *self.avoid_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + AVOID);
    }
}

/// A request that a replica works on; counted until dropped.
#[derive(Debug)]
pub(crate) struct Ticket(pub Arc<Replica>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self { table: RwLock::default(), version: watch::Sender::new(0), turn: AtomicUsize::new(0) }
    }
}

impl Routes {
    /// The endpoint that a tenant calls `name`.
    pub(crate) fn find(&self, tenant: TenantId, name: &str) -> Option<Arc<Route>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).find(tenant, name)
    }

    /// Endpoints in all, and those of them with a ready replica.
    pub fn counts(&self) -> (usize, usize) {
        self.table.read().unwrap_or_else(PoisonError::into_inner).counts()
    }

    /// Waits for the next table.
    pub(crate) fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut version = self.version.subscribe();
        async move {
            // The sender lives as long as the application.
            let _ = version.changed().await;
        }
    }

    /// The least busy replica that was not tried; those that failed a moment
    /// ago come last, and equals take turns.
    pub(crate) fn choose(&self, route: &Route, tried: &[PlacementId]) -> Option<Ticket> {
        let count = route.replicas.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let chosen = (0..count)
            .map(|i| &route.replicas[(first + i) % count])
            .filter(|r| !tried.contains(&r.placement))
            .min_by_key(|r| (r.avoided(), r.outstanding.load(Ordering::Relaxed)))?;
        chosen.outstanding.fetch_add(1, Ordering::Relaxed);
        Some(Ticket(chosen.clone()))
    }

    /// Replaces the table; replicas that stay keep their counts.
    pub(crate) fn replace(&self, routes: Vec<EndpointRoute>) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).replace(routes);
        self.version.send_modify(|version| *version += 1);
    }

    /// Replaces what is known of these endpoints; those that are not among
    /// `routes` are gone.
    fn update(&self, endpoints: &[EndpointId], routes: Vec<EndpointRoute>) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).update(endpoints, routes);
        self.version.send_modify(|version| *version += 1);
    }

    /// Endpoints with a replica on one of these workers.
    fn on(&self, workers: &BTreeSet<WorkerId>) -> Vec<EndpointId> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).on(workers)
    }
}

/// Keeps the table fresh until the server has stopped.
pub(crate) async fn run(app: App) {
    let stopped = app.stopped.clone();
    stopped.run_until_cancelled(refresh(app)).await;
}

async fn refresh(app: App) {
    let mut changes = app.changes.subscribe();
    loop {
        let started = Instant::now();
        if let Err(e) = load(&app).await {
            tracing::warn!(error = chain(&e), "Cannot refresh the routing table; the old one stays");
        }
        let due = Instant::now() + REFRESH.max(started.elapsed() * REFRESH_SHARE);
        let until_due = async {
            loop {
                let mut changed = Changed::default();
                changed.hear(changes.recv().await);
                tokio::time::sleep(GATHER).await;
                while let Ok(change) = changes.try_recv() {
                    changed.hear(Ok(change));
                }
                if changed.everything() {
                    break;
                }
                if let Err(e) = load_changed(&app, &changed).await {
                    tracing::warn!(error = chain(&e), "Cannot refresh a part of the routing table");
                    break;
                }
            }
        };
        // The timer ends it even if changes never do.
        let _ = tokio::time::timeout_at(due.into(), until_due).await;
    }
}

/// What notifications named since the table was read.
#[derive(Debug, Default)]
struct Changed {
    endpoints: BTreeSet<EndpointId>,
    workers: BTreeSet<WorkerId>,
    anything: bool,
}

impl Changed {
    fn hear(&mut self, change: Result<Change, RecvError>) {
        match change {
            // A subject may also be a job, which is no endpoint that is found.
            Ok(Change::Of(Topic::Desired, subject)) => match subject.parse::<EndpointId>() {
                Ok(id) => drop(self.endpoints.insert(id)),
                Err(_) => self.anything = true,
            },
            Ok(Change::Of(Topic::Placements, subject)) => match subject.parse::<WorkerId>() {
                Ok(id) => drop(self.workers.insert(id)),
                Err(_) => self.anything = true,
            },
            Ok(Change::Of(..)) => {}
            Ok(Change::Anything) | Err(_) => self.anything = true,
        }
    }

    fn everything(&self) -> bool {
        self.anything || self.endpoints.len() + self.workers.len() > MOST_CHANGED
    }
}

async fn load_changed(app: &App, changed: &Changed) -> Result<(), StoreError> {
    if changed.endpoints.is_empty() && changed.workers.is_empty() {
        return Ok(());
    }
    let mut tx = app.store.system().await?;
    let mut endpoints = changed.endpoints.clone();
    if !changed.workers.is_empty() {
        let workers: Vec<WorkerId> = changed.workers.iter().copied().collect();
        endpoints.extend(store::routes::placed_on(&mut tx, &workers).await?);
        endpoints.extend(app.routes.on(&changed.workers));
    }
    let endpoints: Vec<EndpointId> = endpoints.into_iter().collect();
    let routes = store::routes::load_some(&mut tx, &endpoints).await?;
    tx.commit().await?;
    app.routes.update(&endpoints, routes);
    measure(app);
    Ok(())
}

async fn load(app: &App) -> Result<(), StoreError> {
    let mut tx = app.store.system().await?;
    let routes = store::routes::load(&mut tx).await?;
    tx.commit().await?;
    app.routes.replace(routes);
    measure(app);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 endpoints")]
fn measure(app: &App) {
    let (endpoints, ready) = app.routes.counts();
    metrics::gauge!("chancery_endpoints").set(endpoints as f64);
    metrics::gauge!("chancery_endpoints_ready").set(ready as f64);
}

#[cfg(test)]
mod tests {
    use store::routes::ReplicaRoute;

    use super::*;

    fn endpoint(tenant: TenantId, replicas: &[PlacementId]) -> EndpointRoute {
        EndpointRoute {
            endpoint_id: EndpointId::generate(),
            tenant_id: tenant,
            project_id: ProjectId::generate(),
            name: "m".to_owned(),
            version_digest: Sha256Digest::of(b"m"),
            wanted: true,
            budgeted: false,
            replicas: replicas
                .iter()
                .map(|p| ReplicaRoute {
                    placement_id: *p,
                    worker_id: WorkerId::generate(),
                    address: "http://w".to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_name_is_found_only_by_its_tenant() {
        let (routes, tenant) = (Routes::default(), TenantId::generate());
        routes.replace(vec![endpoint(tenant, &[])]);
        assert!(routes.find(tenant, "m").is_some());
        assert!(routes.find(TenantId::generate(), "m").is_none());
        assert_eq!(routes.counts(), (1, 0));
    }

    #[test]
    fn what_changed_is_replaced_and_the_rest_stays() {
        let (routes, tenant) = (Routes::default(), TenantId::generate());
        let (kept, mut moved) = (endpoint(tenant, &[]), endpoint(tenant, &[PlacementId::generate()]));
        moved.name = "moved".to_owned();
        routes.replace(vec![kept.clone(), moved.clone()]);
        assert_eq!(routes.counts(), (2, 1));
        let worker = moved.replicas[0].worker_id;
        assert_eq!(routes.on(&BTreeSet::from([worker])), [moved.endpoint_id]);

        let gone = moved.endpoint_id;
        moved.replicas.clear();
        routes.update(&[gone], vec![moved.clone()]);
        assert_eq!(routes.counts(), (2, 0));
        // Its name is free at once, and may be another endpoint's before its end is heard.
        let mut successor = endpoint(tenant, &[PlacementId::generate()]);
        successor.name = "moved".to_owned();
        routes.update(&[successor.endpoint_id], vec![successor.clone()]);
        routes.update(&[gone], Vec::new());
        assert_eq!(routes.find(tenant, "moved").map(|r| r.endpoint), Some(successor.endpoint_id));
        routes.update(&[successor.endpoint_id], Vec::new());
        assert!(routes.find(tenant, "moved").is_none());
        assert!(routes.find(tenant, "m").is_some());
        assert_eq!(routes.counts(), (1, 0));
    }

    #[test]
    fn work_goes_where_least_is_outstanding() {
        let (routes, tenant) = (Routes::default(), TenantId::generate());
        let ids = [PlacementId::generate(), PlacementId::generate(), PlacementId::generate()];
        routes.replace(vec![endpoint(tenant, &ids)]);
        let route = routes.find(tenant, "m").unwrap();
        let tickets: Vec<Ticket> = (0..9).map(|_| routes.choose(&route, &[]).unwrap()).collect();
        for id in ids {
            assert_eq!(tickets.iter().filter(|t| t.0.placement == id).count(), 3);
        }
        let freed = ids[1];
        let mut tickets = tickets;
        tickets.retain(|t| t.0.placement != freed);
        assert_eq!(routes.choose(&route, &[]).unwrap().0.placement, freed);
        assert!(routes.choose(&route, &ids).is_none());
    }

    #[test]
    fn a_replica_that_failed_comes_last_though_it_is_idle() {
        let (routes, tenant) = (Routes::default(), TenantId::generate());
        let ids = [PlacementId::generate(), PlacementId::generate()];
        routes.replace(vec![endpoint(tenant, &ids)]);
        let route = routes.find(tenant, "m").unwrap();
        let failed = routes.choose(&route, &[]).unwrap();
        failed.0.avoid();
        let other = routes.choose(&route, &[]).unwrap().0.placement;
        assert_ne!(other, failed.0.placement);
        let _busy = routes.choose(&route, &[]).unwrap();
        assert_eq!(routes.choose(&route, &[]).unwrap().0.placement, other);
        assert_eq!(routes.choose(&route, &[other]).unwrap().0.placement, failed.0.placement);
    }

    #[test]
    fn counts_survive_a_refresh() {
        let (routes, tenant) = (Routes::default(), TenantId::generate());
        let ids = [PlacementId::generate(), PlacementId::generate()];
        let table = endpoint(tenant, &ids);
        routes.replace(vec![table.clone()]);
        let busy = routes.choose(&routes.find(tenant, "m").unwrap(), &[]).unwrap();
        routes.replace(vec![table]);
        let route = routes.find(tenant, "m").unwrap();
        assert_ne!(routes.choose(&route, &[]).unwrap().0.placement, busy.0.placement);
    }
}
