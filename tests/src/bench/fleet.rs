//! Workers that are played: ready at once, done in time, gone when told. They
//! look only at workers of which there is news, and write for all of them in one
//! statement, since they share the machine with what is measured.

mod statements;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::outbox::Topic;
use domain::{JobId, PlacementId, TenantId};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use store::listen::{Change, Changes};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::platform::Platform;
use super::sql;

/// How long news and chunks that end are gathered after the first.
const GATHER: Duration = Duration::from_millis(5);
/// How often every worker is heard; fewer than the 15 s after which it is lost.
const HEARD_EVERY: Duration = Duration::from_secs(4);
/// Workers that are heard in one statement.
const HEARD_AT_ONCE: usize = 500;

/// What the workers of a benchmark are.
#[derive(Clone, Debug)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// Devices of each.
    pub devices: u32,
    /// Accelerator class of all devices; their memory never ends.
    pub class: &'static str,
    /// Milli-accelerators of each device.
    pub milli: u32,
    /// How they let go.
    pub habits: Habits,
}

/// How workers let go of shares.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// An evicted share finishes its chunk first, as our workers do. Otherwise
    /// it stops at once, and its work is started anew when it is placed again.
    pub finish_chunks: bool,
    /// A share whose job is done lets go at once, instead of when it is told,
    /// which spares the scheduler one decision.
    pub leave_unasked: bool,
}

/// Who is told what becomes of jobs, and says how long their chunks take.
pub trait Watcher: Send + 'static {
    /// The job's share was placed; how long it runs.
    fn placed(&mut self, job: JobId, tenant: TenantId, at: Instant) -> Duration;
    /// Its share holds its devices no longer.
    fn released(&mut self, job: JobId, at: Instant);
    /// Its only chunk is done.
    fn ended(&mut self, job: JobId, at: Instant);
}

/// A share on its worker.
struct Share {
    job: JobId,
    tenant: TenantId,
    /// Its chunk is done.
    done: bool,
    /// It goes when its chunk is done.
    leaves: bool,
}

struct Fleet<W> {
    su: PgConnection,
    changes: Changes,
    workers: Vec<Uuid>,
    habits: Habits,
    watcher: W,
    /// Workers of which there is news.
    news: HashSet<Uuid>,
    shares: HashMap<PlacementId, Share>,
    timers: BinaryHeap<Reverse<(Instant, PlacementId)>>,
    heard: Instant,
}

/// Workers that play until they are dropped.
pub struct Playing(JoinHandle<Result<()>>);

impl Playing {
    /// Fails if they ended by themselves, with why.
    pub async fn check(&mut self) -> Result<()> {
        if self.0.is_finished() {
            (&mut self.0).await?.context("the workers ended by themselves")?;
        }
        Ok(())
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Adds workers that play.
pub async fn play(platform: &Platform, workers: &Workers, watcher: impl Watcher) -> Result<Playing> {
    let mut su = platform.superuser().await?;
    sql::gives_way(&mut su).await?;
    let ids = statements::join(&mut su, workers).await?;
    ensure!(ids.len() == workers.count, "{} of {} workers joined", ids.len(), workers.count);
    let mut fleet = Fleet {
        su,
        changes: platform.store.changes().await?,
        workers: ids,
        habits: workers.habits,
        watcher,
        news: HashSet::new(),
        shares: HashMap::new(),
        timers: BinaryHeap::new(),
        heard: Instant::now(),
    };
    Ok(Playing(tokio::spawn(async move {
        loop {
            fleet.turn().await?;
        }
    })))
}

impl<W: Watcher> Fleet<W> {
    async fn turn(&mut self) -> Result<()> {
        self.gather().await?;
        if self.heard.elapsed() > HEARD_EVERY {
            self.heard = Instant::now();
            for some in self.workers.chunks(HEARD_AT_ONCE) {
                sql::execute(&mut self.su, statements::HEARD, &[some]).await?;
            }
        }
        let mut leaving = Vec::new();
        self.look(&mut leaving).await?;
        self.finish(&mut leaving).await?;
        self.release(&leaving).await
    }

    /// Waits for news or the end of a chunk.
    async fn gather(&mut self) -> Result<()> {
        let heard = HEARD_EVERY.saturating_sub(self.heard.elapsed());
        let due = self
            .timers
            .peek()
            .map_or(heard, |Reverse((at, _))| at.saturating_duration_since(Instant::now()).min(heard));
        if let Ok(first) = timeout(due, self.changes.next()).await {
            self.note(&first?);
        }
        let until = Instant::now() + GATHER;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(more) = timeout(left, self.changes.next()).await else { break };
            self.note(&more?);
        }
        Ok(())
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::Of(Topic::Placements, worker) => self.news.extend(worker.parse::<Uuid>()),
            Change::Of(..) => {}
            Change::Anything => self.news.extend(&self.workers),
        }
    }

    /// Takes up what was placed, and sees what is to leave.
    async fn look(&mut self, leaving: &mut Vec<PlacementId>) -> Result<()> {
        if self.news.is_empty() {
            return Ok(());
        }
        let workers: Vec<Uuid> = self.news.drain().collect();
        let mut ready = Vec::new();
        let now = Instant::now();
        for row in sql::execute(&mut self.su, statements::LOOK, &[&workers]).await? {
            let (id, tenant, job) = (PlacementId(row.get(0)), TenantId(row.get(1)), JobId(row.get(2)));
            let (draining, evicted): (bool, bool) = (row.get(3), row.get(4));
            if !draining && !self.shares.contains_key(&id) {
                let takes = self.watcher.placed(job, tenant, now);
                self.timers.push(Reverse((now + takes, id)));
                self.shares.insert(id, Share { job, tenant, done: false, leaves: false });
                if !(takes.is_zero() && self.habits.leave_unasked) {
                    ready.push(id.0);
                }
            } else if draining {
                match self.shares.get_mut(&id) {
                    Some(share) if !share.done && (!evicted || self.habits.finish_chunks) => {
                        share.leaves = true;
                    }
                    // Done, made to leave, or never taken up.
                    _ => leaving.push(id),
                }
            }
        }
        if !ready.is_empty() {
            sql::execute(&mut self.su, statements::READY, &[&ready]).await?;
        }
        // What leaves now finishes nothing more.
        for id in leaving {
            if let Some(share) = self.shares.remove(id) {
                self.watcher.released(share.job, now);
            }
        }
        Ok(())
    }

    /// Commits the chunks whose time has come.
    async fn finish(&mut self, leaving: &mut Vec<PlacementId>) -> Result<()> {
        let now = Instant::now();
        let (mut tenants, mut jobs) = (Vec::new(), Vec::new());
        let mut left = Vec::new();
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(share) = self.shares.get_mut(&id) else { continue };
            share.done = true;
            tenants.push(share.tenant.0);
            jobs.push(share.job.0);
            if share.leaves || self.habits.leave_unasked {
                left.push(id);
            }
        }
        if jobs.is_empty() {
            return Ok(());
        }
        sql::execute(&mut self.su, statements::FINISH, &[&tenants, &jobs]).await?;
        for job in jobs {
            self.watcher.ended(JobId(job), now);
        }
        for id in left {
            if let Some(share) = self.shares.remove(&id) {
                self.watcher.released(share.job, now);
                leaving.push(id);
            }
        }
        Ok(())
    }

    /// Ends placements, as a worker's report does.
    async fn release(&mut self, leaving: &[PlacementId]) -> Result<()> {
        if !leaving.is_empty() {
            let ids: Vec<Uuid> = leaving.iter().map(|id| id.0).collect();
            sql::execute(&mut self.su, statements::RELEASE, &[&ids]).await?;
        }
        Ok(())
    }
}
