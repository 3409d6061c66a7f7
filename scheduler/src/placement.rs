//! The placement loop: read what changed, plan, apply, until nothing is left to
//! decide. While one plan becomes true, the next is made, which takes it for true.

mod applying;

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Timestamp;
use domain::planner::{Decision, Recorder, Snapshot};
use domain::workloads::WorkloadState;
use store::leadership::{Term, fence};
use store::workloads::plans;
use store::{Store, StoreError, workloads};
use tokio::sync::Notify;
use tracing::{error, warn};

use self::applying::Applying;
use crate::{Deps, ERROR_PAUSE, Settings};

/// Plans until a quiet fleet is settled. Three do; more are needed only while
/// others change it.
const MAX_TICKS: u32 = 8;
/// Owners for which one plan creates workloads, workloads that it admits, and
/// reasons that it tells; the rest is for the next, so that what changes meanwhile
/// waits for none of them.
const MOST: u32 = 1024;
/// The same while somebody waits for room that is being made: it is to be given
/// as soon as it is there.
const MOST_MAKING_ROOM: u32 = 128;
/// Time between two times of forgetting what was read of changes.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks whether what is known is so.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// After so much of a record, in bytes, or time, the planner begins anew, so that
/// making a plan again does not take long.
const RECORD_BYTES: usize = 256 << 20;
const RECORD_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Time between two countings of everything for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What was done and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Decisions that became true.
    pub applied: u64,
    /// Decisions that the world had overtaken.
    pub refused: u64,
    /// Workloads that wait.
    pub pending: usize,
    /// Placements that have not ended.
    pub placements: usize,
    /// Whether nothing was left to decide.
    pub settled: bool,
}

/// Plans until the lead is lost.
pub(crate) async fn run(settings: Settings, deps: Deps, term: Term, wake: Arc<Notify>) {
    let mut board = None;
    loop {
        let mut done = true;
        match turn(&mut board, &settings, &deps, term).await {
            Ok(settled) => done = settled,
            Err(StoreError::NotLeader) => return,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "Placing failed; reading all anew");
                board = None;
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        if done {
            let _ = tokio::time::timeout(settings.tick_interval(), wake.notified()).await;
        }
    }
}

/// One tick of a board, which is made if there is none; whether to wait for
/// what comes next.
async fn turn(
    board: &mut Option<Board>,
    settings: &Settings,
    deps: &Deps,
    term: Term,
) -> Result<bool, StoreError> {
    let now = deps.clock.now();
    let board = match board {
        Some(board) => board,
        None => board.insert(Board::read(&deps.store, settings, term, now).await?),
    };
    let mut summary = Summary::default();
    board.tick(&deps.store, settings, term, now, &mut summary).await?;
    if board.counted.elapsed() >= COUNT_EVERY {
        board.count(&mut summary);
    }
    board.look_after(&deps.store, settings, term, now).await?;
    // What was decided, and who ends or begins what it changed, wakes the loop.
    Ok(board.under_way.is_none() && board.doubted.is_empty() && board.recorder.planner().is_settled())
}

/// A planner that is kept up with the database, and recorded.
pub struct Board {
    recorder: Recorder,
    /// What it knows is of this moment.
    moment: workloads::Moment,
    /// What it is to be told anew, changed or not.
    doubted: workloads::Ids,
    /// The last plan, while it becomes true.
    under_way: Option<Applying>,
    pruned: Instant,
    checked: Instant,
    began: Instant,
    counted: Instant,
}

impl Board {
    /// Reads everything.
    pub async fn read(
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let (snapshot, moment) =
            workloads::snapshot(store, term.since, settings.share_limits(), settings.fair_sharing, now)
                .await?;
        let (doubted, now) = (workloads::Ids::default(), Instant::now());
        let first = plans::next(&mut store.system().await?, term.epoch).await?;
        let recorder = Recorder::new(first, env!("CARGO_PKG_VERSION"), snapshot);
        let (under_way, pruned, checked, began, counted) = (None, now, now, now, now);
        Ok(Self { recorder, moment, doubted, under_way, pruned, checked, began, counted })
    }

    /// Reads what changed.
    async fn catch_up(
        &mut self,
        store: &Store,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut also = std::mem::take(&mut self.doubted);
        self.recorder.planner().silent(now).into_iter().for_each(|worker| also.worker(worker));
        self.recorder.planner().turned(now).into_iter().for_each(|tenant| also.budgets(tenant));
        // What a plan is changing is told when it has.
        let none = workloads::Ids::default();
        let changing = self.under_way.as_ref().map_or(&none, Applying::concerned);
        let changed =
            workloads::changes(store, &self.moment, also, changing, settings.share_limits(), now).await?;
        changed.changes.into_iter().for_each(|change| self.recorder.tell(change));
        (self.moment, self.doubted) = (changed.moment, changed.later);
        Ok(())
    }

    /// Plans and applies until nothing is left to decide.
    pub async fn settle(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
    ) -> Result<Summary, StoreError> {
        let mut summary = Summary::default();
        for _ in 0..MAX_TICKS {
            if self.tick(store, settings, term, now, &mut summary).await? {
                summary.settled = true;
                break;
            }
        }
        self.applied(&mut summary).await?;
        self.count(&mut summary);
        Ok(summary)
    }

    /// What it takes for true.
    pub fn facts(&self) -> &Snapshot {
        self.recorder.planner().facts()
    }

    /// One plan, which begins to become true when the one before has. Returns
    /// whether nothing was left to decide.
    async fn tick(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
        summary: &mut Summary,
    ) -> Result<bool, StoreError> {
        let started = Instant::now();
        self.catch_up(store, settings, now).await?;
        let making_room = self.recorder.planner().is_making_room();
        let most = if making_room { MOST_MAKING_ROOM } else { MOST };
        let (decisions, page) = self.recorder.plan(now, most);
        self.applied(summary).await?;
        let settled = self.recorder.planner().is_settled();
        let nothing = settled && decisions.is_empty() && self.doubted.is_empty();
        let made = decisions.iter().any(|d| matches!(d, Decision::CreateWorkloads { .. }));
        self.under_way = page.map(|page| Applying::begin(store, page, decisions, term, now));
        if settled || made {
            // There is nothing else to plan, or not before what is made is known.
            self.applied(summary).await?;
        }
        metrics::histogram!("chancery_scheduler_tick_seconds").record(started.elapsed().as_secs_f64());
        Ok(nothing)
    }

    /// Waits until what was decided has become true, and learns what did not.
    async fn applied(&mut self, summary: &mut Summary) -> Result<(), StoreError> {
        let Some(applying) = self.under_way.take() else { return Ok(()) };
        let applied = applying.end().await?;
        applied.tell(self.recorder.planner().facts());
        for place in &applied.refused {
            self.recorder.refused(&applied.decisions[*place]);
            self.doubted.concerned(&applied.decisions[*place]);
        }
        let refused = applied.refused.len() as u64;
        let became = applied.decisions.len() as u64 - refused;
        summary.applied += became;
        summary.refused += refused;
        metrics::counter!("chancery_scheduler_decisions_total", "result" => "applied").increment(became);
        metrics::counter!("chancery_scheduler_decisions_total", "result" => "refused").increment(refused);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn count(&mut self, summary: &mut Summary) {
        self.counted = Instant::now();
        let facts = self.recorder.planner().facts();
        summary.pending = facts.workloads.values().filter(|w| w.state == WorkloadState::Pending).count();
        summary.placements = facts.placements.len();
        metrics::gauge!("chancery_scheduler_pending_workloads").set(summary.pending as f64);
        metrics::gauge!("chancery_scheduler_placements").set(summary.placements as f64);
    }

    /// From time to time, forgets what was read, and looks whether what is known
    /// is what the database says. A difference is a defect: all is known anew.
    async fn look_after(
        &mut self,
        store: &Store,
        settings: &Settings,
        term: Term,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.pruned.elapsed() >= PRUNE_EVERY {
            self.pruned = Instant::now();
            let mut tx = store.system().await?;
            fence(&mut tx, term.epoch).await?;
            workloads::prune(&mut tx, &self.moment).await?;
            tx.commit().await?;
        }
        if self.checked.elapsed() < CHECK_EVERY {
            return Ok(());
        }
        self.checked = Instant::now();
        self.applied(&mut Summary::default()).await?;
        let mut doubted = std::mem::take(&mut self.doubted);
        self.recorder.planner().turned(now).into_iter().for_each(|tenant| doubted.budgets(tenant));
        let (changes, snapshot, moment) = workloads::changes_and_all(
            store,
            &self.moment,
            doubted,
            term.since,
            settings.share_limits(),
            settings.fair_sharing,
            now,
        )
        .await?;
        changes.into_iter().for_each(|change| self.recorder.tell(change));
        self.moment = moment;
        let same = self.recorder.planner().facts().agrees(&snapshot);
        if !same {
            // Whoever leads by now has forgotten what this one had not read.
            fence(&mut store.system().await?, term.epoch).await?;
        }
        metrics::gauge!("chancery_scheduler_board_differs").set(if same { 0.0 } else { 1.0 });
        if !same {
            error!("What the scheduler knew was not what the database says: it knows all anew; report this");
        }
        if !same || self.began.elapsed() >= RECORD_EVERY || self.recorder.written() >= RECORD_BYTES {
            self.began = Instant::now();
            self.recorder.begin_anew(snapshot);
        }
        Ok(())
    }
}
