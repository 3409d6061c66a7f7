//! The routing table: every endpoint and its ready replicas, in memory. Read
//! without waiting; replaced whole when something changed, and by a timer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::models::Sha256Digest;
use domain::outbox::Topic;
use domain::{EndpointId, PlacementId, ProjectId, TenantId, WorkerId};
use store::StoreError;
use store::listen::Change;
use store::routes::EndpointRoute;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::problem::chain;
use crate::state::App;

/// How old the table may be when a notification was lost.
const REFRESH: Duration = Duration::from_secs(2);
/// Changes that come together are read together.
const GATHER: Duration = Duration::from_millis(20);
/// A replica that did not answer comes last for this long: it would look idle.
const AVOID: Duration = Duration::from_secs(5);

/// Endpoints and their ready replicas. Outlives its contents: readers keep what
/// they found while the table moves on.
#[derive(Debug)]
pub struct Routes {
    table: watch::Sender<Arc<Table>>,
    turn: AtomicUsize,
}

type Table = HashMap<TenantId, HashMap<String, Arc<Route>>>;

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Route {
    pub endpoint: EndpointId,
    pub project: ProjectId,
    pub version: Sha256Digest,
    /// Whether any replica is wanted: if not, waiting for one is vain.
    pub wanted: bool,
    replicas: Vec<Arc<Replica>>,
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
        Self { table: watch::Sender::new(Arc::default()), turn: AtomicUsize::new(0) }
    }
}

impl Routes {
    /// The endpoint that a tenant calls `name`.
    pub(crate) fn find(&self, tenant: TenantId, name: &str) -> Option<Arc<Route>> {
        self.table.borrow().get(&tenant)?.get(name).cloned()
    }

    /// Endpoints in all, and those of them with a ready replica.
    pub fn counts(&self) -> (usize, usize) {
        let table = Arc::clone(&self.table.borrow());
        let routes = table.values().flat_map(HashMap::values);
        routes.fold((0, 0), |(all, ready), route| (all + 1, ready + usize::from(!route.replicas.is_empty())))
    }

    /// Waits for the next table.
    pub(crate) fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut table = self.table.subscribe();
        async move {
            // The sender lives as long as the application.
            let _ = table.changed().await;
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
        let old = Arc::clone(&self.table.borrow());
        let known: HashMap<PlacementId, &Arc<Replica>> = old
            .values()
            .flat_map(HashMap::values)
            .flat_map(|route| route.replicas.iter().map(|r| (r.placement, r)))
            .collect();
        let mut table = Table::new();
        for route in routes {
            let replicas = route.replicas.into_iter().map(|r| match known.get(&r.placement_id) {
                Some(same) if same.address == r.address && same.worker == r.worker_id => Arc::clone(same),
                _ => Arc::new(Replica {
                    placement: r.placement_id,
                    worker: r.worker_id,
                    url: format!("{}/generate/{}", r.address.trim_end_matches('/'), r.placement_id),
                    address: r.address,
                    outstanding: AtomicU32::new(0),
                    avoid_until: Mutex::default(),
                }),
            });
            let found = Route {
                endpoint: route.endpoint_id,
                project: route.project_id,
                version: route.version_digest,
                wanted: route.wanted,
                replicas: replicas.collect(),
            };
            table.entry(route.tenant_id).or_default().insert(route.name, Arc::new(found));
        }
        self.table.send_replace(Arc::new(table));
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
        if let Err(e) = load(&app).await {
            tracing::warn!(error = chain(&e), "Cannot refresh the routing table; the old one stays");
        }
        let relevant = async {
            loop {
                match changes.recv().await {
                    Ok(Change::Of(Topic::Credentials, _)) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    // Cannot be: the application holds the sender.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        if tokio::time::timeout(REFRESH, relevant).await.is_ok() {
            tokio::time::sleep(GATHER).await;
            while changes.try_recv().is_ok() {}
        }
    }
}

async fn load(app: &App) -> Result<(), StoreError> {
    let mut tx = app.store.system().await?;
    let routes = store::routes::load(&mut tx).await?;
    tx.commit().await?;
    app.routes.replace(routes);
    let (endpoints, ready) = app.routes.counts();
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 endpoints")]
    {
        metrics::gauge!("chancery_endpoints").set(endpoints as f64);
        metrics::gauge!("chancery_endpoints_ready").set(ready as f64);
    }
    Ok(())
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
