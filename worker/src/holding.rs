//! Makes one placement true, from the order to hold it until it is let go of.

use std::sync::Arc;
use std::time::Duration;

use domain::workers::{DRAIN_LIMIT_SECS, DesiredPlacement, ObservedState};
use domain::workloads::WorkloadOwner;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::engines::{EngineState, Engines};
use crate::jobs::Share;
use crate::link::Link;
use crate::registry::{Held, Registry};

/// How long what was broken off may take to say so.
const HANG_UP_LIMIT: Duration = Duration::from_secs(2);

/// What placements are made true with.
pub struct Node {
    /// To the API.
    pub link: Arc<Link>,
    /// All placements.
    pub registry: Registry,
    /// All engines.
    pub engines: Arc<Engines>,
    /// Tasks that hold placements.
    pub tasks: TaskTracker,
    /// Lines that each share of a job runs at once.
    pub job_lines_at_once: u32,
    /// Counts desired states that were followed.
    pub orders: watch::Sender<u64>,
}

impl Node {
    /// Begins to hold a placement.
    pub fn start(self: &Arc<Self>, placement: DesiredPlacement) -> Arc<Held> {
        info!(placement.id = %placement.placement_id, tenant.id = %placement.tenant_id,
            "Holding placement {} of model version {}", placement.placement_id, placement.version.digest);
        let engine = self.engines.acquire(&placement);
        let held = Arc::new(Held::new(placement, engine));
        self.tasks.spawn(hold(Arc::clone(self), Arc::clone(&held)));
        held
    }
}

/// Until the placement was drained or stopped.
async fn hold(node: Arc<Node>, held: Arc<Held>) {
    let share = match held.placement.owner {
        WorkloadOwner::Endpoint(_) => None,
        WorkloadOwner::Job(job) => Some(Share::new(&node, &held, job)),
    };
    let work = async {
        match share {
            Some(share) => share.run().await,
            None => {
                held.drain.cancelled().await;
                held.idle().await;
            }
        }
    };
    let too_long = async {
        held.drain.cancelled().await;
        tokio::time::sleep(Duration::from_secs(DRAIN_LIMIT_SECS)).await;
    };
    tokio::select! {
        () = work => {}
        () = follow_engine(&node, &held) => {}
        () = too_long => {}
        () = held.stop.cancelled() => {}
    }
    held.stop.cancel();
    // A gateway that does not read its answer holds up nobody.
    let _ = tokio::time::timeout(HANG_UP_LIMIT, held.idle()).await;
    held.engine.release().await;
    node.registry.observe(&held, ObservedState::Ended, None);
    info!(placement.id = %held.placement.placement_id, "Let go of placement {}", held.placement.placement_id);
}

/// Says of the placement what is seen of its engine, for as long as that lasts.
async fn follow_engine(node: &Node, held: &Arc<Held>) {
    let mut states = held.engine.states();
    loop {
        let (state, detail) = match &*states.borrow_and_update() {
            EngineState::Starting(doing) => (ObservedState::Starting, Some(doing.clone())),
            EngineState::Ready(_) => (ObservedState::Ready, None),
            EngineState::Failing(why) => (ObservedState::Failing, Some(why.clone())),
            EngineState::Stopped => return,
        };
        node.registry.observe(held, state, detail);
        if states.changed().await.is_err() {
            return;
        }
    }
}
