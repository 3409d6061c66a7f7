//! What is worth how much, by accelerator class, from what arrives and what
//! there is. Values are in devices of the class.

use std::collections::BTreeMap;

use super::cutting::{self, PARTS};
use super::{Demand, Device, Needs};
use crate::accelerators::WHOLE_MILLI;

/// Thousandths of one part of a device.
const PART_MILLI: u64 = WHOLE_MILLI as u64 / PARTS as u64;

/// Devices that there are, by accelerator class and size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    classes: BTreeMap<String, BTreeMap<(u32, u64), u64>>,
}

impl Supply {
    /// Adds devices of a class, also one that has none.
    pub fn add(&mut self, class: &str, devices: &[Device]) {
        let sizes = self.classes.entry(class.to_owned()).or_default();
        for device in devices {
            *sizes.entry((device.milli, device.memory_bytes)).or_default() += 1;
        }
    }

    /// Takes away what was added.
    pub fn remove(&mut self, class: &str, devices: &[Device]) {
        let Some(sizes) = self.classes.get_mut(class) else { return };
        for device in devices {
            let size = (device.milli, device.memory_bytes);
            if let Some(count) = sizes.get_mut(&size) {
                *count -= 1;
                if *count == 0 {
                    sizes.remove(&size);
                }
            }
        }
    }

    /// Devices in all.
    pub fn devices(&self) -> u64 {
        self.classes.values().flat_map(BTreeMap::values).sum()
    }

    /// Devices of these classes; none named is all.
    fn devices_of(&self, classes: &[String]) -> u64 {
        let wanted = |class: &String| classes.is_empty() || classes.contains(class);
        self.classes.iter().filter(|(class, _)| wanted(class)).flat_map(|(_, sizes)| sizes.values()).sum()
    }
}

/// Most sizes of requests for several devices that places are kept for: the
/// most asked for.
pub(super) const MAX_SIZES: usize = 4;

/// Up to so many expected arrivals their distribution is summed.
const EXACT: f64 = 64.0;
/// In which places that are not quite free are counted.
pub(super) const PLACE_UNITS: f64 = 8.0;
/// Prices in devices that differ by less than this are alike.
const ALIKE: f64 = 0.02;
/// Sizes that are so much alike, relatively, have the same places.
const SIZES_ALIKE: f64 = 0.1;
/// What requests for several devices need beyond so many times the mean is much.
const LARGE: f64 = 1.25;
/// Differences below this are rounding.
pub(super) const ROUNDING: f64 = 1e-9;

/// Prices of every class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    tables: BTreeMap<String, Table>,
    markets: Vec<Market>,
}

/// Classes that some request may be met from alike, and what the requests for
/// several devices take from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Market {
    pub sizes: Vec<Size>,
    /// Thousandths of all its devices.
    capacity_milli: u64,
}

impl Market {
    /// What arrives while places must last: what fills the devices that are
    /// free now, more where what is placed ends again, at most all devices.
    pub fn horizon_milli(&self, free_milli: u64, turnover: f64) -> f64 {
        let free = float(free_milli);
        (free * turnover).min(float(self.capacity_milli)).max(free)
    }
}

/// Requests for so many devices of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size {
    pub devices: u32,
    /// One over them.
    per_device: f64,
    /// One over their mean processor; very large where they need none.
    per_cpu_milli: f64,
    /// The same of host memory.
    per_host_byte: f64,
    /// How many arrive while requests for a thousandth of a device arrive.
    per_milli: f64,
}

impl Size {
    /// In what places are counted by.
    fn is_close_to(&self, other: &Self) -> bool {
        let alike = |a: f64, b: f64| (a / b - 1.0).abs() <= SIZES_ALIKE;
        self.devices == other.devices
            && alike(self.per_cpu_milli, other.per_cpu_milli)
            && alike(self.per_host_byte, other.per_host_byte)
    }

    /// What one more place for them is worth where there are so many, in
    /// devices: it is missed if more of them arrive than there are places for,
    /// while so much else arrives. Arrivals are Poisson.
    pub fn worth_of_place(&self, places: u64, horizon_milli: f64) -> f64 {
        let expected = self.per_milli * horizon_milli;
        if expected > EXACT {
            // The normal distribution, itself approximated to a hundredth.
            let deviations = (float(places) - expected) / expected.sqrt();
            let enough = 1.0 / (1.0 + (-1.702 * deviations).exp());
            return f64::from(self.devices) * (1.0 - enough);
        }
        // Beyond six deviations.
        if float(places) > expected + 6.0 * expected.sqrt() + 6.0 {
            return 0.0;
        }
        let mut term = (-expected).exp();
        let mut fewer = 0.0;
        for n in 0..places.max(1) {
            fewer += term;
            term *= expected / float(n + 1);
        }
        f64::from(self.devices) * (1.0 - fewer).max(0.0)
    }
}

impl Prices {
    /// The prices that this demand makes on this supply. A pure function of
    /// both; costs about a millisecond for each class.
    pub fn of(demand: &Demand, supply: &Supply) -> Self {
        let markets = markets(demand, supply);
        let table = |(class, sizes): (&String, &BTreeMap<(u32, u64), u64>)| {
            // The most common size stands for the class; of equals the largest.
            let common = sizes.iter().max_by_key(|(_, count)| **count).map(|(size, _)| *size);
            let (milli, memory_bytes) = common.unwrap_or((WHOLE_MILLI, 0));
            let device = Device { milli, memory_bytes, ..Device::default() };
            let mut table = Table::of(class, &device, demand, supply);
            table.market =
                markets.iter().position(|(classes, _)| classes.contains(&class.as_str())).unwrap_or(0);
            table.sizes = markets.get(table.market).map_or_else(Vec::new, |(_, market)| market.sizes.clone());
            (class.clone(), table)
        };
        let tables = supply.classes.iter().map(table).collect();
        Self { tables, markets: markets.into_iter().map(|(_, market)| market).collect() }
    }

    /// Whether decisions at the one prices are as good as at the others, so
    /// that nothing needs to be put in order anew.
    pub(super) fn is_close_to(&self, other: &Self) -> bool {
        self.tables.len() == other.tables.len()
            && self
                .tables
                .iter()
                .all(|(class, table)| other.table(class).is_some_and(|other| table.is_close_to(other)))
    }

    /// Takes over from prices that are close what no order depends on.
    pub(super) fn follow(&mut self, prices: Self) {
        self.markets = prices.markets;
    }

    pub(super) fn markets(&self) -> &[Market] {
        &self.markets
    }

    pub(super) fn table(&self, class: &str) -> Option<&Table> {
        self.tables.get(class)
    }
}

/// Prices of one class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    /// Value of a gap of each number of parts.
    gaps: Vec<f64>,
    /// By thousandths of a core for each device of value.
    cpu: Hunger,
    /// By bytes of host memory for each device of value.
    host: Hunger,
    /// Its market, and the sizes that count there.
    pub market: usize,
    sizes: Vec<Size>,
    /// Demand that may use this class, over the devices it may use: 1 where
    /// all demand may use all devices.
    pub scarcity: f64,
}

impl Table {
    fn of(class: &str, device: &Device, demand: &Demand, supply: &Supply) -> Self {
        let accelerated = |needs: &&(&Needs, u64)| needs.0.devices > 0;
        let all: Vec<(&Needs, u64)> = demand.kinds().collect();
        let usable: Vec<(&Needs, u64)> =
            all.iter().filter(accelerated).filter(|(needs, _)| accepts(needs, class)).copied().collect();

        let mut pieces = [0.0; PARTS + 1];
        for (needs, count) in &usable {
            let size = size_milli(needs.milli, needs.memory_bytes, device);
            if size < u64::from(WHOLE_MILLI) {
                pieces[index(size.div_ceil(PART_MILLI))] += float(count * u64::from(needs.devices));
            }
        }
        pieces[0] = 0.0;
        let mut table = Self { gaps: cutting::gap_values(&pieces).to_vec(), ..Self::default() };

        let (mut cpu, mut host) = (Vec::new(), Vec::new());
        for (needs, count) in &usable {
            let value = f64::from(needs.devices)
                * table.worth_of(size_milli(needs.milli, needs.memory_bytes, device));
            if value > 0.0 {
                // The larger a request, the more is lost when it finds no place.
                let weight = float(*count) * value * value;
                cpu.push((float(needs.cpu_milli) / value, weight));
                host.push((float(needs.host_memory_bytes) / value, weight));
            }
        }
        table.cpu = Hunger::of(cpu);
        table.host = Hunger::of(host);

        let asked = |(needs, count): &(&Needs, u64)| {
            float(*count) * f64::from(needs.devices) * f64::from(needs.milli)
        };
        let asked_in_all: f64 = all.iter().map(asked).sum();
        let devices = float(supply.devices());
        for kind in &usable {
            let share = float(supply.devices_of(&kind.0.classes)) / devices;
            if share > 0.0 && asked_in_all > 0.0 {
                table.scarcity += asked(kind) / asked_in_all / share;
            }
        }
        table
    }

    fn is_close_to(&self, other: &Self) -> bool {
        let alike = |(size, other): (&Size, &Size)| size.is_close_to(other);
        self.market == other.market
            && self.sizes.len() == other.sizes.len()
            && self.sizes.iter().zip(&other.sizes).all(alike)
            && self.gaps.iter().zip(&other.gaps).all(|(gap, other)| is_close(*gap, *other))
            && is_close(self.scarcity, other.scarcity)
            && self.cpu.is_close_to(&other.cpu)
            && self.host.is_close_to(&other.host)
    }

    /// What a gap of so many thousandths is worth.
    pub fn worth_of_gap(&self, milli: u64) -> f64 {
        let (whole, rest) = (milli / u64::from(WHOLE_MILLI), milli % u64::from(WHOLE_MILLI));
        float(whole) + self.gaps[index(rest / PART_MILLI)]
    }

    /// What a request of so many thousandths is worth.
    pub fn worth_of(&self, milli: u64) -> f64 {
        let (whole, rest) = (milli / u64::from(WHOLE_MILLI), milli % u64::from(WHOLE_MILLI));
        float(whole) + self.gaps[index(rest.div_ceil(PART_MILLI))]
    }

    /// Value that goes to waste on a worker with so much free: what cannot be
    /// fed, averaged over the kinds of request.
    pub fn stranded(&self, value: f64, cpu_milli: u64, host_bytes: u64) -> f64 {
        self.cpu.unfed(value, float(cpu_milli)).max(self.host.unfed(value, float(host_bytes)))
    }

    /// How many requests of each size a worker of so many devices has places
    /// for, and the same with places that are nearly free, in [`PLACE_UNITS`].
    /// Squared, so that what is nearly free is kept together.
    pub fn places(
        &self,
        devices: usize,
        whole: u32,
        cpu_milli: u64,
        host_bytes: u64,
    ) -> ([u16; MAX_SIZES], [u16; MAX_SIZES]) {
        let (mut places, mut units) = ([0; MAX_SIZES], [0; MAX_SIZES]);
        if whole == 0 {
            return (places, units);
        }
        for ((places, units), size) in places.iter_mut().zip(&mut units).zip(&self.sizes) {
            if devices < size.devices as usize {
                continue;
            }
            // In places of this size, by devices and by what feeds them.
            let free = f64::from(whole) * size.per_device;
            let fed = (float(cpu_milli) * size.per_cpu_milli).min(float(host_bytes) * size.per_host_byte);
            let full = (free.min(fed) + ROUNDING).floor();
            let nearly = (free - full).min(fed - full).clamp(0.0, 1.0);
            *places = small(full);
            *units = small(PLACE_UNITS * (full + nearly * nearly) + ROUNDING);
        }
        (places, units)
    }
}

/// Classes that requests join, and the sizes asked for in each such market.
fn markets<'a>(demand: &Demand, supply: &'a Supply) -> Vec<(Vec<&'a str>, Market)> {
    let mut markets: Vec<Vec<&str>> = supply.classes.keys().map(|class| vec![class.as_str()]).collect();
    for (needs, _) in demand.kinds().filter(|(needs, _)| needs.devices > 0) {
        let (joined, mut apart): (Vec<_>, Vec<_>) =
            markets.into_iter().partition(|classes| classes.iter().any(|class| accepts(needs, class)));
        if !joined.is_empty() {
            apart.push(joined.concat());
        }
        markets = apart;
    }
    let market = |classes: Vec<&'a str>| {
        let mut asked = 0.0;
        let mut kinds: BTreeMap<u32, Vec<(&Needs, u64)>> = BTreeMap::new();
        let meets = |needs: &Needs| classes.iter().any(|class| accepts(needs, class));
        for (needs, count) in demand.kinds().filter(|(needs, _)| needs.devices > 0 && meets(needs)) {
            asked += float(count) * f64::from(needs.devices) * f64::from(needs.milli);
            if needs.devices > 1 {
                kinds.entry(needs.devices).or_default().push((needs, count));
            }
        }
        let mut kinds: Vec<_> = kinds.into_values().flat_map(|kinds| usual_and_large(&kinds)).collect();
        kinds.sort_by_key(|sums| std::cmp::Reverse((sums.arrivals * u64::from(sums.devices), sums.devices)));
        kinds.truncate(MAX_SIZES);
        let size = |sums: Sums| Size {
            devices: sums.devices,
            per_device: 1.0 / f64::from(sums.devices),
            per_cpu_milli: if sums.cpu > 0.0 { float(sums.arrivals) / sums.cpu } else { f64::MAX },
            per_host_byte: if sums.host > 0.0 { float(sums.arrivals) / sums.host } else { f64::MAX },
            per_milli: if asked > 0.0 { float(sums.arrivals) / asked } else { 0.0 },
        };
        let sizes = kinds.into_iter().map(size).collect();
        let capacity_milli = classes
            .iter()
            .filter_map(|class| supply.classes.get(*class))
            .flatten()
            .map(|((milli, _), count)| u64::from(*milli) * count)
            .sum();
        (classes, Market { sizes, capacity_milli })
    };
    markets.into_iter().map(market).collect()
}

/// What requests for so many devices need in all.
#[derive(Clone, Copy, Default)]
struct Sums {
    devices: u32,
    arrivals: u64,
    cpu: f64,
    host: f64,
}

impl Sums {
    fn of<'a>(kinds: impl Iterator<Item = &'a (&'a Needs, u64)>) -> Self {
        let mut sums = Self::default();
        for (needs, count) in kinds {
            sums.devices = needs.devices;
            sums.arrivals += count;
            sums.cpu += float(*count) * float(needs.cpu_milli);
            sums.host += float(*count) * float(needs.host_memory_bytes);
        }
        sums
    }
}

/// Kinds for the same number of devices; those apart that need much more than
/// is usual, which only the largest workers have places for.
fn usual_and_large(kinds: &[(&Needs, u64)]) -> Vec<Sums> {
    let all = Sums::of(kinds.iter());
    let most = |sum: f64| LARGE * sum / float(all.arrivals);
    let (cpu, host) = (most(all.cpu), most(all.host));
    let is_large = |needs: &Needs| float(needs.cpu_milli) > cpu || float(needs.host_memory_bytes) > host;
    let large = Sums::of(kinds.iter().filter(|(needs, _)| is_large(needs)));
    let usual = Sums::of(kinds.iter().filter(|(needs, _)| !is_large(needs)));
    [usual, large].into_iter().filter(|sums| sums.arrivals > 0).collect()
}

/// How much of a resource requests need for each device of value. What free
/// resource cannot feed of a value is `Σ weight · max(0, value − free / ratio)`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Hunger {
    /// Descending.
    ratios: Vec<f64>,
    /// Of the first so many: sum of weights, and of weights over ratios.
    sums: Vec<(f64, f64)>,
}

impl Hunger {
    fn of(mut kinds: Vec<(f64, f64)>) -> Self {
        kinds.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        let total: f64 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut hunger = Self { ratios: Vec::new(), sums: vec![(0.0, 0.0)] };
        let mut sums = (0.0, 0.0);
        for (ratio, weight) in kinds.into_iter().filter(|(ratio, _)| *ratio > 0.0) {
            sums = (sums.0 + weight / total, sums.1 + weight / total / ratio);
            hunger.ratios.push(ratio);
            hunger.sums.push(sums);
        }
        hunger
    }

    /// Compared at what would feed a device for each of the kinds.
    fn is_close_to(&self, other: &Self) -> bool {
        let frees = || self.ratios.iter().chain(&other.ratios);
        frees().all(|free| is_close(self.unfed(1.0, *free), other.unfed(1.0, *free)))
    }

    fn unfed(&self, value: f64, free: f64) -> f64 {
        if value <= 0.0 || self.ratios.is_empty() {
            return 0.0;
        }
        let hungry = self.ratios.partition_point(|ratio| ratio * value > free);
        let (weights, shares) = self.sums[hungry];
        (value * weights - free * shares).max(0.0)
    }
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= ALIKE
}

/// Whether these needs may be met by this class.
pub(super) fn accepts(needs: &Needs, class: &str) -> bool {
    needs.classes.is_empty() || needs.classes.iter().any(|c| c == class)
}

/// How much of a device a request takes, by whichever of compute and memory it
/// takes more of, in thousandths.
pub(super) fn size_milli(milli: u32, memory_bytes: u64, device: &Device) -> u64 {
    let milli = u64::from(milli);
    if device.memory_bytes == 0 || memory_bytes == 0 {
        return milli;
    }
    let share = memory_bytes.saturating_mul(u64::from(device.milli)).div_ceil(device.memory_bytes);
    milli.max(share)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places of one worker; it saturates"
)]
fn small(n: f64) -> u16 {
    n as u16
}

fn index(parts: u64) -> usize {
    usize::try_from(parts).map_or(PARTS, |parts| parts.min(PARTS))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "prices are approximate; equal input still gives equal output"
)]
pub(super) fn float(n: u64) -> f64 {
    n as f64
}
