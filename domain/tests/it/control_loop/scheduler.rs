//! A scheduler, as `scheduler/src/lib.rs` and `scheduler/src/placement.rs` run
//! one, in steps between which anything may happen.

use std::collections::BTreeSet;

use domain::Timestamp;
use domain::planner::{Decision, Recorded, Recorder};

use super::database::{Connection, Tx};
use super::feed::{Moment, Noted, concerned};
use super::{Event, MILLI, Micros, SECOND, World};

/// How long the server waits for a machine that is gone.
pub const KEEPALIVE: Micros = 11 * SECOND;

/// One time of leading.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub epoch: i64,
    pub since: Timestamp,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Stand for leading.
    #[default]
    Stand,
    /// It has the lock; begin the term.
    Raise,
    /// Begin a tick, if it still leads.
    Turn,
    /// Read everything.
    Read,
    /// Read what changed, and plan.
    CatchUp,
    /// Keep the page of the plan that is under way, apply a batch of it, or one
    /// decision alone.
    Write,
    /// Forget what was read, look whether what is known is so.
    LookAfter,
    /// Wait for news.
    Sleep,
}

/// Why a step failed.
enum Failure {
    NotLeader,
    Database,
}

/// A planner that is kept up with the database, and recorded.
struct Board {
    recorder: Recorder,
    moment: Moment,
    doubted: BTreeSet<Noted>,
    /// The last plan, while it becomes true.
    under_way: Option<Applying>,
}

impl Board {
    fn is_settled(&self) -> bool {
        self.under_way.is_none() && self.doubted.is_empty() && self.recorder.planner().is_settled()
    }
}

/// A plan that is becoming true, while the next is made.
struct Applying {
    decisions: Vec<Decision>,
    /// Its page, until that is kept.
    page: Option<Recorded>,
    now: Timestamp,
    /// The next batch begins here.
    at: usize,
    /// Of a refused batch: the next decision by itself.
    alone: Option<usize>,
    /// Places of those that did not become true.
    refused: Vec<usize>,
}

impl Applying {
    fn is_done(&self) -> bool {
        self.page.is_none() && self.at >= self.decisions.len()
    }

    fn concerned(&self) -> BTreeSet<Noted> {
        let mut all = BTreeSet::new();
        self.decisions.iter().for_each(|decision| concerned(decision, &mut all));
        all
    }
}

/// Where the present tick is.
#[derive(Default)]
struct Tick {
    now: Option<Timestamp>,
    /// What was planned, until the plan before has become true.
    next: Option<Applying>,
    begun: bool,
    /// There is nothing to plan before this plan has become true.
    whole: bool,
}

#[derive(Default)]
pub struct Scheduler {
    /// Only the event with this number is its next step.
    pub ticket: u64,
    pub up: bool,
    pub paused_until: Micros,
    /// Until when it cannot reach the database.
    pub cut_until: Micros,
    pub connection: Option<Connection>,
    pub term: Option<Term>,
    board: Option<Board>,
    step: Step,
    tick: Tick,
    tx: Option<Tx>,
    notified: bool,
}

impl Scheduler {
    /// It leads, waits, and has nothing left to decide.
    pub fn is_settled(&self) -> bool {
        self.step == Step::Sleep && self.board.as_ref().is_some_and(Board::is_settled)
    }

    pub fn agrees(&self, facts: &domain::planner::Snapshot) -> bool {
        self.board.as_ref().is_some_and(|board| board.recorder.planner().facts().agrees(facts))
    }

    /// Something changed; whether it is to be woken for that.
    pub fn notify(&mut self) -> bool {
        self.notified = true;
        self.up && self.step == Step::Sleep
    }

    /// Takes up what the one that stood in for it, while it took a step, was told.
    pub fn stood_in(&mut self, other: &Self) -> bool {
        other.notified && self.notify()
    }

    /// The process is gone, and what it had begun; returns its transaction.
    pub fn crash(&mut self) -> Option<Tx> {
        let tx = self.tx.take();
        *self = Self { ticket: self.ticket + 1, cut_until: self.cut_until, ..Self::default() };
        tx
    }

    /// Takes the next step; returns the time until the one after it.
    pub fn advance(&mut self, world: &mut World) -> Micros {
        match self.take_step(world) {
            Ok(pause) => pause,
            Err(Failure::NotLeader) => {
                world.say(|| format!("  epoch {:?} is over", self.term));
                self.stand_down(world);
                SECOND
            }
            Err(Failure::Database) => {
                world.say(|| "  the database does not answer".to_owned());
                if let Some(tx) = self.tx.take() {
                    world.later(SECOND, KEEPALIVE, Event::RollBack(tx));
                }
                self.board = None;
                self.step = if self.term.is_some() { Step::Turn } else { Step::Stand };
                SECOND
            }
        }
    }

    fn stand_down(&mut self, world: &mut World) {
        if let Some(connection) = self.connection.take() {
            if world.now < self.cut_until {
                world.at(self.cut_until + SECOND, Event::Close(connection));
            } else {
                world.db.close(connection);
            }
        }
        if let Some(tx) = self.tx.take() {
            world.later(MILLI, KEEPALIVE, Event::RollBack(tx));
        }
        (self.term, self.board, self.step) = (None, None, Step::Stand);
    }

    fn take_step(&mut self, world: &mut World) -> Result<Micros, Failure> {
        match self.step {
            Step::Stand => return self.stand(world),
            Step::Raise => return self.raise(world),
            Step::Turn => {
                let open = self.connection.is_some_and(|connection| world.db.open.contains(&connection));
                if !open || world.now < self.cut_until {
                    return Err(Failure::NotLeader);
                }
                self.tick = Tick { now: Some(world.timestamp()), ..Tick::default() };
                self.step = if self.board.is_some() { Step::CatchUp } else { Step::Read };
            }
            Step::Read => {
                self.reach(world)?;
                let term = self.term.expect("it leads");
                let (snapshot, moment) = world.db.snapshot(term.since);
                let recorder = Recorder::new(world.db.next_plan(term.epoch), "1", snapshot);
                self.board = Some(Board { recorder, moment, doubted: BTreeSet::new(), under_way: None });
                self.step = Step::CatchUp;
            }
            Step::CatchUp => self.catch_up(world)?,
            Step::Write => {
                self.write(world)?;
                // Much is to change between what is decided and what is written.
                if world.faulty() && world.random.once_in(6) {
                    return Ok(world.random.between(MILLI, SECOND));
                }
            }
            Step::LookAfter => {
                let settled = self.look_after(world)?;
                let idle = settled && !std::mem::take(&mut self.notified);
                self.step = if idle { Step::Sleep } else { Step::Turn };
                if idle {
                    return Ok(world.tick);
                }
            }
            Step::Sleep => {
                self.notified = false;
                self.step = Step::Turn;
            }
        }
        Ok(world.pace())
    }

    /// Whether a question to the database gets there and its answer back.
    fn reach(&self, world: &mut World) -> Result<(), Failure> {
        let lost = world.faulty() && world.random.once_in(200);
        if world.now < self.cut_until || lost { Err(Failure::Database) } else { Ok(()) }
    }

    fn stand(&mut self, world: &mut World) -> Result<Micros, Failure> {
        self.connection = self.connection.filter(|connection| world.db.open.contains(connection));
        self.reach(world)?;
        let connection = *self.connection.get_or_insert_with(|| world.connect());
        if world.db.try_lock(connection) {
            self.step = Step::Raise;
            return Ok(world.pace());
        }
        Ok(SECOND)
    }

    fn raise(&mut self, world: &mut World) -> Result<Micros, Failure> {
        if self.connection.is_none() || world.db.holder != self.connection {
            self.step = Step::Stand;
            return Ok(SECOND);
        }
        let Some(epoch) = world.db.raise_epoch() else { return Ok(100 * MILLI) };
        self.term = Some(Term { epoch, since: world.timestamp() });
        self.step = Step::Turn;
        world.say(|| format!("  leads with epoch {epoch}"));
        world.notice();
        Ok(world.pace())
    }

    fn catch_up(&mut self, world: &mut World) -> Result<(), Failure> {
        self.reach(world)?;
        let now = self.tick.now.expect("a tick has begun");
        let board = self.board.as_mut().expect("it was read");
        let mut also = std::mem::take(&mut board.doubted);
        also.extend(board.recorder.planner().silent(now).into_iter().map(Noted::Worker));
        // What a plan is changing is told when it has.
        let changing = board.under_way.as_ref().map(Applying::concerned).unwrap_or_default();
        let (mut changes, moment, later) = world.db.changes(&board.moment, also, &changing);
        if world.faulty() && world.random.once_in(4) {
            // What is told twice is known.
            changes.extend(changes.clone());
        }
        changes.into_iter().for_each(|change| board.recorder.tell(change));
        (board.moment, board.doubted) = (moment, later);
        let (decisions, page) = board.recorder.plan(now, world.most);
        let applying = Applying { decisions, page, now, at: 0, alone: None, refused: Vec::new() };
        self.tick.next = applying.page.is_some().then_some(applying);
        world.plans += 1;
        self.step = Step::Write;
        Ok(())
    }

    /// Writes some of the plan that is under way, all of it before the next begins.
    fn write(&mut self, world: &mut World) -> Result<(), Failure> {
        let board = self.board.as_mut().expect("it was read");
        if let Some(applying) = board.under_way.take_if(|applying| applying.is_done()) {
            for decision in applying.refused.iter().map(|place| &applying.decisions[*place]) {
                board.recorder.refused(decision);
                concerned(decision, &mut board.doubted);
            }
        }
        match &board.under_way {
            None if !self.tick.begun => {
                self.tick.begun = true;
                board.under_way = self.tick.next.take();
                let decisions = board.under_way.as_ref().map_or(&[][..], |applying| &applying.decisions);
                let made = decisions.iter().any(|d| matches!(d, Decision::CreateWorkloads { .. }));
                self.tick.whole = made || board.recorder.planner().is_settled();
                Ok(())
            }
            Some(applying) if !self.tick.begun || self.tick.whole || world.random.once_in(2) => {
                if applying.page.is_some() { self.keep(world) } else { self.apply(world) }
            }
            _ => {
                self.step = Step::LookAfter;
                Ok(())
            }
        }
    }

    fn applying(&mut self) -> &mut Applying {
        let board = self.board.as_mut().expect("it was read");
        board.under_way.as_mut().expect("a plan is under way")
    }

    /// Begins a transaction, or returns the one that was begun, to be ended now.
    fn begun(&mut self, world: &mut World) -> Result<Option<Tx>, Failure> {
        self.reach(world)?;
        if let Some(tx) = self.tx.take() {
            return Ok(Some(tx));
        }
        self.stumble(world);
        let epoch = self.term.expect("it leads").epoch;
        self.tx = Some(world.db.fence(epoch).map_err(|_| Failure::NotLeader)?);
        Ok(None)
    }

    /// Now and then it is paused between what it decided and what it writes, or in
    /// the midst of that, and somebody else leads when it wakes.
    fn stumble(&mut self, world: &mut World) {
        if !world.faulty() || !world.random.once_in(50) {
            return;
        }
        let wait = world.random.between(SECOND, 25 * SECOND);
        world.say(|| format!("  a scheduler of epoch {:?} is paused for {} s", self.term, wait / SECOND));
        self.paused_until = world.now + wait;
        if let Some(connection) = self.connection
            && world.random.once_in(2)
        {
            world.later(0, 2 * SECOND, Event::Close(connection));
        }
    }

    /// After a transaction has ended: what it wrote is of the present term; and
    /// the answer may be lost.
    fn ended(&self, world: &mut World, tx: Tx) -> Result<(), Failure> {
        assert_eq!(tx.epoch, world.db.epoch, "a former leader wrote");
        world.notice();
        self.reach(world)
    }

    fn keep(&mut self, world: &mut World) -> Result<(), Failure> {
        let Some(tx) = self.begun(world)? else { return Ok(()) };
        let page = self.applying().page.take().expect("a page is to be kept");
        if world.db.keep(tx, &page).is_err() {
            return Err(Failure::Database);
        }
        self.ended(world, tx)
    }

    fn apply(&mut self, world: &mut World) -> Result<(), Failure> {
        let Some(tx) = self.begun(world)? else { return Ok(()) };
        let applying = self.applying();
        let end = (applying.at + world.batch).min(applying.decisions.len());
        let from = applying.alone.unwrap_or(applying.at);
        let some = if applying.alone.is_some() { from..from + 1 } else { from..end };
        let decisions = &applying.decisions[some];
        let done = world.db.apply(tx, decisions, applying.now);
        match done {
            Ok(()) => {
                for decision in decisions {
                    world.say(|| format!("  epoch {}: {decision:?}", tx.epoch));
                    world.applied += 1;
                }
            }
            Err(refused) => {
                world.say(|| format!("  {refused:?}: {decisions:?}"));
                if decisions.len() > 1 {
                    applying.alone = Some(from);
                    return Ok(());
                }
                applying.refused.push(from);
                world.refused += 1;
            }
        }
        applying.alone = applying.alone.map(|alone| alone + 1).filter(|alone| *alone < end);
        if applying.alone.is_none() {
            applying.at = end;
        }
        if done.is_ok() { self.ended(world, tx) } else { Ok(()) }
    }

    /// Whether nothing is left to decide.
    fn look_after(&mut self, world: &mut World) -> Result<bool, Failure> {
        let board = self.board.as_mut().expect("it was read");
        let term = self.term.expect("it leads");
        if world.random.once_in(4) {
            let tx = world.db.fence(term.epoch).map_err(|_| Failure::NotLeader)?;
            world.db.feed.prune(&board.moment);
            world.db.roll_back(tx);
        }
        if board.under_way.is_none() && world.random.once_in(4) {
            let doubted = std::mem::take(&mut board.doubted);
            let (changes, moment, _) = world.db.changes(&board.moment, doubted, &BTreeSet::new());
            changes.into_iter().for_each(|change| board.recorder.tell(change));
            board.moment = moment;
            let (snapshot, _) = world.db.snapshot(term.since);
            let facts = board.recorder.planner().facts();
            if !facts.agrees(&snapshot) {
                // Another may lead, and have forgotten what this one had not read.
                let tx = world.db.fence(term.epoch).map_err(|_| Failure::NotLeader)?;
                world.db.roll_back(tx);
                panic!("it knows {facts:#?}\nbut there is {snapshot:#?}");
            }
            // Not while all comes to rest: it would forget what keeps it from that.
            if world.faulty() && world.random.once_in(8) {
                board.recorder.begin_anew(snapshot);
            }
        }
        Ok(board.is_settled())
    }
}
