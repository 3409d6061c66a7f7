//! What the routing table holds, and how a part of it is replaced.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use domain::{EndpointId, PlacementId, TenantId, WorkerId};
use store::routes::{EndpointRoute, ReplicaRoute};

use super::{Replica, Route};

/// Endpoints by what their tenants call them.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_name: HashMap<TenantId, HashMap<String, Arc<Route>>>,
    /// Where an endpoint is above.
    names: HashMap<EndpointId, (TenantId, String)>,
    /// Those with a ready replica.
    ready: HashMap<EndpointId, Arc<Route>>,
}

impl Table {
    pub fn find(&self, tenant: TenantId, name: &str) -> Option<Arc<Route>> {
        self.by_name.get(&tenant)?.get(name).cloned()
    }

    /// Endpoints in all, and those of them with a ready replica.
    pub fn counts(&self) -> (usize, usize) {
        (self.names.len(), self.ready.len())
    }

    pub fn on(&self, workers: &BTreeSet<WorkerId>) -> Vec<EndpointId> {
        let ready = self.ready.iter();
        let on = ready.filter(|(_, route)| route.replicas.iter().any(|r| workers.contains(&r.worker)));
        on.map(|(id, _)| *id).collect()
    }

    pub fn replace(&mut self, routes: Vec<EndpointRoute>) {
        let old = std::mem::take(self);
        for route in routes {
            self.insert(route, &old.ready);
        }
    }

    pub fn update(&mut self, endpoints: &[EndpointId], routes: Vec<EndpointRoute>) {
        let mut old = HashMap::new();
        for id in endpoints {
            if let Some(route) = self.ready.remove(id) {
                old.insert(*id, route);
            }
            let Some((tenant, name)) = self.names.remove(id) else { continue };
            let Some(named) = self.by_name.get_mut(&tenant) else { continue };
            // The name may be another endpoint's by now.
            if named.get(&name).is_some_and(|route| route.endpoint == *id) {
                named.remove(&name);
            }
            if named.is_empty() {
                self.by_name.remove(&tenant);
            }
        }
        for route in routes {
            self.insert(route, &old);
        }
    }

    /// Replicas that stay keep their counts.
    fn insert(&mut self, route: EndpointRoute, old: &HashMap<EndpointId, Arc<Route>>) {
        let known = old.get(&route.endpoint_id).map_or(&[][..], |old| &old.replicas);
        let replicas = route.replicas.into_iter().map(|replica| {
            let same = |known: &&Arc<Replica>| {
                known.placement == replica.placement_id
                    && known.worker == replica.worker_id
                    && known.address == replica.address
            };
            known.iter().find(same).cloned().unwrap_or_else(|| Arc::new(new_replica(&replica)))
        });
        let found = Arc::new(Route {
            endpoint: route.endpoint_id,
            project: route.project_id,
            version: route.version_digest,
            wanted: route.wanted,
            budgeted: route.budgeted,
            replicas: replicas.collect(),
        });
        if !found.replicas.is_empty() {
            self.ready.insert(found.endpoint, found.clone());
        }
        self.names.insert(found.endpoint, (route.tenant_id, route.name.clone()));
        self.by_name.entry(route.tenant_id).or_default().insert(route.name, found);
    }
}

fn new_replica(replica: &ReplicaRoute) -> Replica {
    let placement: PlacementId = replica.placement_id;
    Replica {
        placement,
        worker: replica.worker_id,
        url: format!("{}/generate/{placement}", replica.address.trim_end_matches('/')),
        address: replica.address.clone(),
        outstanding: AtomicU32::new(0),
        avoid_until: Mutex::default(),
    }
}
