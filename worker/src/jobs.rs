//! A share of a job: leases chunks of its lines, one at a time, runs them on
//! the placement's engine and hands the results in.

mod chunk;
mod line;

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::JobId;
use domain::workers::{LeaseRequest, LeasedChunk};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::holding::Node;
use crate::link::{Link, LinkError, chain};
use crate::registry::Held;

const POLL_LEAST: Duration = Duration::from_millis(100);
const POLL_MOST: Duration = Duration::from_secs(2);

/// The work of one placement that a job owns.
pub struct Share {
    link: Arc<Link>,
    held: Arc<Held>,
    job: JobId,
    lines_at_once: u32,
    orders: watch::Receiver<u64>,
}

impl Share {
    /// Of `job`, held as `held`.
    pub fn new(node: &Node, held: &Arc<Held>, job: JobId) -> Self {
        Self {
            link: Arc::clone(&node.link),
            held: Arc::clone(held),
            job,
            lines_at_once: node.job_lines_at_once.max(1),
            orders: node.orders.subscribe(),
        }
    }

    /// Until drained, which waits for the chunk under way.
    pub async fn run(mut self) {
        let drain = self.held.drain.clone();
        let mut backoff = Backoff::spread(POLL_LEAST, POLL_MOST, crate::seed());
        let mut told = false;
        while !drain.is_cancelled() {
            // No lease is taken that cannot be worked on.
            tokio::select! {
                _ = self.held.engine.ready() => {}
                () = drain.cancelled() => return,
            }
            match self.lease().await {
                Ok(Some((chunk, leased))) => {
                    backoff.reset();
                    self.work(chunk, leased).await;
                    continue;
                }
                Ok(None) => told = false,
                Err(error) => {
                    let expected = error.is_transient() || matches!(error, LinkError::Conflict(_));
                    if expected || std::mem::replace(&mut told, true) {
                        debug!("No lease for job {}: {}", self.job, chain(&error));
                    } else {
                        warn!(job.id = %self.job, "No lease for job {}: {}", self.job, chain(&error));
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                _ = self.orders.changed() => {}
                () = drain.cancelled() => return,
            }
        }
    }

    /// A chunk, and a moment from which its lease certainly runs.
    async fn lease(&self) -> Result<Option<(LeasedChunk, Instant)>, LinkError> {
        let placement = &self.held.placement;
        let (placement_id, generation) = (placement.placement_id, placement.generation);
        let asked = Instant::now();
        let chunk = self.link.lease(self.job, &LeaseRequest { placement_id, generation }).await?;
        Ok(chunk.map(|chunk| (chunk, asked)))
    }

    async fn work(&self, chunk: LeasedChunk, leased: Instant) {
        let (index, lines) = (chunk.index, chunk.lines.len());
        let end = chunk::run(&self.link, &self.held.engine, chunk, leased, self.lines_at_once).await;
        metrics::counter!("chancery_worker_chunks_total", "end" => end.as_str()).increment(1);
        debug!(job.id = %self.job, chunk = index, "Chunk {index} of job {} ({lines} lines): {}", self.job, end.as_str());
    }
}
