//! One engine process per model version in memory, however many placements use
//! it. An engine is started when the first placement wants its version and
//! stopped when the last lets go; between, it is started again whenever it
//! ends, however it ends.
//!
//! Its memory limit is the sum of its placements' memory when it starts. A
//! placement that joins later does not restart it: the limit it was started
//! with holds until its next start.

mod process;
mod stream;
mod supervisor;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use domain::PlacementId;
use domain::models::Sha256Digest;
use domain::workers::DesiredPlacement;
use tokio::sync::watch;

use crate::blobs::Blobs;

pub use stream::{EventStream, StreamError};

/// Memory that each placement lets the engine have.
type Wanted = BTreeMap<PlacementId, Need>;

/// What one placement may use.
#[derive(Clone, Copy, Debug)]
struct Need {
    memory_bytes: u64,
    milli: u32,
}

/// Where an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Being brought up; in plain words.
    Starting(String),
    /// Listens on this socket.
    Ready(Arc<Path>),
    /// Cannot start or has died, and is started again; in plain words.
    Failing(String),
    /// Nobody wants it any more, and it is gone.
    Stopped,
}

/// How engines are started.
pub struct EngineSettings {
    /// The program whose `engine` subcommand is run.
    pub program: PathBuf,
    /// Folder for sockets, with a short name.
    pub sockets: PathBuf,
    /// Most threads of an engine.
    pub cores: u32,
}

/// All engines of a worker.
pub struct Engines {
    settings: EngineSettings,
    blobs: Arc<Blobs>,
    running: Mutex<HashMap<Sha256Digest, Running>>,
}

struct Running {
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<EngineState>,
}

impl Engines {
    /// None yet.
    pub fn new(settings: EngineSettings, blobs: Arc<Blobs>) -> Self {
        Self { settings, blobs, running: Mutex::default() }
    }

    /// Wants the engine of a placement's version, starting it if it is the first.
    pub fn acquire(self: &Arc<Self>, placement: &DesiredPlacement) -> EngineHandle {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = running.entry(placement.version.digest).or_insert_with(|| {
            let wanted = watch::Sender::new(Wanted::new());
            let (state, seen) = watch::channel(EngineState::Starting("waiting to start".to_owned()));
            let task = supervisor::Supervisor {
                engines: Arc::clone(self),
                version: placement.version.clone(),
                wanted: wanted.subscribe(),
                state,
            };
            tokio::spawn(task.run());
            Running { wanted, state: seen }
        });
        entry.wanted.send_modify(|wanted| {
            wanted.insert(
                placement.placement_id,
                Need { memory_bytes: placement.memory_bytes, milli: placement.milli },
            );
        });
        EngineHandle {
            want: Arc::new(Want { placement: placement.placement_id, wanted: entry.wanted.clone() }),
            state: entry.state.clone(),
        }
    }

    /// Ends the supervision of a version unless it is wanted again.
    fn retire(&self, version: Sha256Digest) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let unwanted = running.get(&version).is_none_or(|entry| entry.wanted.borrow().is_empty());
        if unwanted {
            running.remove(&version);
        }
        unwanted
    }
}

/// A placement's use of an engine; the last clone to be dropped ends it.
#[derive(Clone)]
pub struct EngineHandle {
    want: Arc<Want>,
    state: watch::Receiver<EngineState>,
}

struct Want {
    placement: PlacementId,
    wanted: watch::Sender<Wanted>,
}

impl Want {
    fn end(&self) {
        self.wanted.send_if_modified(|wanted| wanted.remove(&self.placement).is_some());
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.end();
    }
}

impl EngineHandle {
    /// Where the engine is, and every change of it.
    pub fn states(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// The socket, if the engine is ready.
    pub fn socket(&self) -> Option<Arc<Path>> {
        match &*self.state.borrow() {
            EngineState::Ready(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    /// Waits until the engine is ready.
    pub async fn ready(&self) -> Arc<Path> {
        let mut states = self.state.clone();
        loop {
            if let EngineState::Ready(socket) = &*states.borrow_and_update() {
                return Arc::clone(socket);
            }
            if states.changed().await.is_err() {
                // Stopped for good: whoever waits here is about to be stopped too.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lets go, and waits until the memory is free, or is another placement's.
    pub async fn release(&self) {
        self.want.end();
        let mut wanted = self.want.wanted.subscribe();
        let mut state = self.state.clone();
        tokio::select! {
            // An error means that the supervisor is gone, and its engine with it.
            _ = state.wait_for(|state| *state == EngineState::Stopped) => {}
            _ = wanted.wait_for(|wanted| !wanted.is_empty()) => {}
        }
    }
}
