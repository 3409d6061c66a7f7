//! Control loops. One scheduler leads and the others stand by; all state is in
//! the database, every write names the leader's epoch, and every loop can be
//! killed anywhere and started again.

mod autoscaling;
pub mod deletions;
pub mod finalize;
mod placement;
pub mod retention;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use domain::Clock;
use domain::certificates::SigningKey;
use domain::planner::ShareLimits;
use serde::{Deserialize, Serialize};
use store::leadership::{Attempt, Candidate, Leader, Term};
use store::listen::Change;
use store::objects::Objects;
use store::{Store, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use autoscaling::Autoscaler;
use domain::outbox::Topic;
pub use placement::{Board, Summary};

/// How often a scheduler that stands by tries to lead.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);
/// How often a scheduler that leads says so: several times in
/// [`store::leadership::SILENCE`].
const LEADING_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after an error of the database, so that it is not asked all the time.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks at what is kept no longer: days need no haste.
const RETENTION_INTERVAL: Duration = Duration::from_secs(600);
/// How long giving the lead back may take at the end.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of `chancery scheduler`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Longest time between two looks at what is wanted, in seconds. Changes
    /// are seen at once; this is for those whose notice was lost, and for time.
    pub tick_secs: u64,
    /// Most shares of one job that run at a time, each on its own placement.
    pub max_shares_per_job: u32,
    /// Open chunks of a job that ask for one more share.
    pub chunks_per_share: u32,
    /// Tenants that use least of what others lend, by their weights, go first and
    /// may take it back from those that use most.
    pub fair_sharing: bool,
    /// How long the record of plans is kept, in days: so long a decision can be
    /// made again, to see that it agrees.
    pub record_days: u32,
    /// Longest time between two looks whether endpoints need other numbers of
    /// replicas, in seconds. Requests that wait for one are seen at once.
    pub autoscaling_interval_secs: u64,
    /// For how long fewer replicas must have been enough before some go, in
    /// seconds.
    pub autoscaling_window_secs: u64,
    /// How long notices of changes are kept, in seconds.
    pub outbox_keep_secs: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let shares = ShareLimits::default();
        Self {
            tick_secs: 1,
            max_shares_per_job: shares.max_shares,
            chunks_per_share: shares.chunks_per_share,
            fair_sharing: false,
            record_days: 30,
            autoscaling_interval_secs: 2,
            autoscaling_window_secs: 300,
            outbox_keep_secs: 3600,
        }
    }
}

impl Settings {
    fn share_limits(&self) -> ShareLimits {
        ShareLimits { max_shares: self.max_shares_per_job, chunks_per_share: self.chunks_per_share }
    }

    fn tick_interval(&self) -> Duration {
        Duration::from_secs(self.tick_secs.max(1))
    }
}

/// What a scheduler works with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The database.
    pub store: Store,
    /// Where files of jobs are.
    pub objects: Objects,
    /// The time.
    pub clock: Clock,
    /// What certificates of deletion are signed with.
    pub signing_key: SigningKey,
}

/// Why a scheduler stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A loop has a defect; the process should be started again.
    #[error("a loop of the scheduler failed")]
    Loop(#[from] tokio::task::JoinError),
}

/// Stands by, leads, and stands by again, until `shutdown`.
pub async fn run(settings: Settings, deps: Deps, shutdown: CancellationToken) -> Result<(), RunError> {
    let holder = format!("{}:{}", hostname(), std::process::id());
    let mut candidate = None;
    let mut told_standby = false;
    let mut told_error = false;
    metrics::gauge!("chancery_scheduler_leader").set(0.0);
    loop {
        let attempt = campaign(&deps, &holder, candidate.take());
        let attempt = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            attempt = attempt => attempt,
        };
        match attempt {
            Ok(Attempt::Leads(leader)) => {
                (told_standby, told_error) = (false, false);
                lead(&settings, &deps, leader, &shutdown).await?;
            }
            Ok(Attempt::Waits(waiting)) => {
                candidate = Some(waiting);
                told_error = false;
                if !std::mem::replace(&mut told_standby, true) {
                    info!("Standing by: another scheduler leads");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut told_error, true) {
                    warn!(error = &error as &dyn std::error::Error, "Cannot stand for leading; trying on");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(STANDBY_INTERVAL) => {}
        }
    }
}

/// One try to lead, on the connection of the last if it is still there.
async fn campaign(deps: &Deps, holder: &str, candidate: Option<Candidate>) -> Result<Attempt, StoreError> {
    let candidate = match candidate {
        Some(candidate) => candidate,
        None => deps.store.candidate(holder).await?,
    };
    candidate.try_lead(deps.clock.now()).await
}

/// Wakes the loops that a change concerns. A loop that is busy is woken once
/// more when it is done, however much changed meanwhile.
#[derive(Clone, Debug, Default)]
struct Wake {
    placement: Arc<Notify>,
    finalize: Arc<Notify>,
    deletions: Arc<Notify>,
    autoscaling: Arc<Notify>,
}

/// Runs every loop until leading ends or `shutdown`.
async fn lead(
    settings: &Settings,
    deps: &Deps,
    leader: Leader,
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let term = leader.term();
    info!(epoch = term.epoch, "Leading with epoch {}", term.epoch);
    metrics::gauge!("chancery_scheduler_leader").set(1.0);
    metrics::gauge!("chancery_scheduler_epoch").set(epoch_gauge(term));

    let stop = CancellationToken::new();
    let mut holding = tokio::spawn(hold(leader, stop.clone()));
    let wake = Wake::default();
    let mut loops = JoinSet::new();
    let store = deps.store.clone();
    loops.spawn(listen(store, wake.clone()));
    loops.spawn(upkeep::run(settings.clone(), deps.clone(), term));
    loops.spawn(finalize_jobs(settings.clone(), deps.clone(), term, wake.finalize.clone()));
    loops.spawn(delete_tenants(settings.clone(), deps.clone(), term, wake.deletions.clone()));
    loops.spawn(autoscaling::run(settings.clone(), deps.clone(), term, wake.autoscaling.clone()));
    loops.spawn(retain(deps.clone(), term));
    loops.spawn(placement::run(settings.clone(), deps.clone(), term, wake.placement.clone()));
    // A loop ends when a write of it was refused, and the others with it.
    let (ended, lost) = tokio::select! {
        lost = &mut holding => (Ok(()), Some(lost)),
        () = shutdown.cancelled() => (Ok(()), None),
        Some(done) = loops.join_next() => (done, None),
    };
    loops.shutdown().await;
    metrics::gauge!("chancery_scheduler_leader").set(0.0);
    stop.cancel();
    let held = match lost {
        Some(lost) => lost,
        None => holding.await,
    };
    if let Some(leader) = held? {
        // A connection that is lost cannot be closed; the database frees the
        // lock by itself.
        let _ = tokio::time::timeout(RESIGN_TIMEOUT, leader.resign()).await;
    }
    ended?;
    if !shutdown.is_cancelled() {
        warn!(epoch = term.epoch, "The lead is lost; standing by");
    }
    Ok(())
}

/// Says that it leads until that is lost, or until told to stop: then it gives
/// the leader back. By itself, so that no loop that works for long keeps it
/// silent.
async fn hold(mut leader: Leader, stop: CancellationToken) -> Option<Leader> {
    loop {
        if leader.check().await.is_err() {
            return None;
        }
        tokio::select! {
            () = stop.cancelled() => return Some(leader),
            () = tokio::time::sleep(LEADING_INTERVAL) => {}
        }
    }
}

/// Assembles the files of jobs whose lines are all done.
async fn finalize_jobs(settings: Settings, deps: Deps, term: Term, wake: Arc<Notify>) {
    loop {
        if let Err(error) = finalize::tick(&deps.store, &deps.objects, &deps.clock, term).await {
            if error.is_not_leader() {
                return;
            }
            warn!(error = &error as &dyn std::error::Error, "Finishing jobs failed; trying again");
            tokio::time::sleep(ERROR_PAUSE).await;
        }
        let _ = tokio::time::timeout(settings.tick_interval(), wake.notified()).await;
    }
}

/// Erases tenants that were told to go.
async fn delete_tenants(settings: Settings, deps: Deps, term: Term, wake: Arc<Notify>) {
    loop {
        let done = deletions::tick(&deps.store, &deps.objects, &deps.clock, &deps.signing_key, term).await;
        match done {
            Ok(()) => {}
            Err(StoreError::NotLeader) => return,
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
        let _ = tokio::time::timeout(settings.tick_interval(), wake.notified()).await;
    }
}

/// Erases what tenants keep no longer; again at once while there is more.
async fn retain(deps: Deps, term: Term) {
    loop {
        match retention::tick(&deps.store, &deps.objects, &deps.clock, term).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(RETENTION_INTERVAL).await,
            Err(StoreError::NotLeader) => return,
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

/// Turns notices of changes into wake-ups.
async fn listen(store: Store, wake: Wake) {
    loop {
        match listen_once(&store, &wake).await {
            Ok(never) => match never {},
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "Cannot listen for changes; loops go by timer"
                );
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn listen_once(store: &Store, wake: &Wake) -> Result<std::convert::Infallible, StoreError> {
    let mut changes = store.changes().await?;
    loop {
        match changes.next().await? {
            Change::Of(Topic::Demand, _) => wake.autoscaling.notify_one(),
            Change::Of(Topic::Desired, _) | Change::Anything => {
                wake.placement.notify_one();
                wake.finalize.notify_one();
                wake.deletions.notify_one();
            }
            Change::Of(Topic::Placements | Topic::Tenants, _) => {
                wake.placement.notify_one();
                wake.deletions.notify_one();
            }
            Change::Of(Topic::Credentials, _) => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "epochs stay far below 2^53")]
fn epoch_gauge(term: Term) -> f64 {
    term.epoch as f64
}

/// Name of the machine, for people who ask which process leads.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |s| s.trim().to_owned())
}
