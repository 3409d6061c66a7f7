//! A worker's process: what it holds by production's rules, and the loops of
//! `worker/src/sync.rs` and `worker/src/link.rs` as events.

use std::collections::BTreeMap;
use std::time::Instant;

use domain::workers::{
    Action, Actual, Contact, DesiredState, Held, ObservedState, Phase, PlacementReport, REPORT_INTERVAL_SECS,
    reconcile,
};
use domain::{PlacementId, WorkerId};

use super::database::Joining;
use super::network::{Answer, Request};
use super::{Event, MILLI, Micros, SECOND, World};

const REPORT_TIMEOUT: Micros = 4 * SECOND;
const JOIN_TIMEOUT: Micros = 10 * SECOND;
const DESIRED_TIMEOUT: Micros = 30 * SECOND;
const REPORT_GAP: Micros = 50 * MILLI;
const DESIRED_GAP: Micros = 20 * MILLI;
const RETRY_LEAST: Micros = 250 * MILLI;
const RETRY_MOST: Micros = 5 * SECOND;

/// What a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    Join,
    /// With the ticket of the next report.
    Report(u64),
    Poll,
    /// A request got no answer.
    Timeout(u64),
    /// An engine is ready, or failed.
    Engine(PlacementId, i64),
    /// What was drained has finished.
    Idle(PlacementId, i64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: i64,
    phase: Phase,
    state: ObservedState,
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    sent: Instant,
    /// How often contact had been lost then.
    losses: u64,
}

pub struct Process {
    pub joined: Option<(WorkerId, u64)>,
    contact: Contact,
    actual: Actual,
    entries: BTreeMap<PlacementId, Entry>,
    join: Option<Asked>,
    report: Option<Asked>,
    poll: Option<Asked>,
    after: Option<String>,
    failing: bool,
    /// Something changed since the report that is under way.
    changed: bool,
    ticket: u64,
    numbers: u64,
}

/// A machine on which one process of a worker runs at a time.
pub struct Node {
    pub joining: Joining,
    /// Counts its processes.
    pub number: u64,
    pub process: Option<Process>,
    pub paused_until: Micros,
    /// Until when it cannot reach the API.
    pub cut_until: Micros,
}

impl Process {
    pub fn new(now: Instant) -> Self {
        Self {
            joined: None,
            contact: Contact::new(now),
            actual: Actual::default(),
            entries: BTreeMap::new(),
            join: None,
            report: None,
            poll: None,
            after: None,
            failing: false,
            changed: false,
            ticket: 0,
            numbers: 0,
        }
    }

    /// Placements for which it would begin to answer now.
    pub fn serves(&self, now: Instant) -> impl Iterator<Item = (PlacementId, i64)> {
        let may = self.contact.may_serve(now);
        let ready =
            move |entry: &Entry| may && entry.phase == Phase::Running && entry.state == ObservedState::Ready;
        self.entries.iter().filter(move |(_, entry)| ready(entry)).map(|(id, entry)| (*id, entry.generation))
    }

    /// Everything that it says it holds.
    pub fn holds(&self) -> impl Iterator<Item = PlacementId> {
        self.entries.keys().copied()
    }
}

/// A process and where it runs, while it handles an event.
pub struct Turn<'a> {
    pub world: &'a mut World,
    pub node: usize,
    pub number: u64,
    pub process: &'a mut Process,
}

impl Turn<'_> {
    fn after(&mut self, wait: Micros, timer: Timer) {
        let event = Event::Worker(self.node, self.number, timer);
        self.world.after(wait, event);
    }

    fn ask(&mut self, request: Request, timeout: Micros) -> Option<Asked> {
        self.process.numbers += 1;
        let number = self.process.numbers;
        let credential = self.process.joined.map(|(_, credential)| credential);
        self.world.send(self.node, self.number, number, credential, request);
        self.after(timeout, Timer::Timeout(number));
        Some(Asked { number, sent: self.world.instant(), losses: self.process.contact.losses() })
    }

    fn retry(&mut self, timer: Timer) {
        let wait = self.world.random.between(RETRY_LEAST, RETRY_MOST);
        self.after(wait, timer);
    }

    fn report_in(&mut self, wait: Micros) {
        self.process.ticket += 1;
        self.process.changed = false;
        self.after(wait, Timer::Report(self.process.ticket));
    }

    /// There is something new to report. A failed report is not repeated at once.
    fn change(&mut self) {
        if self.process.report.is_some() || self.process.failing {
            self.process.changed = true;
        } else {
            self.report_in(REPORT_GAP);
        }
    }

    pub fn on(&mut self, timer: Timer) {
        match timer {
            Timer::Join if self.process.joined.is_none() && self.process.join.is_none() => {
                let joining = self.world.nodes[self.node].joining.clone();
                self.process.join = self.ask(Request::Join(joining), JOIN_TIMEOUT);
            }
            Timer::Report(ticket) if ticket == self.process.ticket && self.process.joined.is_some() => {
                let of = |(id, entry): (&PlacementId, &Entry)| PlacementReport {
                    placement_id: *id,
                    generation: entry.generation,
                    state: entry.state,
                    detail: None,
                    failures: 0,
                    load: None,
                };
                let reports = self.process.entries.iter().map(of).collect();
                self.process.report = self.ask(Request::Report(reports), REPORT_TIMEOUT);
            }
            Timer::Poll if self.process.joined.is_some() && self.process.poll.is_none() => {
                let after = self.process.after.clone();
                self.process.poll = self.ask(Request::Desired(after), DESIRED_TIMEOUT);
            }
            Timer::Timeout(number) => self.timed_out(number),
            Timer::Engine(id, generation) => self.engine(id, generation),
            Timer::Idle(id, generation) => {
                if let Some(entry) = self.process.entries.get_mut(&id)
                    && entry.generation == generation
                    && entry.phase == Phase::Draining
                {
                    (entry.phase, entry.state) = (Phase::Ended, ObservedState::Ended);
                    self.change();
                }
            }
            Timer::Join | Timer::Report(_) | Timer::Poll => {}
        }
    }

    fn timed_out(&mut self, number: u64) {
        let is = |asked: Option<Asked>| asked.is_some_and(|asked| asked.number == number);
        if is(self.process.join) {
            self.process.join = None;
            self.retry(Timer::Join);
        } else if is(self.process.report) {
            self.process.report = None;
            self.process.failing = true;
            self.report_in(SECOND);
        } else if is(self.process.poll) {
            self.process.poll = None;
            self.retry(Timer::Poll);
        }
    }

    fn engine(&mut self, id: PlacementId, generation: i64) {
        let fails = self.world.faulty() && self.world.random.once_in(8);
        let Some(entry) = self.process.entries.get_mut(&id) else { return };
        if entry.generation != generation || entry.phase == Phase::Ended {
            return;
        }
        entry.state = if fails { ObservedState::Failing } else { ObservedState::Ready };
        self.change();
        // Now and then a ready one fails too, and is restarted.
        if fails || self.world.faulty() && self.world.random.once_in(4) {
            let wait = self.world.random.between(SECOND, 10 * SECOND);
            self.after(wait, Timer::Engine(id, generation));
        }
    }

    /// An answer to the request of that number, made with that credential.
    pub fn hear(&mut self, number: u64, credential: Option<u64>, answer: Answer) {
        let asked = |slot: &mut Option<Asked>| slot.take_if(|asked| asked.number == number);
        match answer {
            Answer::Joined(worker, credential) => {
                let Some(asked) = asked(&mut self.process.join) else { return };
                // The API may have been set up anew: what it said binds no more.
                self.process.actual = Actual::default();
                self.process.joined = Some((worker, credential));
                (self.process.report, self.process.failing) = (None, false);
                self.process.contact.reported(asked.sent, self.world.instant());
                self.poll_anew();
                self.report_in(REPORT_GAP);
            }
            Answer::Reported => {
                let Some(asked) = asked(&mut self.process.report) else { return };
                let losses = self.process.contact.losses();
                self.process.contact.reported(asked.sent, self.world.instant());
                if self.process.contact.losses() != losses {
                    self.poll_anew();
                }
                let news = std::mem::take(&mut self.process.failing) | self.process.changed;
                self.report_in(if news { REPORT_GAP } else { REPORT_INTERVAL_SECS * SECOND });
            }
            Answer::Desired(desired) => {
                let Some(asked) = asked(&mut self.process.poll) else { return };
                if self.follow(&desired) {
                    self.process.contact.heard(asked.losses);
                }
                self.process.after = Some(desired.revision);
                self.after(DESIRED_GAP, Timer::Poll);
            }
            Answer::Unknown if self.process.joined.map(|(_, now)| now) == credential => {
                self.process.joined = None;
                (self.process.report, self.process.poll, self.process.after) = (None, None, None);
                self.after(RETRY_LEAST, Timer::Join);
            }
            Answer::Unknown => {}
        }
    }

    fn poll_anew(&mut self) {
        (self.process.poll, self.process.after) = (None, None);
        self.after(0, Timer::Poll);
    }

    /// Says whether the desired state was of a current epoch.
    fn follow(&mut self, desired: &DesiredState) -> bool {
        let held = |(id, e): (&PlacementId, &Entry)| (*id, Held { generation: e.generation, phase: e.phase });
        self.process.actual.held = self.process.entries.iter().map(held).collect();
        let current = desired.epoch >= self.process.actual.epoch;
        let actions = reconcile(&self.process.actual, desired);
        self.process.actual.epoch = self.process.actual.epoch.max(desired.epoch);
        if !actions.is_empty() {
            self.change();
        }
        for action in actions {
            let entries = &mut self.process.entries;
            match action {
                Action::Start(placement) => {
                    let (id, generation) = (placement.placement_id, placement.generation);
                    let entry = Entry { generation, phase: Phase::Running, state: ObservedState::Starting };
                    entries.insert(id, entry);
                    let wait = self.world.random.between(100 * MILLI, 6 * SECOND);
                    self.after(wait, Timer::Engine(id, generation));
                }
                Action::SayEnded(placement) => {
                    let (phase, state) = (Phase::Ended, ObservedState::Ended);
                    let entry = Entry { generation: placement.generation, phase, state };
                    entries.insert(placement.placement_id, entry);
                }
                Action::Drain(id) => {
                    let entry = entries.get_mut(&id).expect("it is held");
                    entry.phase = Phase::Draining;
                    let generation = entry.generation;
                    let wait = self.world.random.between(0, 8 * SECOND);
                    self.after(wait, Timer::Idle(id, generation));
                }
                Action::Stop(id) | Action::Forget(id) => {
                    if let Some(entry) = entries.remove(&id) {
                        self.process.actual.gone.remember(id, entry.generation);
                    }
                }
            }
        }
        current
    }
}
