//! The workers, what is free on them, and the choice among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::groups::Groups;
use super::prices::{MAX_SIZES, PLACE_UNITS, Prices, Supply};
use super::score::{self, Worth};
use super::shapes::{self, Best, Context, Pricing, Shape, Shapes};
use super::state::{Realm, State, sorted, takes_pairs};
use super::{
    Ask, Choice, Considered, Demand, Device, Hold, MAX_DEVICES, MAX_PREFERRED, Needs, PlacingError,
    Preferences, Score, Weights, Worker,
};
use crate::WorkerId;

/// Arrivals before the first prices are renewed.
const FIRST_PRICES: u64 = 16;
/// Prices are renewed when a fifth of what is known is new.
const RENEW_SHARE: u64 = 5;
/// New prices put everything in order anew. So many places may be judged for
/// that for each arrival, so that a decision costs no more in a large fleet.
const JUDGED_PER_ARRIVAL: u64 = 64;
/// Prices are renewed when an eighth of the devices came or went.
const SUPPLY_SHARE: u64 = 8;

struct Entry {
    worker: Worker,
    realm: u32,
    domain: Arc<str>,
    group: u32,
}

/// Workers and what is free on them, what arrives, and the prices of both.
///
/// Time per decision is that of the changes since the last request of the same
/// kind, each logarithmic in the number of groups of like workers.
pub struct Fleet {
    weights: Weights,
    workers: BTreeMap<WorkerId, Entry>,
    realms: Vec<Realm>,
    groups: Groups,
    shapes: Shapes,
    demand: Demand,
    supply: Supply,
    pricing: Pricing,
    prices: Prices,
    /// What is free in each market, and the places of each size.
    markets: Vec<(u64, [u64; MAX_SIZES])>,
    stale: bool,
    arrived: u64,
    /// Devices that came or went since the last prices.
    moved: u64,
}

impl Fleet {
    /// An empty fleet, and what is known of the requests to come.
    pub fn new(weights: Weights, demand: Demand) -> Self {
        Self {
            weights,
            workers: BTreeMap::new(),
            realms: Vec::new(),
            groups: Groups::default(),
            shapes: Shapes::default(),
            demand,
            supply: Supply::default(),
            pricing: Pricing { version: 0, tables: Vec::new(), places: Vec::new() },
            prices: Prices::default(),
            markets: Vec::new(),
            stale: true,
            arrived: 0,
            moved: 0,
        }
    }

    /// Adds a worker, or replaces what is known of it: a worker is believed
    /// over what was counted here.
    pub fn put(&mut self, id: WorkerId, worker: Worker) -> Result<(), PlacingError> {
        let plausible = worker.devices.len() <= MAX_DEVICES
            && worker.free_cpu_milli <= worker.cpu_milli
            && worker.free_host_memory_bytes <= worker.host_memory_bytes
            && worker.devices.iter().all(is_plausible);
        if !plausible {
            return Err(PlacingError::Implausible(id));
        }
        self.remove(id);
        self.supply.add(&worker.class, &worker.devices);
        self.moved += worker.devices.len() as u64;
        self.stale |= self.prices.table(&worker.class).is_none();
        let realm = self.realm(&worker);
        let domain: Arc<str> = worker.domain.as_str().into();
        let group = self.groups.join(State::of(&worker, realm), &self.realms[realm as usize], &domain, id);
        self.account(group, true);
        self.workers.insert(id, Entry { worker, realm, domain, group });
        Ok(())
    }

    /// Takes a worker out, with all that is on it. Whether it was there.
    pub fn remove(&mut self, id: WorkerId) -> bool {
        let Some(entry) = self.workers.remove(&id) else { return false };
        self.groups.leave(entry.group, &entry.domain, id);
        self.account(entry.group, false);
        self.supply.remove(&entry.worker.class, &entry.worker.devices);
        self.moved += entry.worker.devices.len() as u64;
        true
    }

    /// Whether a worker takes something new.
    pub fn cordon(&mut self, id: WorkerId, cordoned: bool) -> Result<(), PlacingError> {
        self.change(id, |worker| worker.cordoned = cordoned)
    }

    /// Believes a worker about its devices, whatever was counted here.
    pub fn correct(&mut self, id: WorkerId, devices: Vec<Device>) -> Result<(), PlacingError> {
        let entry = self.workers.get(&id).ok_or(PlacingError::UnknownWorker(id))?;
        let known = &entry.worker.devices;
        let same = |(old, new): (&Device, &Device)| {
            (old.milli, old.memory_bytes) == (new.milli, new.memory_bytes) && is_plausible(new)
        };
        if known.len() != devices.len() || !known.iter().zip(&devices).all(same) {
            return Err(PlacingError::Implausible(id));
        }
        self.change(id, |worker| worker.devices = devices)
    }

    /// Learns that a request which was placed is over.
    pub fn end(&mut self, needs: &Needs) {
        self.demand.end(needs);
    }

    /// A worker and what is free on it now.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id).map(|entry| &entry.worker)
    }

    /// Every worker, by identifier.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, entry)| (*id, &entry.worker))
    }

    /// What it knows of the requests to come.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Learns that such a request arrived.
    pub fn observe(&mut self, needs: &Needs) {
        self.demand.observe(needs);
        self.arrived += 1;
        let due = FIRST_PRICES.max(self.demand.arrivals() / RENEW_SHARE);
        let affordable = (self.groups.count_alive() * self.shapes.len()) as u64 / JUDGED_PER_ARRIVAL;
        self.stale |= self.arrived >= due.max(affordable);
    }

    /// The best place for a request, or what stands against each worker. Takes
    /// nothing yet.
    pub fn choose(&mut self, ask: &Ask, preferences: &Preferences) -> Result<Choice, Considered> {
        self.renew();
        self.price_places();
        let mut context = Context {
            groups: &mut self.groups,
            realms: &self.realms,
            pricing: &self.pricing,
            weights: &self.weights,
        };
        let shape = self.shapes.of(ask, &mut context);
        let considered = shape.considered();
        let best = shape.best(context.groups, context.pricing).ok_or(considered)?;
        let found = if preferences.is_empty() {
            first_member(context.groups, best.group).map(|id| (id, best))
        } else {
            preferred(ask, shape, &mut context, &self.workers, preferences)
        };
        let (id, best) = found.ok_or(considered)?;
        let entry = self.workers.get(&id).ok_or(considered)?;
        let state = Arc::clone(&self.groups.get(best.group).state);
        let chosen = score::chosen(&ask.needs, &state, best.device);
        let score = self.scored(&ask.needs, &state, &chosen);
        let devices = ordinals(&entry.worker, &state, &chosen);
        Ok(Choice { hold: Hold { worker: id, devices }, score, considered })
    }

    /// What it would cost to put a request on these devices, where it fits:
    /// to explain why another place was taken.
    pub fn score(&mut self, needs: &Needs, hold: &Hold) -> Option<Score> {
        self.renew();
        self.price_places();
        let entry = self.workers.get(&hold.worker)?;
        let state = State::of(&entry.worker, entry.realm);
        let mut chosen = Vec::new();
        for ordinal in &hold.devices {
            let device = entry.worker.devices.get(*ordinal as usize)?;
            let fits = device.free_milli >= needs.milli && device.free_memory_bytes >= needs.memory_bytes;
            let index = state.devices.iter().position(|d| d == device).filter(|_| fits)?;
            chosen.push((index..).find(|index| !chosen.contains(index))?);
        }
        let apt = chosen.len() == needs.devices as usize && is_paired(&entry.worker, needs, hold);
        if !apt || state.rejects(needs).is_some() {
            return None;
        }
        Some(self.scored(needs, &state, &chosen))
    }

    /// All parts of a score at the prices of now.
    fn scored(&self, needs: &Needs, state: &State, chosen: &[usize]) -> Score {
        let table = &self.pricing.tables[state.realm as usize];
        let worth = Worth::of(state, table);
        let (mut score, lost) = score::score(&self.weights, table, needs, state, &worth, chosen);
        let steps = self.pricing.steps(table.market, lost);
        score.step += steps;
        #[expect(clippy::cast_precision_loss, reason = "some thousand steps")]
        let groups = steps as f64 * self.weights.indifference;
        score.groups = groups;
        score.cost += groups;
        score
    }

    /// Takes what a request needs from these devices, wholly or, on an error,
    /// not at all.
    pub fn place(&mut self, needs: &Needs, hold: &Hold) -> Result<(), PlacingError> {
        let worker = self.held(needs, hold)?;
        if !is_paired(worker, needs, hold) {
            return Err(PlacingError::Unpaired(hold.worker));
        }
        let room = worker.free_cpu_milli >= needs.cpu_milli
            && worker.free_host_memory_bytes >= needs.host_memory_bytes
            && devices(worker, hold).all(|device| {
                device.free_milli >= needs.milli && device.free_memory_bytes >= needs.memory_bytes
            });
        if !room {
            return Err(PlacingError::Full(hold.worker));
        }
        self.change(hold.worker, |worker| {
            worker.free_cpu_milli -= needs.cpu_milli;
            worker.free_host_memory_bytes -= needs.host_memory_bytes;
            for ordinal in &hold.devices {
                let device = &mut worker.devices[*ordinal as usize];
                *device = score::taken(*device, needs);
            }
        })
    }

    /// Gives back what [`Fleet::place`] took, wholly or, on an error, not at all.
    pub fn release(&mut self, needs: &Needs, hold: &Hold) -> Result<(), PlacingError> {
        let worker = self.held(needs, hold)?;
        let taken = worker.cpu_milli - worker.free_cpu_milli >= needs.cpu_milli
            && worker.host_memory_bytes - worker.free_host_memory_bytes >= needs.host_memory_bytes
            && devices(worker, hold).all(|device| {
                device.milli - device.free_milli >= needs.milli
                    && device.memory_bytes - device.free_memory_bytes >= needs.memory_bytes
            });
        if !taken {
            return Err(PlacingError::NotHeld(hold.worker));
        }
        self.demand.end(needs);
        self.change(hold.worker, |worker| {
            worker.free_cpu_milli += needs.cpu_milli;
            worker.free_host_memory_bytes += needs.host_memory_bytes;
            for ordinal in &hold.devices {
                let device = &mut worker.devices[*ordinal as usize];
                device.free_milli += needs.milli;
                device.free_memory_bytes += needs.memory_bytes;
            }
        })
    }

    /// The worker of a hold that names as many of its devices as are needed.
    fn held(&self, needs: &Needs, hold: &Hold) -> Result<&Worker, PlacingError> {
        let worker = hold.worker;
        let entry = self.workers.get(&worker).ok_or(PlacingError::UnknownWorker(worker))?;
        if hold.devices.len() != needs.devices as usize {
            return Err(PlacingError::NotHeld(worker));
        }
        for (position, &ordinal) in hold.devices.iter().enumerate() {
            let known = (ordinal as usize) < entry.worker.devices.len();
            if !known || hold.devices[..position].contains(&ordinal) {
                return Err(PlacingError::UnknownDevice { worker, ordinal });
            }
        }
        Ok(&entry.worker)
    }

    fn change(&mut self, id: WorkerId, act: impl FnOnce(&mut Worker)) -> Result<(), PlacingError> {
        let entry = self.workers.get_mut(&id).ok_or(PlacingError::UnknownWorker(id))?;
        act(&mut entry.worker);
        self.groups.leave(entry.group, &entry.domain, id);
        let left = entry.group;
        let realm = &self.realms[entry.realm as usize];
        let joined = self.groups.join(State::of(&entry.worker, entry.realm), realm, &entry.domain, id);
        entry.group = joined;
        self.account(left, false);
        self.account(joined, true);
        if self.groups.is_sparse() {
            let renamed = self.groups.compact();
            for entry in self.workers.values_mut() {
                entry.group = renamed[&entry.group];
            }
        }
        Ok(())
    }

    fn realm(&mut self, worker: &Worker) -> u32 {
        let (class, zone, pool) = (worker.class.clone(), worker.zone.clone(), worker.pool.clone());
        let realm = Realm { class, zone, pool, clearance: worker.clearance };
        let found = self.realms.iter().position(|known| *known == realm).unwrap_or_else(|| {
            let table = self.prices.table(&realm.class).cloned().unwrap_or_default();
            self.pricing.tables.push(Arc::new(table));
            self.realms.push(realm);
            self.realms.len() - 1
        });
        u32::try_from(found).expect("realms are at most as many as workers")
    }

    /// Prices again if enough is new.
    fn renew(&mut self) {
        if !self.stale && self.moved * SUPPLY_SHARE <= self.supply.devices() {
            return;
        }
        (self.stale, self.arrived, self.moved) = (false, 0, 0);
        let prices = Prices::of(&self.demand, &self.supply);
        if self.pricing.version > 0 && prices.is_close_to(&self.prices) {
            self.prices.follow(prices);
        } else {
            let table = |realm: &Realm| Arc::new(prices.table(&realm.class).cloned().unwrap_or_default());
            self.pricing.version += 1;
            self.pricing.tables = self.realms.iter().map(table).collect();
            self.prices = prices;
        }
        self.markets = vec![(0, [0; MAX_SIZES]); self.prices.markets().len()];
        for group in self.groups.alive().collect::<Vec<_>>() {
            for _ in 0..self.groups.get(group).count {
                self.account(group, true);
            }
        }
    }

    /// Adds what a worker of this group has free to its market, or takes it away.
    fn account(&mut self, group: u32, joined: bool) {
        let state = &self.groups.get(group).state;
        // Until there are prices there is no market.
        if state.cordoned || self.stale {
            return;
        }
        let table = &self.pricing.tables[state.realm as usize];
        let Some((free, places)) = self.markets.get_mut(table.market) else { return };
        let worth = self.groups.worth(group, self.pricing.version, table);
        let change = |sum: &mut u64, by: u64| *sum = if joined { *sum + by } else { *sum - by };
        change(free, worth.free_milli);
        for (sum, by) in places.iter_mut().zip(worth.places) {
            change(sum, u64::from(by));
        }
    }

    /// What the next lost place of each size costs.
    fn price_places(&mut self) {
        self.pricing.places.clear();
        let turnover = self.demand.turnover();
        for (market, (free_milli, places)) in self.prices.markets().iter().zip(&self.markets) {
            let horizon = market.horizon_milli(*free_milli, turnover);
            let mut prices = [0; MAX_SIZES];
            for ((price, size), places) in prices.iter_mut().zip(&market.sizes).zip(places) {
                let worth = size.worth_of_place(*places, horizon);
                *price = score::steps(&self.weights, worth / PLACE_UNITS);
            }
            self.pricing.places.push(prices);
        }
    }
}

/// The worker that serves most, of those that a preference looks at.
fn preferred(
    ask: &Ask,
    shape: &Shape,
    context: &mut Context<'_>,
    workers: &BTreeMap<WorkerId, Entry>,
    preferences: &Preferences,
) -> Option<(WorkerId, Best)> {
    let siblings = |domain: &str| preferences.siblings.get(domain).copied().unwrap_or(0);
    let mut best = None;
    let mut offer = |rank, place: Best| {
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, place));
        }
    };
    for lane in shape.lanes(context.pricing) {
        let mut looked = 0;
        'lane: for (step, key, place) in lane {
            for (domain, members) in &context.groups.get(place.group).members {
                let sound = members.iter().find(|id| !preferences.failed.contains(id));
                let Some(id) = sound.or(members.first()) else { continue };
                let (failed, siblings) = (sound.is_none(), siblings(domain));
                offer((failed, siblings, step, key, *id), place);
                looked += 1;
                // What follows in this lane costs no less.
                if (!failed && siblings == 0) || looked >= MAX_PREFERRED {
                    break 'lane;
                }
            }
        }
    }
    let credit = score::steps(context.weights, context.weights.warm);
    for id in preferences.warm.iter().take(MAX_PREFERRED) {
        let Some(entry) = workers.get(id) else { continue };
        if let Some((step, key, place)) = shapes::best_in(ask, entry.group, context) {
            let failed = preferences.failed.contains(id);
            offer((failed, siblings(&entry.domain), step - credit, key, *id), place);
        }
    }
    best.map(|((.., id), place)| (id, place))
}

fn is_plausible(device: &Device) -> bool {
    device.free_milli <= device.milli && device.free_memory_bytes <= device.memory_bytes
}

fn first_member(groups: &Groups, group: u32) -> Option<WorkerId> {
    groups.get(group).members.values().next()?.first().copied()
}

/// The first devices that are as chosen from the state, each once, ascending.
fn ordinals(worker: &Worker, state: &State, chosen: &[usize]) -> Vec<u32> {
    // Neighbours are chosen together and one after the other.
    let size = if state.pairs { 2 } else { 1 };
    let mut found: Vec<u32> = Vec::new();
    for wanted in chosen.chunks(size) {
        let wanted: Vec<Device> = wanted.iter().map(|&index| state.devices[index]).collect();
        let mut places = (0u32..).step_by(size).zip(worker.devices.chunks(size));
        let free = places.find(|(first, devices)| !found.contains(first) && sorted(devices) == wanted);
        found.extend(free.into_iter().flat_map(|(first, devices)| (first..).take(devices.len())));
    }
    found.sort_unstable();
    found
}

/// Whether a hold takes devices as the worker gives them.
fn is_paired(worker: &Worker, needs: &Needs, hold: &Hold) -> bool {
    // Neighbours differ in the last bit.
    let both = || hold.devices.iter().all(|ordinal| hold.devices.contains(&(ordinal ^ 1)));
    !worker.pairs || takes_pairs(needs) && both()
}

fn devices(worker: &Worker, hold: &Hold) -> impl Iterator<Item = Device> {
    hold.devices.iter().map(|ordinal| worker.devices[*ordinal as usize])
}
