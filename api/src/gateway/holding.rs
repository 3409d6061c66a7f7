//! Requests that wait because no replica of their endpoint is there: how many,
//! for whom, and the telling of it to the autoscaler, which brings one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{EndpointId, TenantId};
use store::StoreError;
use store::autoscaling::Held;
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use crate::problem::chain;
use crate::state::App;

/// How often it is told what is held.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Requests that come together are told together.
const GATHER: Duration = Duration::from_millis(50);

/// What this process holds.
#[derive(Debug)]
pub struct Holding {
    gateway: Uuid,
    held: Mutex<Requests>,
    /// Wakes who tells it.
    news: Notify,
}

#[derive(Debug, Default)]
struct Requests {
    of_endpoints: HashMap<EndpointId, OfEndpoint>,
    of_tenants: HashMap<TenantId, u32>,
    /// Endpoints that nothing was held of when it was last told.
    news: BTreeSet<EndpointId>,
}

#[derive(Debug, Default)]
struct OfEndpoint {
    requests: u32,
    /// Why no replica can be had for now.
    stuck: Option<String>,
}

/// Whose requests are too many to hold another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Endpoint,
    Tenant,
}

impl Default for Holding {
    fn default() -> Self {
        Self { gateway: Uuid::now_v7(), held: Mutex::default(), news: Notify::new() }
    }
}

impl Holding {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no replica of an endpoint can be had for now, if that is known.
    pub(super) fn stuck(&self, endpoint: EndpointId) -> Option<String> {
        self.lock().of_endpoints.get(&endpoint)?.stuck.clone()
    }
}

impl Requests {
    fn enter(&mut self, tenant: TenantId, endpoint: EndpointId, most: (u32, u32)) -> Result<bool, Full> {
        let count = |of: Option<u32>| of.unwrap_or(0);
        if count(self.of_endpoints.get(&endpoint).map(|of| of.requests)) >= most.0 {
            return Err(Full::Endpoint);
        }
        if count(self.of_tenants.get(&tenant).copied()) >= most.1 {
            return Err(Full::Tenant);
        }
        let of = self.of_endpoints.entry(endpoint).or_default();
        of.requests += 1;
        let first = of.requests == 1;
        *self.of_tenants.entry(tenant).or_default() += 1;
        if first {
            self.news.insert(endpoint);
        }
        Ok(first)
    }

    fn leave(&mut self, tenant: TenantId, endpoint: EndpointId) {
        if let Some(of) = self.of_endpoints.get_mut(&endpoint) {
            of.requests -= 1;
            if of.requests == 0 {
                self.of_endpoints.remove(&endpoint);
                self.news.remove(&endpoint);
            }
        }
        if let Some(count) = self.of_tenants.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.of_tenants.remove(&tenant);
            }
        }
    }
}

/// A request that is held; until dropped.
pub(super) struct Place {
    app: App,
    tenant: TenantId,
    endpoint: EndpointId,
}

impl Place {
    /// Holds one more request, if there is room for it.
    pub fn take(app: &App, tenant: TenantId, endpoint: EndpointId) -> Result<Self, Full> {
        let most = (app.settings.held_per_endpoint, app.settings.held_per_tenant);
        let first = app.holding.lock().enter(tenant, endpoint, most)?;
        if first {
            app.holding.news.notify_one();
        }
        metrics::gauge!("chancery_requests_held").increment(1);
        Ok(Self { app: app.clone(), tenant, endpoint })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("chancery_requests_held").decrement(1);
        self.app.holding.lock().leave(self.tenant, self.endpoint);
    }
}

/// Tells what is held until the server has stopped.
pub(crate) async fn run(app: App) {
    let stopped = app.stopped.clone();
    stopped.run_until_cancelled(tell(app)).await;
}

async fn tell(app: App) {
    let mut told = false;
    loop {
        if told {
            let _ = timeout(TELL_EVERY, app.holding.news.notified()).await;
        } else {
            app.holding.news.notified().await;
        }
        tokio::time::sleep(GATHER).await;
        match tell_once(&app).await {
            Ok(any) => told = any,
            Err(e) => {
                tracing::warn!(error = chain(&e), "Cannot tell that requests are held; trying again");
                told = true;
                tokio::time::sleep(TELL_EVERY).await;
            }
        }
    }
}

/// Tells what is held now; whether anything is.
async fn tell_once(app: &App) -> Result<bool, StoreError> {
    let (held, news) = {
        let requests = app.holding.lock();
        let held = requests.of_endpoints.iter();
        let held: Vec<Held> = held.map(|(id, of)| Held { endpoint_id: *id, requests: of.requests }).collect();
        (held, requests.news.clone())
    };
    let told: Vec<EndpointId> = news.iter().copied().collect();
    let mut tx = app.store.system().await?;
    let stuck = store::autoscaling::hold(&mut tx, app.holding.gateway, &held, &told, app.clock.now()).await?;
    tx.commit().await?;
    let mut stuck: HashMap<EndpointId, String> = stuck.into_iter().collect();
    let mut requests = app.holding.lock();
    requests.news.retain(|id| !news.contains(id));
    for (id, of) in &mut requests.of_endpoints {
        of.stuck = stuck.remove(id);
    }
    Ok(!held.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let (mut held, tenant) = (Requests::default(), TenantId::generate());
        let (one, other, third) = (EndpointId::generate(), EndpointId::generate(), EndpointId::generate());
        assert_eq!(held.enter(tenant, one, (2, 3)), Ok(true));
        assert_eq!(held.enter(tenant, one, (2, 3)), Ok(false));
        assert_eq!(held.enter(tenant, one, (2, 3)), Err(Full::Endpoint));
        assert_eq!(held.enter(tenant, other, (2, 3)), Ok(true));
        assert_eq!(held.enter(tenant, third, (2, 3)), Err(Full::Tenant));
        assert_eq!(held.enter(TenantId::generate(), third, (2, 3)), Ok(true), "another tenant has its own");
        assert_eq!(held.news, BTreeSet::from([one, other, third]));
        for _ in 0..2 {
            held.leave(tenant, one);
        }
        assert_eq!(held.enter(tenant, one, (2, 3)), Ok(true), "what is left is free");
        for endpoint in [one, other] {
            held.leave(tenant, endpoint);
        }
        assert_eq!((held.of_endpoints.len(), held.of_tenants.len(), held.news.len()), (1, 1, 1));
    }
}
