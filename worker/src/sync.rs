//! The two loops between this worker and the API: what to hold comes in, what
//! is held goes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::workers::REPORT_INTERVAL_SECS;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::holding::Node;
use crate::link::{LinkError, chain};
use crate::memory;

const RETRY_LEAST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Least time between two reports, so that many changes make few of them.
const REPORT_GAP: Duration = Duration::from_millis(50);
/// Several tries must fit before the worker counts as lost.
const RETRY_REPORT: Duration = Duration::from_secs(1);
/// Least time between two answers to the long poll.
const DESIRED_GAP: Duration = Duration::from_millis(20);

/// Least time between two measurements of memory.
const MEASURE_INTERVAL: Duration = Duration::from_secs(REPORT_INTERVAL_SECS);

/// Follows the desired state. Never returns.
pub async fn follow_desired(node: Arc<Node>) {
    let mut backoff = Backoff::spread(RETRY_LEAST, RETRY_MOST, crate::seed());
    let mut identities = node.link.identities();
    let mut after: Option<String> = None;
    loop {
        // Read before asking: an answer from before a loss does not count after it.
        let losses = node.link.contact.losses();
        let answer = tokio::select! {
            answer = node.link.desired(after.as_deref()) => answer,
            () = node.link.contact.found_again(losses) => {
                after = None;
                continue;
            }
            Ok(()) = identities.changed() => {
                after = None;
                if identities.borrow_and_update().is_some() {
                    node.registry.joined_again();
                }
                continue;
            }
        };
        match answer {
            Ok(desired) => {
                backoff.reset();
                if after.as_ref() != Some(&desired.revision) {
                    debug!(
                        epoch = desired.epoch,
                        "Desired state has {} placements",
                        desired.placements.len()
                    );
                }
                if node.registry.follow(&desired, |placement| node.start(placement)) {
                    node.link.contact.heard(losses);
                } else {
                    warn!(epoch = desired.epoch, "Ignored a desired state of a former scheduler");
                }
                after = Some(desired.revision);
                node.orders.send_modify(|n| *n += 1);
                tokio::time::sleep(DESIRED_GAP).await;
            }
            // The answer comes with the new identity.
            Err(LinkError::Unknown) => after = None,
            Err(error) => {
                debug!("Cannot learn the desired state: {}", chain(&error));
                tokio::time::sleep(backoff.delay()).await;
            }
        }
    }
}

/// Reports at an interval, and whenever something changed. Never returns.
pub async fn report(node: Arc<Node>) {
    let mut changes = node.registry.changes();
    let mut told = false;
    let mut measured: Option<Instant> = None;
    loop {
        changes.mark_unchanged();
        let mut report = node.registry.report();
        if measured.is_none_or(|at| at.elapsed() >= MEASURE_INTERVAL) {
            report.devices = memory::measure();
            measured = Some(Instant::now());
        }
        match node.link.report(&report).await {
            Ok(()) => {
                if std::mem::replace(&mut told, false) {
                    info!("The API is back");
                }
            }
            Err(LinkError::Unknown) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("Cannot report to the API, trying on: {}", chain(&error));
                }
            }
        }
        tokio::time::sleep(REPORT_GAP).await;
        let interval = if told { RETRY_REPORT } else { Duration::from_secs(REPORT_INTERVAL_SECS) };
        // A failed report is not repeated at once because something changes.
        tokio::select! {
            _ = changes.changed(), if !told => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}
