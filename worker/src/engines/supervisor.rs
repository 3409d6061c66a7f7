//! Keeps the engine of one model version alive for as long as somebody wants it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::models::DEFAULT_KV_BYTES;
use domain::workers::{DesiredVersion, HEALTHY_AFTER_SECS, RESTARTED_IN};
use tokio::sync::watch;
use tracing::{info, warn};

use super::process::{Launch, Process};
use domain::accelerators::WHOLE_MILLI;

use super::{EngineState, Engines, Wanted};
use crate::backoff::Backoff;
use crate::link::chain;

const RESTART_LEAST: Duration = Duration::from_millis(250);
const RESTART_MOST: Duration = Duration::from_secs(30);
/// An engine that lived this long starts again at once when it dies.
const HEALTHY_AFTER: Duration = Duration::from_secs(HEALTHY_AFTER_SECS);
/// How long an engine may take until it is ready, whatever its model.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// And a second more for so many bytes of model: a slow disk.
const START_BYTES_PER_SEC: u64 = 50 << 20;

/// Numbers sockets, so that a late process never takes its successor's.
static SOCKETS: AtomicU64 = AtomicU64::new(0);

/// Supervises one engine.
pub struct Supervisor {
    pub engines: Arc<Engines>,
    pub version: DesiredVersion,
    pub wanted: watch::Receiver<Wanted>,
    pub state: watch::Sender<EngineState>,
}

impl Supervisor {
    /// Until nobody wants the engine any more.
    pub async fn run(mut self) {
        let mut backoff = Backoff::exact(RESTART_LEAST, RESTART_MOST);
        loop {
            if self.wanted.borrow_and_update().is_empty() {
                if self.engines.retire(self.version.digest) {
                    self.state.send_replace(EngineState::Stopped);
                    return;
                }
                continue;
            }
            let Some((reason, lived)) = self.live().await else { continue };
            if lived >= HEALTHY_AFTER {
                backoff.reset();
            }
            let delay = backoff.delay();
            let detail = format!("{reason}{RESTARTED_IN}{}", rounded(delay));
            warn!(version = %self.version.digest, "Model version {}: {detail}", self.version.digest);
            metrics::counter!("chancery_worker_engine_restarts_total").increment(1);
            self.state.send_replace(EngineState::Failing(detail));
            let unwanted = unwanted(self.wanted.clone());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = unwanted => {}
            }
        }
    }

    /// One life of the engine: why it ended and how long it was ready, or
    /// `None` if it was stopped because nobody wants it.
    async fn live(&mut self) -> Option<(String, Duration)> {
        let start = async {
            self.announce(format!("fetching and verifying {}", self.size()));
            let loaded = self.engines.blobs.load(&self.version).await.map_err(|error| chain(&error))?;
            self.announce(format!("loading {}", self.size()));
            let process = Process::start(&self.launch(&loaded.model)).await?;
            Ok((process, loaded))
        };
        let started: Result<_, String> = tokio::select! {
            started = start => started,
            () = unwanted(self.wanted.clone()) => return None,
        };
        // `loaded` keeps the files in the cache while the engine runs.
        let (mut process, loaded) = match started {
            Ok(started) => started,
            Err(reason) => return Some((reason, Duration::ZERO)),
        };
        let since = Instant::now();
        self.state.send_replace(EngineState::Ready(Arc::from(process.socket())));
        metrics::gauge!("chancery_worker_engines").increment(1);
        let reason = tokio::select! {
            reason = process.ended() => Some(reason),
            () = unwanted(self.wanted.clone()) => None,
        };
        metrics::gauge!("chancery_worker_engines").decrement(1);
        if reason.is_none() {
            info!(version = %self.version.digest, "Stopping the engine of model version {}", self.version.digest);
            self.state.send_replace(EngineState::Starting("stopping".to_owned()));
            process.stop().await;
        }
        drop(loaded);
        reason.map(|reason| (reason, since.elapsed()))
    }

    /// Says what is being done, unless a failure is known: that stays visible
    /// until the engine is ready.
    fn announce(&self, doing: String) {
        self.state.send_if_modified(|state| {
            let calm = matches!(state, EngineState::Starting(_) | EngineState::Ready(_));
            if calm {
                *state = EngineState::Starting(doing);
            }
            calm
        });
    }

    fn size(&self) -> String {
        format!("the model ({} MB)", self.version.manifest.bytes().div_ceil(1_000_000))
    }

    /// As many threads as the placements have whole cores: threads of products
    /// spin until all have done their part, so that one without a core of its own
    /// holds up the others for a time slice, hundreds of times a token.
    fn launch(&self, model: &Path) -> Launch {
        let (memory_bytes, milli) = (self.wanted.borrow().values())
            .fold((0, 0u32), |(memory, milli), n| (memory + n.memory_bytes, milli.saturating_add(n.milli)));
        let settings = &self.engines.settings;
        let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
        let extra = self.version.manifest.bytes() / START_BYTES_PER_SEC;
        Launch {
            program: settings.program.clone(),
            model: model.to_owned(),
            socket: settings.sockets.join(format!("{number}.sock")),
            memory_bytes,
            kv_bytes: DEFAULT_KV_BYTES,
            threads: (milli / WHOLE_MILLI).clamp(1, settings.cores),
            deadline: START_DEADLINE + Duration::from_secs(extra),
        }
    }
}

/// Waits until nobody wants the engine.
async fn unwanted(mut wanted: watch::Receiver<Wanted>) {
    // The sender is in the map of engines for as long as this runs; if not,
    // nobody wants it either.
    let _ = wanted.wait_for(Wanted::is_empty).await;
}

fn rounded(delay: Duration) -> String {
    match delay.as_secs() {
        0 => format!("{} ms", delay.as_millis()),
        secs => format!("{secs} s"),
    }
}
