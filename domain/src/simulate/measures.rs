//! What is measured while a simulation runs, kept up with each change.

use std::collections::BTreeMap;

use super::series::{Gauge, Series};
use super::{Job, Micros};
use crate::quotas::Rule;

/// Requests that are usual are those that make up this much of a class's work…
const USUAL_PCT: u64 = 95;
/// … but no more kinds than this.
const MOST_KINDS: usize = 64;
/// Shares are counted in this part of a class.
const SHARE_UNIT: u64 = 100_000_000;
/// What the fairness index is counted in.
pub(super) const INDEX_UNIT: u64 = 1_000_000;

/// Where a device stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not there, or gone.
    #[default]
    Gone,
    /// Takes nothing new.
    Cordoned,
    /// Takes work.
    Open,
}

#[derive(Clone, Debug)]
struct Device {
    class: usize,
    milli: u64,
    free_milli: u64,
    free_memory: u64,
    standing: Standing,
}

/// A kind of request that is usual.
#[derive(Clone, Debug)]
struct Kind {
    milli: u64,
    memory: u64,
    weight: u64,
}

/// A class of devices.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub name: String,
    kinds: Vec<Kind>,
    /// Of its usual kinds together.
    pub weight: u64,
    /// Thousandths that can be used: of devices that are there; of those that are
    /// cordoned what is used.
    pub capacity: Gauge,
    /// Thousandths that are used.
    pub used: Gauge,
    /// Free thousandths that each usual kind cannot use, times its weight.
    pub fragments: Gauge,
}

/// A tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenant {
    weight_milli: u32,
    /// Thousandths held, by class.
    held: Vec<u64>,
    /// How much of its work waits.
    waiting: u64,
    /// Its share by weight, while something of it waits.
    share: Option<u64>,
    /// Times of waiting that are over, in microseconds.
    pub waits: Vec<Micros>,
    /// Thousandths held, of all classes, over time.
    pub used: Gauge,
    pub evicted: u64,
    pub finished: u64,
    pub arrived: u64,
}

/// Figures and series of a simulation.
#[derive(Clone, Debug, Default)]
pub(super) struct Measures {
    now: Micros,
    pub classes: Vec<Class>,
    pub tenants: Vec<Tenant>,
    devices: Vec<Device>,
    /// Pieces of work that wait.
    pub queue: Gauge,
    /// The fairness index while it means something, else 0.
    pub index: Gauge,
    /// 1 while it does.
    pub rivalry: Gauge,
    /// Of those that wait: how many, their shares, and the squares of those.
    rivals: (u64, u128, u128),
    capacity_changed: bool,
    pub preemptions: BTreeMap<&'static str, u64>,
    pub preempted: Series,
    /// Placements that ended with their worker.
    pub lost: u64,
    /// Thousandths times microseconds of work that was begun in vain.
    pub wasted: u128,
}

impl Measures {
    pub fn new(classes: &[String], weights: &[u32], jobs: &[Job]) -> Self {
        let class = |name: &String| {
            let kinds = usual_kinds(name, jobs);
            let weight = kinds.iter().map(|kind| kind.weight).sum();
            Class { name: name.clone(), kinds, weight, ..Class::default() }
        };
        let tenant = |weight_milli: &u32| Tenant {
            weight_milli: *weight_milli,
            held: vec![0; classes.len()],
            ..Tenant::default()
        };
        Self {
            classes: classes.iter().map(class).collect(),
            tenants: weights.iter().map(tenant).collect(),
            ..Self::default()
        }
    }

    /// Adds a device, which is not there yet.
    pub fn device(&mut self, class: usize, milli: u32, memory: u64) {
        let milli = milli.into();
        let standing = Standing::Gone;
        self.devices.push(Device { class, milli, free_milli: milli, free_memory: memory, standing });
    }

    /// Time went by.
    pub fn advance(&mut self, now: Micros) {
        self.now = now;
    }

    pub fn stands(&mut self, device: usize, standing: Standing) {
        self.change(device, |device| device.standing = standing);
    }

    /// A tenant takes something of a device, or gives it back.
    pub fn hold(&mut self, tenant: usize, device: usize, milli: u32, memory: u64, take: bool) {
        let milli = u64::from(milli);
        self.change(device, |device| {
            if take {
                device.free_milli = device.free_milli.saturating_sub(milli);
                device.free_memory = device.free_memory.saturating_sub(memory);
            } else {
                device.free_milli += milli;
                device.free_memory += memory;
            }
        });
        let class = self.devices[device].class;
        let held = &mut self.tenants[tenant].held[class];
        *held = if take { *held + milli } else { held.saturating_sub(milli) };
        let all = self.tenants[tenant].held.iter().sum();
        self.tenants[tenant].used.set(self.now, all);
        self.judge(tenant);
    }

    /// Something of a tenant waits, or does so no more.
    pub fn waits(&mut self, tenant: usize, begins: bool) {
        let waiting = &mut self.tenants[tenant].waiting;
        let all = self.queue.value;
        let all = if begins {
            *waiting += 1;
            all + 1
        } else {
            *waiting = waiting.saturating_sub(1);
            all.saturating_sub(1)
        };
        self.queue.set(self.now, all);
        self.judge(tenant);
    }

    pub fn preempted(&mut self, tenant: usize, rule: Rule) {
        *self.preemptions.entry(rule.as_str()).or_default() += 1;
        self.preempted.count(self.now, 1);
        self.tenants[tenant].evicted += 1;
    }

    /// What changed at this moment is taken together.
    pub fn conclude(&mut self) {
        if std::mem::take(&mut self.capacity_changed) {
            (0..self.tenants.len()).for_each(|tenant| self.judge(tenant));
        }
        let (n, sum, squares) = self.rivals;
        let index = match n {
            0 | 1 => None,
            // Nobody has anything: all are alike.
            _ if squares == 0 => Some(INDEX_UNIT),
            _ => {
                let index = sum * sum * u128::from(INDEX_UNIT) / (u128::from(n) * squares);
                Some(u64::try_from(index).unwrap_or(INDEX_UNIT).min(INDEX_UNIT))
            }
        };
        self.index.set(self.now, index.unwrap_or(0));
        self.rivalry.set(self.now, index.is_some().into());
    }

    /// Counts the time until the end.
    pub fn finish(&mut self) {
        let now = self.now;
        for class in &mut self.classes {
            for gauge in [&mut class.capacity, &mut class.used, &mut class.fragments] {
                gauge.catch_up(now);
            }
        }
        self.tenants.iter_mut().for_each(|tenant| tenant.used.catch_up(now));
        for gauge in [&mut self.queue, &mut self.index, &mut self.rivalry] {
            gauge.catch_up(now);
        }
    }

    fn change(&mut self, device: usize, change: impl FnOnce(&mut Device)) {
        let class = self.devices[device].class;
        let before = self.classes[class].parts(&self.devices[device]);
        change(&mut self.devices[device]);
        let class = &mut self.classes[class];
        let after = class.parts(&self.devices[device]);
        let gauges = [&mut class.capacity, &mut class.used, &mut class.fragments];
        for ((gauge, before), after) in gauges.into_iter().zip(before).zip(after) {
            gauge.set(self.now, gauge.value + after - before);
        }
        self.capacity_changed |= before[0] != after[0];
    }

    /// Finds out a tenant's share anew.
    fn judge(&mut self, tenant: usize) {
        let known = &mut self.tenants[tenant];
        let share = (known.waiting > 0 && known.weight_milli > 0).then(|| {
            let of = |(held, class): (&u64, &Class)| held * SHARE_UNIT / class.capacity.value.max(1);
            let dominant = known.held.iter().zip(&self.classes).map(of).max().unwrap_or(0);
            dominant * 1000 / u64::from(known.weight_milli)
        });
        let (n, sum, squares) = &mut self.rivals;
        if let Some(old) = std::mem::replace(&mut known.share, share) {
            (*n, *sum, *squares) = (*n - 1, *sum - u128::from(old), *squares - square(old));
        }
        if let Some(new) = share {
            (*n, *sum, *squares) = (*n + 1, *sum + u128::from(new), *squares + square(new));
        }
    }
}

fn square(n: u64) -> u128 {
    u128::from(n) * u128::from(n)
}

impl Class {
    /// What a device adds to capacity, use and fragments.
    fn parts(&self, device: &Device) -> [u64; 3] {
        let used = device.milli - device.free_milli.min(device.milli);
        match device.standing {
            Standing::Gone => [0; 3],
            Standing::Cordoned => [used, used, 0],
            Standing::Open => {
                let of_no_use =
                    |kind: &&Kind| device.free_milli < kind.milli || device.free_memory < kind.memory;
                let weight: u64 = self.kinds.iter().filter(of_no_use).map(|kind| kind.weight).sum();
                [device.milli, used, weight * device.free_milli]
            }
        }
    }
}

/// The most frequent kinds of requests for a class.
fn usual_kinds(class: &str, jobs: &[Job]) -> Vec<Kind> {
    let mut counts: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.request.option(class).is_some()) {
        *counts.entry((job.request.milli, job.request.memory_bytes)).or_default() += u64::from(job.count);
    }
    let all: u64 = counts.values().sum();
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    let mut covered = 0;
    let mut kinds = Vec::new();
    for ((milli, memory), weight) in sorted {
        if kinds.len() == MOST_KINDS || covered * 100 >= all * USUAL_PCT {
            break;
        }
        covered += weight;
        kinds.push(Kind { milli: milli.into(), memory, weight });
    }
    kinds
}
