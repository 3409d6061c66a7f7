//! The placements that this worker holds, and what it says of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::PlacementId;
use domain::inference::Event;
use domain::workers::{
    Action, Actual, DesiredPlacement, DesiredState, HEALTHY_AFTER_SECS, Held as HeldFacts,
    MAX_REPORTED_PLACEMENTS, ObservedState, Phase, PlacementReport, ReportRequest, reconcile,
};
use domain::workloads::WorkloadOwner;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engines::EngineHandle;
use crate::load::Meter;

/// What is said of every placement while the worker shuts down.
const STOPPING: &str = "the worker is shutting down";

/// One placement that is held.
pub struct Held {
    /// What was asked for.
    pub placement: DesiredPlacement,
    /// The engine that holds its version.
    pub engine: EngineHandle,
    /// Finish and let go.
    pub drain: CancellationToken,
    /// Let go at once.
    pub stop: CancellationToken,
    /// Requests that are being answered.
    in_flight: watch::Sender<usize>,
    meter: Mutex<Meter>,
}

impl Held {
    /// Holds `placement`, using `engine`.
    pub fn new(placement: DesiredPlacement, engine: EngineHandle) -> Self {
        let (drain, stop) = Default::default();
        let meter = Mutex::new(Meter::new(Instant::now()));
        Self { placement, engine, drain, stop, in_flight: watch::Sender::new(0), meter }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more request until the guard is dropped; `None` when no more
    /// are taken.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        // Counted first: draining then either sees it or has been seen here.
        self.in_flight.send_modify(|n| *n += 1);
        metrics::gauge!("chancery_worker_requests_in_flight").increment(1);
        let now = Instant::now();
        self.meter().begin(now);
        let guard = InFlight { held: Arc::clone(self), since: now, tokens: 0, waits: true };
        (!self.drain.is_cancelled() && !self.stop.is_cancelled()).then_some(guard)
    }

    /// Waits until no request is being answered.
    pub async fn idle(&self) {
        // The sender is `self`: it outlives this.
        let _ = self.in_flight.subscribe().wait_for(|n| *n == 0).await;
    }
}

/// A request that is being answered.
pub struct InFlight {
    held: Arc<Held>,
    since: Instant,
    /// Read and written for it.
    tokens: u64,
    /// For its first token.
    waits: bool,
}

impl InFlight {
    /// The engine said this of it.
    pub fn count(&mut self, event: &Event) {
        let (tokens, answers) = match event {
            Event::Started { prompt_tokens } => (*prompt_tokens, false),
            Event::Text { tokens, .. } => (*tokens, true),
            Event::Finished { .. } | Event::Failed { .. } => return,
        };
        let now = Instant::now();
        self.tokens += u64::from(tokens);
        let mut meter = self.held.meter();
        meter.grow(tokens, now);
        if answers && std::mem::take(&mut self.waits) {
            meter.first_token(now.duration_since(self.since), now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.held.meter().end(self.tokens, self.waits, Instant::now());
        self.held.in_flight.send_modify(|n| *n -= 1);
        metrics::gauge!("chancery_worker_requests_in_flight").decrement(1);
    }
}

struct Entry {
    generation: i64,
    phase: Phase,
    state: ObservedState,
    detail: Option<String>,
    /// Of its engine, in a row.
    failures: u32,
    ready_since: Option<Instant>,
    /// `None`: was never held, only its end is said.
    held: Option<Arc<Held>>,
}

#[derive(Default)]
struct Inner {
    actual: Actual,
    entries: BTreeMap<PlacementId, Entry>,
    stopping: bool,
}

/// Everything this worker holds.
pub struct Registry {
    inner: Mutex<Inner>,
    /// Counts changes of what is reported.
    changes: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { inner: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when there is something new to report.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Follows `desired`: `start` begins to hold a placement and spawns what
    /// makes it true. Says whether it was of a current epoch.
    pub fn follow(
        &self,
        desired: &DesiredState,
        mut start: impl FnMut(DesiredPlacement) -> Arc<Held>,
    ) -> bool {
        let mut inner = self.lock();
        if inner.stopping {
            return false;
        }
        inner.actual.held = inner
            .entries
            .iter()
            .map(|(id, e)| (*id, HeldFacts { generation: e.generation, phase: e.phase }))
            .collect();
        let current = desired.epoch >= inner.actual.epoch;
        let actions = reconcile(&inner.actual, desired);
        let changed = !actions.is_empty();
        inner.actual.epoch = inner.actual.epoch.max(desired.epoch);
        for action in actions {
            inner.apply(action, &mut start);
        }
        drop(inner);
        if changed {
            self.changes.send_modify(|n| *n += 1);
        }
        current
    }

    /// A new identity: the API may have been set up anew, so what its former
    /// scheduler said binds no more.
    pub fn joined_again(&self) {
        let mut inner = self.lock();
        inner.actual = Actual::default();
    }

    /// The placement, if it is held.
    pub fn get(&self, id: PlacementId) -> Option<Arc<Held>> {
        self.lock().entries.get(&id)?.held.clone()
    }

    /// What is seen of a placement, unless it has ended or was replaced.
    pub fn observe(&self, held: &Arc<Held>, state: ObservedState, detail: Option<String>) {
        let mut inner = self.lock();
        let Some(entry) = inner.entry_of(held) else { return };
        let failed = state == ObservedState::Failing;
        if failed {
            entry.fail(Instant::now());
        }
        if !failed && (entry.state, &entry.detail) == (state, &detail) {
            return;
        }
        if state == ObservedState::Ready && entry.state != ObservedState::Ready {
            entry.ready_since = Some(Instant::now());
        }
        (entry.state, entry.detail) = (state, detail);
        if state == ObservedState::Ended {
            entry.phase = Phase::Ended;
            entry.held = None;
        }
        drop(inner);
        self.changes.send_modify(|n| *n += 1);
    }

    /// What the API is told.
    pub fn report(&self) -> ReportRequest {
        let inner = self.lock();
        let load = |entry: &Entry| {
            let held = entry.held.as_ref()?;
            let replica = matches!(held.placement.owner, WorkloadOwner::Endpoint(_));
            let answers = entry.state == ObservedState::Ready && !inner.stopping;
            (replica && answers).then(|| held.meter().load(Instant::now()))
        };
        let of = |(id, entry): (&PlacementId, &Entry)| {
            let stopping = inner.stopping && entry.state != ObservedState::Ended;
            PlacementReport {
                placement_id: *id,
                generation: entry.generation,
                state: if stopping { ObservedState::Failing } else { entry.state },
                detail: if stopping { Some(STOPPING.to_owned()) } else { entry.detail.clone() },
                failures: entry.failures,
                load: load(entry),
            }
        };
        let placements = inner.entries.iter().map(of).take(MAX_REPORTED_PLACEMENTS).collect();
        ReportRequest { placements, devices: Vec::new() }
    }

    /// Takes no more orders and drains what is held.
    pub fn shut_down(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        for held in inner.entries.values().filter_map(|entry| entry.held.as_ref()) {
            held.drain.cancel();
        }
    }

    /// Lets go of everything that is still held.
    pub fn stop_all(&self) {
        for held in self.lock().entries.values().filter_map(|entry| entry.held.as_ref()) {
            held.stop.cancel();
        }
    }
}

impl Entry {
    fn new(generation: i64, phase: Phase, state: ObservedState, held: Option<Arc<Held>>) -> Self {
        Self { generation, phase, state, detail: None, failures: 0, ready_since: None, held }
    }

    /// Its engine failed once more.
    fn fail(&mut self, now: Instant) {
        let healthy = Duration::from_secs(HEALTHY_AFTER_SECS);
        if self.ready_since.take().is_some_and(|since| now.duration_since(since) >= healthy) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
    }
}

impl Inner {
    fn entry_of(&mut self, held: &Arc<Held>) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&held.placement.placement_id)?;
        entry.held.as_ref().is_some_and(|now| Arc::ptr_eq(now, held)).then_some(entry)
    }

    fn apply(&mut self, action: Action, start: &mut impl FnMut(DesiredPlacement) -> Arc<Held>) {
        match action {
            Action::Start(placement) => {
                let (id, generation) = (placement.placement_id, placement.generation);
                let (phase, state) = (Phase::Running, ObservedState::Starting);
                let held = Some(start(placement));
                self.entries.insert(id, Entry::new(generation, phase, state, held));
            }
            Action::SayEnded(placement) => {
                let (generation, phase, state) = (placement.generation, Phase::Ended, ObservedState::Ended);
                self.entries.insert(placement.placement_id, Entry::new(generation, phase, state, None));
            }
            Action::Drain(id) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.phase = Phase::Draining;
                    if let Some(held) = &entry.held {
                        held.drain.cancel();
                    }
                }
            }
            Action::Stop(id) | Action::Forget(id) => {
                if let Some(entry) = self.entries.remove(&id) {
                    self.actual.gone.remember(id, entry.generation);
                    if let Some(held) = entry.held {
                        held.stop.cancel();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_begin_anew_after_a_minute_of_health() {
        let mut entry = Entry::new(1, Phase::Running, ObservedState::Starting, None);
        let now = Instant::now();
        (0..3).for_each(|_| entry.fail(now));
        assert_eq!(entry.failures, 3);
        entry.ready_since = Some(now);
        entry.fail(now + Duration::from_secs(HEALTHY_AFTER_SECS - 1));
        assert_eq!(entry.failures, 4, "it died too soon");
        entry.ready_since = Some(now);
        entry.fail(now + Duration::from_secs(HEALTHY_AFTER_SECS));
        assert_eq!(entry.failures, 1);
    }
}
