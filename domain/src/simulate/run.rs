//! The simulation itself: what happens, in order, and what the planner makes of
//! it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::measures::{Measures, Standing};
use super::outcome::Outcome;
use super::scenario::{Happening, Of, Scenario, id, number};
use super::{Job, MAX_WORK, Micros, SECOND};
use crate::accelerators::Device;
use crate::planner::{Change, Decision, Hold, Intent, Overtaken, Planner, Snapshot};
use crate::workers::Worker;
use crate::workloads::WorkloadOwner;
use crate::{DeviceId, JobId, PlacementId, ProjectId, Timestamp, VersionId, WorkerId, WorkloadId};

const START: Timestamp = Timestamp::UNIX_EPOCH;
/// Decisions of one plan, as in production.
const MOST: usize = 1024;
/// Plans in one moment. Each decides something, so that as many are a defect.
const MAX_PLANS: usize = 20_000;
/// When nothing happens any more, the scheduler looks once more after this.
const TICK: Micros = SECOND;
/// Workers of a description report all the time: they were heard after the end.
const REPORTED: Duration = Duration::from_secs(2 * super::MAX_SECS);

/// Why a simulation cannot go on: each is a defect of the planner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// It decided what cannot be.
    #[error("at {0} s the planner decided what cannot be: report this with the files: {1}")]
    Overtaken(u64, Overtaken),
    /// It goes on deciding.
    #[error("at {0} s the planner did not settle: report this with the files")]
    Unsettled(u64),
    /// More work than is simulated.
    #[error("the trace has more than {MAX_WORK} pieces of work: split it")]
    TooMuch,
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Virtual time, in seconds since the beginning.
    pub secs: u64,
    /// Pieces of work that ended.
    pub finished: usize,
    /// Pieces of work of the trace.
    pub of: usize,
}

/// Where a piece of work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    ToCome,
    Waits,
    Runs,
    /// Was made to leave, and has not left.
    Leaves,
    Finished,
}

/// A piece of work.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Its place in the trace.
    pub job: usize,
    pub stage: Stage,
    /// Counts how often it was placed.
    run: u32,
    /// Since when it is at this stage.
    since: Micros,
    /// How long it waited before.
    waited: Micros,
    placement: Option<PlacementId>,
}

/// In the order in which what is of one moment happens. Arrivals come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Work has run its time.
    Ends { piece: usize, run: u32 },
    /// Work that was made to leave is broken off.
    Leaves { piece: usize, run: u32 },
    /// The next of the timeline.
    Happens(usize),
}

/// A trace that is played on a fleet.
pub struct Simulation<'a> {
    scenario: &'a Scenario,
    jobs: &'a [Job],
    /// By arrival.
    pieces: Vec<Piece>,
    /// The first that is to come.
    next: usize,
    agenda: BinaryHeap<Reverse<(Micros, Event)>>,
    world: Snapshot,
    planner: Planner,
    measures: Measures,
    tenant_of: Vec<usize>,
    versions: Vec<VersionId>,
    /// Devices of each worker: the first, and how many.
    devices: Vec<(usize, usize)>,
    now: Micros,
    until: Option<Micros>,
    placements: usize,
    finished: usize,
    ticked: bool,
    stopped: bool,
}

impl<'a> Simulation<'a> {
    /// At the beginning. Ends when nothing happens any more, or `until` then.
    pub fn new(
        scenario: &'a Scenario,
        jobs: &'a [Job],
        until: Option<Duration>,
    ) -> Result<Self, SimulationError> {
        let mut world = Snapshot::empty(START);
        world.fair_sharing = scenario.fair_sharing;
        world.tenants = scenario.tenants.iter().map(|tenant| (tenant.id, tenant.bounds.clone())).collect();
        let (classes, weights) = (classes(scenario, jobs), scenario.tenants.iter().map(|t| t.weight_milli));
        let mut measures = Measures::new(&classes, &weights.collect::<Vec<_>>(), jobs);
        let mut devices = Vec::new();
        let mut known = 0;
        for machine in &scenario.machines {
            for device in &machine.devices {
                let class = classes.binary_search(&device.class).expect("every class is listed");
                measures.device(class, device.milli, device.memory_bytes);
            }
            devices.push((known, machine.devices.len()));
            known += machine.devices.len();
        }
        let numbers: BTreeMap<_, _> = (scenario.tenants.iter().map(|tenant| &tenant.name)).zip(0..).collect();
        let mut models = BTreeMap::new();
        for job in jobs {
            let next = models.len();
            if let Some(model) = &job.model {
                models.entry(model).or_insert(next);
            }
        }
        // Work without a model has one of its own.
        let version = |(ix, job): (usize, &Job)| {
            let of = job.model.as_ref().map_or(models.len() + ix, |model| models[model]);
            VersionId(id(Of::Version, of))
        };
        let agenda =
            (0..scenario.timeline.len()).map(|ix| Reverse((scenario.timeline[ix].0, Event::Happens(ix))));
        Ok(Self {
            scenario,
            jobs,
            pieces: pieces(jobs)?,
            next: 0,
            agenda: agenda.collect(),
            planner: Planner::new(world.clone()),
            world,
            measures,
            tenant_of: jobs.iter().map(|job| numbers[&job.tenant]).collect(),
            versions: jobs.iter().enumerate().map(version).collect(),
            devices,
            now: 0,
            until: until.map(|until| Micros::try_from(until.as_micros()).unwrap_or(Micros::MAX)),
            placements: 0,
            finished: 0,
            ticked: false,
            stopped: false,
        })
    }

    /// Goes to the next moment in which something happens; nothing at the end.
    pub fn step(&mut self) -> Result<Option<Progress>, SimulationError> {
        // What was to happen to work that is elsewhere by now takes no time.
        while self.agenda.peek().is_some_and(|Reverse((_, event))| self.is_stale(*event)) {
            self.agenda.pop();
        }
        let event = self.agenda.peek().map(|Reverse((at, _))| *at);
        let arrival = self.pieces.get(self.next).map(|piece| self.jobs[piece.job].arrival_us);
        let Some(at) = event.into_iter().chain(arrival).min() else { return self.tick() };
        if let Some(until) = self.until.filter(|until| at > *until) {
            self.stopped = true;
            self.go_to(until.max(self.now));
            return Ok(None);
        }
        self.go_to(at);
        self.ticked = false;
        while let Some(Reverse((due, event))) = self.agenda.peek().copied()
            && due == at
        {
            self.agenda.pop();
            match event {
                Event::Ends { piece, run } => self.end(piece, run),
                Event::Leaves { piece, run } => self.leave(piece, run),
                Event::Happens(ix) => self.happen(ix),
            }
        }
        while self.pieces.get(self.next).is_some_and(|piece| self.jobs[piece.job].arrival_us == at) {
            self.arrive(self.next);
            self.next += 1;
        }
        self.settle()?;
        self.measures.conclude();
        Ok(Some(self.progress()))
    }

    /// What came of it, so far. What still waits or runs is counted as it stands.
    pub fn outcome(mut self, name: &str) -> Outcome {
        self.measures.finish();
        for piece in &self.pieces {
            let now = match piece.stage {
                Stage::ToCome => continue,
                Stage::Waits => piece.waited + (self.now - piece.since),
                Stage::Runs | Stage::Leaves | Stage::Finished => piece.waited,
            };
            self.measures.tenants[self.tenant_of[piece.job]].waits.push(now);
        }
        let reason = |piece: usize| {
            let workload = self.world.workloads.get(&WorkloadId(id(Of::Work, piece)));
            workload.and_then(|workload| workload.reason.clone())
        };
        Outcome::new(
            name,
            self.scenario,
            self.jobs,
            &self.pieces,
            &self.measures,
            self.now,
            self.stopped,
            reason,
        )
    }

    /// What there is now.
    pub fn facts(&self) -> &Snapshot {
        &self.world
    }

    fn progress(&self) -> Progress {
        Progress { secs: self.now / SECOND, finished: self.finished, of: self.pieces.len() }
    }

    /// Nothing happens by itself any more: a last look, in case that helps.
    fn tick(&mut self) -> Result<Option<Progress>, SimulationError> {
        if std::mem::replace(&mut self.ticked, true) || self.finished == self.pieces.len() {
            return Ok(None);
        }
        let now = self.now;
        self.now += TICK;
        self.settle()?;
        self.now = now;
        Ok((!self.agenda.is_empty()).then(|| self.progress()))
    }

    fn go_to(&mut self, at: Micros) {
        self.now = at;
        self.measures.advance(at);
    }

    fn moment(&self) -> Timestamp {
        START + Duration::from_micros(self.now)
    }

    fn tell(&mut self, change: Change) {
        self.planner.tell(change);
    }

    fn arrive(&mut self, piece: usize) {
        let ix = self.pieces[piece].job;
        let job = &self.jobs[ix];
        let tenant = self.tenant_of[ix];
        let tenant_id = self.scenario.tenants[tenant].id;
        let project = job.project.as_ref().and_then(|p| self.scenario.projects.get(&(tenant_id, p.clone())));
        let intent = Intent {
            tenant_id,
            project_id: project.copied().unwrap_or(ProjectId(id(Of::Project, 0))),
            priority: job.priority,
            version_id: self.versions[ix],
            resources: job.request.clone(),
            count: 1,
            floor: 1,
        };
        self.world.intents.insert(owner(piece), intent.clone());
        self.tell(Change::Intent(owner(piece), Some(intent)));
        self.measures.tenants[tenant].arrived += 1;
        self.waits(piece);
    }

    fn waits(&mut self, piece: usize) {
        let tenant = self.tenant_of[self.pieces[piece].job];
        let piece = &mut self.pieces[piece];
        (piece.stage, piece.since, piece.placement) = (Stage::Waits, self.now, None);
        self.measures.waits(tenant, true);
    }

    fn starts(&mut self, ix: usize, placement: PlacementId, holds: &[Hold]) {
        let piece = &mut self.pieces[ix];
        let (job, tenant) = (&self.jobs[piece.job], self.tenant_of[piece.job]);
        piece.waited += self.now - piece.since;
        piece.run += 1;
        (piece.stage, piece.since, piece.placement) = (Stage::Runs, self.now, Some(placement));
        self.agenda.push(Reverse((self.now + job.duration_us, Event::Ends { piece: ix, run: piece.run })));
        self.measures.waits(tenant, false);
        for hold in holds {
            self.measures.hold(tenant, number(hold.device_id.0), hold.milli, hold.memory_bytes, true);
        }
    }

    /// Its devices are free.
    fn gives_back(&mut self, ix: usize, holds: &[Hold]) {
        let tenant = self.tenant_of[self.pieces[ix].job];
        for hold in holds {
            self.measures.hold(tenant, number(hold.device_id.0), hold.milli, hold.memory_bytes, false);
        }
    }

    fn is_at(&self, ix: usize, run: u32, stages: &[Stage]) -> Option<PlacementId> {
        let piece = &self.pieces[ix];
        piece.placement.filter(|_| piece.run == run && stages.contains(&piece.stage))
    }

    fn is_stale(&self, event: Event) -> bool {
        match event {
            Event::Ends { piece, run } => self.is_at(piece, run, &[Stage::Runs, Stage::Leaves]).is_none(),
            Event::Leaves { piece, run } => self.is_at(piece, run, &[Stage::Leaves]).is_none(),
            Event::Happens(_) => false,
        }
    }

    /// Work has run its time, maybe after it was told to leave.
    fn end(&mut self, ix: usize, run: u32) {
        let Some(placement) = self.is_at(ix, run, &[Stage::Runs, Stage::Leaves]) else { return };
        let workload = WorkloadId(id(Of::Work, ix));
        self.world.intents.remove(&owner(ix));
        self.world.workloads.remove(&workload);
        self.frees(ix, placement);
        self.tell(Change::Intent(owner(ix), None));
        self.tell(Change::Workload(workload, None));
        let piece = &mut self.pieces[ix];
        (piece.stage, piece.since, piece.placement) = (Stage::Finished, self.now, None);
        self.finished += 1;
        self.measures.tenants[self.tenant_of[self.pieces[ix].job]].finished += 1;
    }

    /// Work that was told to leave is broken off.
    fn leave(&mut self, ix: usize, run: u32) {
        let Some(placement) = self.is_at(ix, run, &[Stage::Leaves]) else { return };
        self.wasted(placement);
        self.frees(ix, placement);
        self.waits(ix);
    }

    fn wasted(&mut self, placement: PlacementId) {
        let Some(placement) = self.world.placements.get(&placement) else { return };
        let ran = self.moment().since(placement.since).as_micros();
        let milli: u32 = placement.holds.iter().map(|hold| hold.milli).sum();
        self.measures.wasted += ran * u128::from(milli);
    }

    fn frees(&mut self, ix: usize, placement: PlacementId) {
        let holds = self.world.placements.get(&placement).map(|p| p.holds.clone()).unwrap_or_default();
        let changes = self.world.end_placement(placement);
        changes.into_iter().for_each(|change| self.tell(change));
        self.gives_back(ix, &holds);
    }

    fn happen(&mut self, ix: usize) {
        let scenario = self.scenario;
        match &scenario.timeline[ix].1 {
            Happening::Quotas(nodes) => {
                self.world.quotas.clone_from(nodes);
                self.tell(Change::Quotas(nodes.clone()));
            }
            Happening::Joins(machine) => {
                let worker = self.worker(*machine);
                self.world.workers.insert(worker.id, worker.clone());
                let standing = if worker.cordoned { Standing::Cordoned } else { Standing::Open };
                self.stands(*machine, standing);
                self.tell(Change::Worker(worker.id, Some(worker)));
            }
            Happening::Cordoned(machine) => self.alter(*machine, Standing::Cordoned),
            Happening::Gone(machine) => self.alter(*machine, Standing::Gone),
        }
    }

    fn alter(&mut self, machine: usize, standing: Standing) {
        let Some(worker) = self.world.workers.get_mut(&WorkerId(id(Of::Worker, machine))) else { return };
        worker.cordoned = true;
        worker.live &= standing != Standing::Gone;
        let (worker, live) = (worker.clone(), worker.live);
        self.stands(machine, if live { standing } else { Standing::Gone });
        self.tell(Change::Worker(worker.id, Some(worker)));
    }

    fn stands(&mut self, machine: usize, standing: Standing) {
        let (first, count) = self.devices[machine];
        (first..first + count).for_each(|device| self.measures.stands(device, standing));
    }

    fn worker(&self, ix: usize) -> Worker {
        let machine = &self.scenario.machines[ix];
        let worker_id = WorkerId(id(Of::Worker, ix));
        let (first, _) = self.devices[ix];
        let devices = machine.devices.iter().zip(first..).map(|(device, n)| Device {
            id: DeviceId(id(Of::Device, n)),
            worker_id,
            ordinal: device.ordinal,
            class: device.class.clone(),
            memory_bytes: device.memory_bytes,
            milli: device.milli,
            available_memory_bytes: None,
            used_memory_bytes: 0,
            used_milli: 0,
        });
        Worker {
            id: worker_id,
            name: machine.name.clone(),
            pool: machine.pool.clone(),
            dedicated: machine.dedicated,
            zone: machine.zone.clone(),
            address: String::new(),
            clearance: machine.clearance,
            cordoned: machine.cordoned,
            live: true,
            devices: devices.collect(),
            seen_at: START + REPORTED,
            revision: 1,
            created_at: START,
        }
    }

    /// Plans and makes true until nothing is left to decide.
    fn settle(&mut self) -> Result<(), SimulationError> {
        for _ in 0..MAX_PLANS {
            let decisions = self.planner.plan(self.moment(), MOST);
            if decisions.is_empty() && self.planner.is_settled() {
                return Ok(());
            }
            let mut changes = Vec::new();
            for decision in &decisions {
                changes.extend(self.make_true(decision)?);
            }
            changes.into_iter().for_each(|change| self.tell(change));
        }
        Err(SimulationError::Unsettled(self.now / SECOND))
    }

    fn make_true(&mut self, decision: &Decision) -> Result<Vec<Change>, SimulationError> {
        // What is ended is known only before.
        if let Decision::EndPlacement { placement, .. } = decision {
            self.lost(*placement);
        }
        let next = match decision {
            Decision::CreateWorkloads { owner: WorkloadOwner::Job(job), .. } => id(Of::Work, number(job.0)),
            _ => {
                self.placements += 1;
                id(Of::Placement, self.placements)
            }
        };
        let now = self.moment();
        let made = self.world.apply(decision, now, &mut || next);
        let changes = made.map_err(|e| SimulationError::Overtaken(self.now / SECOND, e))?;
        match decision {
            Decision::Place { workload, holds, .. } => {
                self.starts(number(workload.0), PlacementId(next), holds);
            }
            Decision::Evict { placement, rule, .. } => {
                let ix = number(self.world.placements[placement].workload_id.0);
                let piece = &mut self.pieces[ix];
                piece.stage = Stage::Leaves;
                let leaves = Event::Leaves { piece: ix, run: piece.run };
                self.agenda.push(Reverse((self.now + self.scenario.drain_us, leaves)));
                self.measures.preempted(self.tenant_of[self.pieces[ix].job], *rule);
            }
            _ => {}
        }
        Ok(changes)
    }

    /// A placement ends with its worker.
    fn lost(&mut self, placement: PlacementId) {
        let Some(ended) = self.world.placements.get(&placement) else { return };
        let (ix, holds) = (number(ended.workload_id.0), ended.holds.clone());
        self.measures.lost += 1;
        self.wasted(placement);
        self.gives_back(ix, &holds);
        self.waits(ix);
    }
}

/// Who owns a piece of work: each is a job of its own.
fn owner(piece: usize) -> WorkloadOwner {
    WorkloadOwner::Job(JobId(id(Of::Work, piece)))
}

/// Every class of devices or work, sorted.
fn classes(scenario: &Scenario, jobs: &[Job]) -> Vec<String> {
    let devices =
        scenario.machines.iter().flat_map(|machine| &machine.devices).map(|device| device.class.as_str());
    let mut classes: Vec<String> =
        devices.chain(jobs.iter().flat_map(|job| job.request.classes())).map(str::to_owned).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// Every piece of work, by arrival and then as in the trace.
fn pieces(jobs: &[Job]) -> Result<Vec<Piece>, SimulationError> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|ix| jobs[*ix].arrival_us);
    let mut pieces = Vec::new();
    for job in order {
        let piece = Piece { job, stage: Stage::ToCome, run: 0, since: 0, waited: 0, placement: None };
        let count = jobs[job].count as usize;
        if pieces.len() + count > MAX_WORK {
            return Err(SimulationError::TooMuch);
        }
        pieces.extend(std::iter::repeat_n(piece, count));
    }
    Ok(pieces)
}
