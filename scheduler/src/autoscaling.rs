//! The autoscaling loop: reads what was measured of endpoints whose number of
//! replicas is chosen, and chooses it. What led to a choice is only in memory: a
//! new leader looks for a while before it lets anything go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::autoscaling::Memory;
use domain::{EndpointId, Timestamp};
use store::autoscaling::{Choice, Scaled};
use store::leadership::Term;
use store::{Store, StoreError, autoscaling};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{Deps, ERROR_PAUSE, Settings};

/// Choices made true in one transaction.
const BATCH: usize = 256;
/// Looking takes at most one part in so many of the time.
const LOOK_SHARE: u32 = 10;
/// Least time between two looks, however often gateways call.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// Looks and chooses until it is stopped.
pub(crate) async fn run(settings: Settings, deps: Deps, term: Term, wake: Arc<Notify>) {
    let mut scaler = Autoscaler::default();
    loop {
        let started = Instant::now();
        match scaler.tick(&deps.store, &settings, term, deps.clock.now()).await {
            Ok(_) => {}
            Err(StoreError::NotLeader) => return,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Autoscaling failed; trying again");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        tokio::time::sleep(LEAST_PAUSE.max(started.elapsed() * LOOK_SHARE)).await;
        let interval = Duration::from_secs(settings.autoscaling_interval_secs.max(1));
        let _ = tokio::time::timeout(interval, wake.notified()).await;
    }
}

/// What is remembered of endpoints from one look to the next.
#[derive(Debug, Default)]
pub struct Autoscaler {
    memories: BTreeMap<EndpointId, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// What it was asked for when this began: asked for anew, it is judged anew.
    revision: i64,
    memory: Memory,
}

impl Autoscaler {
    /// Looks once. Returns how many endpoints got another number of replicas.
    pub async fn tick(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let started = Instant::now();
        let endpoints = autoscaling::read(store, now).await?;
        let choices = self.judge(settings, &endpoints, now);
        let mut chosen = 0;
        for batch in choices.chunks(BATCH) {
            let mut tx = store.system().await?;
            let done = autoscaling::choose(&mut tx, term.epoch, batch, now).await?;
            tx.commit().await?;
            chosen += done.len();
            for choice in batch.iter().filter(|choice| done.contains(&choice.endpoint_id)) {
                tell(choice);
            }
        }
        count(&endpoints, started.elapsed());
        Ok(chosen)
    }

    fn judge(&mut self, settings: &Settings, endpoints: &[Scaled], now: Timestamp) -> Vec<Choice> {
        let window = Duration::from_secs(settings.autoscaling_window_secs);
        let mut memories = std::mem::take(&mut self.memories);
        let mut choices = Vec::new();
        for endpoint in endpoints {
            let known = memories.remove(&endpoint.endpoint_id).filter(|m| m.revision == endpoint.revision);
            let mut known =
                known.unwrap_or_else(|| Remembered { revision: endpoint.revision, memory: Memory::new(now) });
            let Scaled { range, targets, replicas, load, .. } = endpoint;
            if let Some(verdict) = known.memory.judge(*range, targets, window, *replicas, load, now) {
                choices.push(Choice {
                    endpoint_id: endpoint.endpoint_id,
                    expected: (endpoint.revision, *replicas),
                    replicas: verdict.replicas,
                    why: verdict.why,
                });
            }
            self.memories.insert(endpoint.endpoint_id, known);
        }
        choices
    }
}

fn tell(choice: &Choice) {
    let (endpoint, before, after) = (choice.endpoint_id, choice.expected.1, choice.replicas);
    info!(endpoint.id = %endpoint, "Scaled endpoint {endpoint} from {before} to {after}: {}", choice.why);
    let direction = if after > before { "up" } else { "down" };
    metrics::counter!("chancery_autoscaler_choices_total", "direction" => direction).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn count(endpoints: &[Scaled], took: Duration) {
    let held: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.load.held)).sum();
    let unmeasured = endpoints.iter().map(|e| u64::from(e.load.ready - e.load.measured)).sum::<u64>();
    metrics::gauge!("chancery_autoscaler_endpoints").set(endpoints.len() as f64);
    metrics::gauge!("chancery_autoscaler_held_requests").set(held as f64);
    metrics::gauge!("chancery_autoscaler_unmeasured_replicas").set(unmeasured as f64);
    metrics::histogram!("chancery_autoscaler_tick_seconds").record(took.as_secs_f64());
}
