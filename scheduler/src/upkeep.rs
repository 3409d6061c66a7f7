//! Small periodic work: leases that ran out, notices that are old, and a look
//! whether the quota ledger is what the placements add up to.

use std::time::Duration;

use domain::Timestamp;
use domain::outbox::Topic;
use store::budgets::tokens;
use store::leadership::{Term, fence};
use store::workloads::plans;
use store::{Store, StoreError, autoscaling, idempotency, jobs, outbox, quotas};
use tracing::{error, info, warn};

use crate::{Deps, ERROR_PAUSE, Settings};

/// Turns of this loop between two prunings of the outbox, of kept answers and of
/// the record of plans, and between two looks at the ledger.
const PRUNE_EVERY: u64 = 60;

/// How long a measurement is kept of what is not measured any more.
const MEASUREMENTS_KEPT: Duration = Duration::from_secs(600);

/// How long the answer to an Idempotency-Key is kept.
const ANSWERS_KEPT: Duration = Duration::from_secs(48 * 3600);

/// Works until it is stopped.
pub(crate) async fn run(settings: Settings, deps: Deps, term: Term) {
    let mut turn = 0u64;
    loop {
        if let Err(error) = turn_once(&settings, &deps.store, term, turn, deps.clock.now()).await {
            if matches!(error, StoreError::NotLeader) {
                return;
            }
            warn!(error = &error as &dyn std::error::Error, "Upkeep failed; trying again");
            tokio::time::sleep(ERROR_PAUSE).await;
        }
        turn += 1;
        tokio::time::sleep(settings.tick_interval()).await;
    }
}

async fn turn_once(
    settings: &Settings,
    store: &Store,
    term: Term,
    turn: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = store.system().await?;
    fence(&mut tx, term.epoch).await?;
    let expired = jobs::expire_leases(&mut tx, now).await?;
    let resumed = tokens::resume_jobs(&mut tx, now).await?;
    if resumed > 0 {
        outbox::publish(&mut tx, Topic::Desired, "budgets", now).await?;
    }
    tx.commit().await?;
    if resumed > 0 {
        info!("{resumed} jobs go on for which there were no tokens");
    }
    if expired > 0 {
        info!("{expired} leases ran out; their chunks wait again");
    }
    if turn.is_multiple_of(PRUNE_EVERY) {
        let mut tx = store.system().await?;
        fence(&mut tx, term.epoch).await?;
        outbox::prune(&mut tx, now, Duration::from_secs(settings.outbox_keep_secs)).await?;
        idempotency::prune(&mut tx, now, ANSWERS_KEPT).await?;
        let kept = Duration::from_secs(u64::from(settings.record_days) * 24 * 3600);
        plans::forget(&mut tx, now - kept).await?;
        tokens::prune(&mut tx, now).await?;
        autoscaling::prune(&mut tx, now, MEASUREMENTS_KEPT).await?;
        tx.commit().await?;
        check_ledger(store).await?;
    }
    Ok(())
}

/// Placements and the ledger change in one transaction, so a difference is a
/// defect, and for a person to look at.
async fn check_ledger(store: &Store) -> Result<(), StoreError> {
    let differences = quotas::differences(store).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    metrics::gauge!("chancery_quota_ledger_differences").set(differences.len() as f64);
    for difference in differences {
        error!(
            node = %difference.node,
            "The quota ledger of {} has {} {} of class {} in use, but its placements add up to {}: \
             set its quota again to derive the ledger anew, and report this",
            difference.name, difference.ledger, difference.resource, difference.class, difference.placements
        );
    }
    Ok(())
}
