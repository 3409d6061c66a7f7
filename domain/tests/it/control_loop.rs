//! The whole control loop in virtual time: schedulers that lead, pause, die and
//! wake up as nobody's leader; workers that fall silent and come back; a network
//! that loses, delays and repeats; tenants that change their minds. A seed makes
//! a schedule of all that, and the same seed makes the same.
//!
//! What decides is production's: the planner with its record, what a decision
//! makes true, what a worker holds and when it may serve. What is I/O there is
//! played here, with what its SQL checks. Clocks of different machines agree.

mod checks;
mod database;
mod faults;
mod feed;
mod ledger;
mod network;
mod random;
mod scheduler;
mod soak;
mod tenants;
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::Timestamp;
use domain::accelerators::DeviceReport;

use checks::Seen;
use database::{Connection, Database, Joining, Tx};
use feed::Xid;
use network::{Answer, Call, Poll};
use random::Random;
use scheduler::Scheduler;
use tenants::{Wish, ZONES};
use worker::{Node, Timer};

/// Virtual time since the beginning, in microseconds.
type Micros = u64;
const MILLI: Micros = 1000;
const SECOND: Micros = 1000 * MILLI;
/// How long things may break.
const TROUBLE: [Micros; 2] = [15 * SECOND, 45 * SECOND];
/// How long it may take then until all has come to rest.
const REST: Micros = 120 * SECOND;
/// Most events of a schedule.
const MOST_EVENTS: u64 = 200_000;

/// What happens at a moment.
enum Event {
    /// The next step of a scheduler, if its ticket is still this.
    Scheduler(usize, u64),
    StartScheduler(usize),
    /// The server ends a connection, or a transaction, that nobody answers for.
    Close(Connection),
    RollBack(Tx),
    /// A timer of a process of a worker.
    Worker(usize, u64, Timer),
    StartWorker(usize),
    ToApi(Box<Call>),
    /// The answer to a request of a process, made with a credential.
    ToWorker(usize, u64, u64, Box<(Option<u64>, Answer)>),
    /// The API looks at a request that it holds.
    Look(u64),
    Wish,
    Commit(Xid, Box<Wish>),
    Break,
    Calm,
    /// Has all come to rest?
    Rest,
}

/// Everything that there is in a schedule.
struct World {
    now: Micros,
    /// The same moment for monotonic clocks and for others.
    began: Instant,
    queue: BTreeMap<(Micros, u64), Event>,
    queued: u64,
    random: Random,
    db: Database,
    schedulers: Vec<Scheduler>,
    nodes: Vec<Node>,
    polls: BTreeMap<u64, Poll>,
    polled: u64,
    credentials: u64,
    connections: u64,
    /// How much a plan admits, and how much is applied at once.
    most: u32,
    batch: usize,
    /// Between two looks of a scheduler that is not woken.
    tick: Micros,
    /// Nothing breaks any more.
    calm: bool,
    rested: bool,
    seen: Seen,
    told: bool,
    plans: u64,
    applied: u64,
    refused: u64,
}

impl World {
    fn new(seed: u64, told: bool) -> Self {
        let mut random = Random(seed);
        let mut db = Database::new();
        db.facts.fair_sharing = random.once_in(2);
        db.set_up_quotas();
        let nodes = (0..random.between(2, 4)).map(|n| node(n, &mut random)).collect();
        let schedulers = (0..random.between(2, 3)).map(|_| Scheduler::default()).collect();
        let mut world = Self {
            now: 0,
            began: Instant::now(),
            queue: BTreeMap::new(),
            queued: 0,
            db,
            schedulers,
            nodes,
            polls: BTreeMap::new(),
            polled: 0,
            credentials: 0,
            connections: 0,
            most: random.few(1, 6),
            batch: random.index(4) + 1,
            tick: random.between(1, 3) * SECOND,
            calm: false,
            rested: false,
            seen: Seen::default(),
            told,
            plans: 0,
            applied: 0,
            refused: 0,
            random,
        };
        (0..world.schedulers.len()).for_each(|at| world.start_scheduler(at));
        (0..world.nodes.len()).for_each(|at| world.start_worker(at));
        world.later(SECOND, 3 * SECOND, Event::Wish);
        world.later(2 * SECOND, 8 * SECOND, Event::Break);
        world.later(TROUBLE[0], TROUBLE[1], Event::Calm);
        world
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_micros(self.now)
    }

    /// The same by the clock of a process.
    fn instant(&self) -> Instant {
        self.began + Duration::from_micros(self.now)
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    fn after(&mut self, wait: Micros, event: Event) {
        self.at(self.now + wait, event);
    }

    fn later(&mut self, least: Micros, most: Micros, event: Event) {
        let wait = self.random.between(least, most.max(least));
        self.after(wait, event);
    }

    fn faulty(&self) -> bool {
        !self.calm
    }

    /// How long a step of a scheduler takes.
    fn pace(&mut self) -> Micros {
        let slow = self.faulty() && self.random.once_in(16);
        self.random.between(MILLI, if slow { 2 * SECOND } else { 10 * MILLI })
    }

    fn connect(&mut self) -> Connection {
        self.connections += 1;
        self.db.open.insert(self.connections);
        self.connections
    }

    /// The next step of a scheduler is taken after a time, whatever was planned.
    fn wake(&mut self, at: usize, wait: Micros) {
        self.schedulers[at].ticket += 1;
        self.after(wait, Event::Scheduler(at, self.schedulers[at].ticket));
    }

    fn say(&self, line: impl FnOnce() -> String) {
        if self.told {
            println!("{:>12.6} {}", Duration::from_micros(self.now).as_secs_f64(), line());
        }
    }

    fn step_scheduler(&mut self, at: usize, ticket: u64) {
        let scheduler = &self.schedulers[at];
        if !scheduler.up || scheduler.ticket != ticket {
            return;
        }
        if scheduler.paused_until > self.now {
            return self.at(scheduler.paused_until, Event::Scheduler(at, ticket));
        }
        let mut scheduler = std::mem::take(&mut self.schedulers[at]);
        let wait = scheduler.advance(self);
        let woken = scheduler.stood_in(&self.schedulers[at]);
        self.schedulers[at] = scheduler;
        self.wake(at, if woken { MILLI } else { wait });
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Scheduler(at, ticket) => self.step_scheduler(at, ticket),
            Event::StartScheduler(at) => self.start_scheduler(at),
            Event::Close(connection) => self.db.close(connection),
            Event::RollBack(tx) => self.db.roll_back(tx),
            Event::Worker(at, ..) | Event::ToWorker(at, ..) if self.nodes[at].paused_until > self.now => {
                self.at(self.nodes[at].paused_until, event);
            }
            Event::Worker(at, number, timer) => self.deliver(at, number, |turn| turn.on(timer)),
            Event::ToWorker(at, process, number, answer) => {
                let (credential, answer) = *answer;
                self.deliver(at, process, |turn| turn.hear(number, credential, answer));
            }
            Event::StartWorker(at) => self.start_worker(at),
            Event::ToApi(call) => self.arrive(*call),
            Event::Look(poll) => self.look(poll),
            Event::Commit(xid, wish) => self.commit_wish(xid, *wish),
            Event::Wish if self.faulty() => {
                self.wish();
                self.later(100 * MILLI, 3 * SECOND, Event::Wish);
            }
            Event::Break if self.faulty() => {
                self.break_something();
                self.later(SECOND, 6 * SECOND, Event::Break);
            }
            Event::Wish | Event::Break => {}
            Event::Calm => {
                self.calm_down();
                self.after(10 * SECOND, Event::Rest);
            }
            Event::Rest => match self.unrest() {
                None => self.rested = true,
                Some(unrest) => {
                    assert!(self.now < TROUBLE[1] + REST, "no rest: {unrest}");
                    self.after(3 * SECOND, Event::Rest);
                }
            },
        }
    }
}

fn node(n: u64, random: &mut Random) -> Node {
    let device = |ordinal, random: &mut Random| DeviceReport {
        ordinal,
        class: "cpu".to_owned(),
        memory_bytes: random.between(2, 8) << 30,
        milli: 1000 * random.few(1, 3),
    };
    let zone = ZONES[random.index(ZONES.len())];
    let devices = (0..random.few(1, 2)).map(|ordinal| device(ordinal, random)).collect();
    let joining = Joining { name: format!("node-{n}"), zone, devices };
    Node { joining, number: 0, process: None, paused_until: 0, cut_until: 0 }
}

/// What a schedule was.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    events: u64,
    plans: u64,
    applied: u64,
    refused: u64,
    epochs: u64,
    unreclaimed: u64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.plans += other.plans;
        self.applied += other.applied;
        self.refused += other.refused;
        self.epochs += other.epochs;
        self.unreclaimed += other.unreclaimed;
    }
}

/// Runs the schedule of a seed; panics where something does not hold.
fn run(seed: u64, told: bool) -> Figures {
    let mut world = World::new(seed, told);
    let mut events = 0;
    while !world.rested {
        let ((now, _), event) = world.queue.pop_first().expect("something always comes");
        world.now = now;
        world.happen(event);
        world.check();
        events += 1;
        assert!(events < MOST_EVENTS, "too much happens");
    }
    world.check_record();
    Figures {
        events,
        plans: world.plans,
        applied: world.applied,
        refused: world.refused,
        epochs: world.db.epoch.unsigned_abs(),
        unreclaimed: world.unreclaimed(),
    }
}
