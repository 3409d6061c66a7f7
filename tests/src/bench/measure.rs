//! How long the scheduler's ticks take, and how much memory this process took.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// What the scheduler calls it.
const TICK_SECONDS: &str = "chancery_scheduler_tick_seconds";

/// The ticks since this was installed, by its own metric.
#[derive(Clone, Default)]
pub struct Ticks(Arc<Seconds>);

#[derive(Default)]
struct Seconds(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    seconds: Vec<f64>,
    last_ended: Option<Instant>,
}

impl Ticks {
    /// Listens to every metric of this process from now on.
    pub fn install() -> Result<Self> {
        let ticks = Self::default();
        metrics::set_global_recorder(ticks.clone()).ok().context("metrics are recorded already")?;
        Ok(ticks)
    }

    /// How long each took.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.lock().seconds.clone()
    }

    /// When the last of them ended.
    pub fn last_ended(&self) -> Option<Instant> {
        self.0.lock().last_ended
    }
}

impl Seconds {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistogramFn for Seconds {
    fn record(&self, value: f64) {
        let mut recorded = self.lock();
        recorded.seconds.push(value);
        recorded.last_ended = Some(Instant::now());
    }
}

impl Recorder for Ticks {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        if key.name() == TICK_SECONDS { Histogram::from_arc(self.0.clone()) } else { Histogram::noop() }
    }
}

/// The value below which that share of sorted values is; 0 of none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(0.0)
}

/// The most memory that this process had, in units of 10⁶ bytes.
pub fn peak_memory_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0 / 1e6)
}
