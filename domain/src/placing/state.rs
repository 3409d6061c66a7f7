//! What is free on a worker, in a form that is equal for workers that are alike.

use super::prices::accepts;
use super::{Ask, Device, Filter, Needs, Worker};
use crate::accelerators::WHOLE_MILLI;

/// What workers are told apart by, beyond what is free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Realm {
    pub class: String,
    pub zone: String,
    pub pool: String,
    pub clearance: u32,
}

impl Realm {
    /// The filters that do not depend on what is free.
    pub fn rejects(&self, ask: &Ask) -> Option<Filter> {
        let outside = |list: &[String], name: &String| !list.is_empty() && !list.contains(name);
        if !accepts(&ask.needs, &self.class) {
            Some(Filter::Class)
        } else if outside(&ask.zones, &self.zone) {
            Some(Filter::Zone)
        } else if outside(&ask.pools, &self.pool) {
            Some(Filter::Pool)
        } else if self.clearance < ask.clearance {
            Some(Filter::Clearance)
        } else {
            None
        }
    }
}

/// What is free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    /// Number of its [`Realm`].
    pub realm: u32,
    pub cordoned: bool,
    /// See [`Worker::pairs`].
    pub pairs: bool,
    pub cpu_milli: u64,
    pub host_memory_bytes: u64,
    /// Sorted, so that the fullest comes first; where they are taken in pairs,
    /// the pairs are sorted, and one without neighbour is last.
    pub devices: Vec<Device>,
}

impl State {
    /// What is free on a worker of this realm.
    pub fn of(worker: &Worker, realm: u32) -> Self {
        let mut devices = worker.devices.clone();
        if worker.pairs {
            let pairs = devices.chunks_exact(2);
            let alone = pairs.remainder().to_vec();
            let mut pairs: Vec<_> = pairs.map(sorted).collect();
            pairs.sort_unstable();
            devices = pairs.concat();
            devices.extend(alone);
        } else {
            devices.sort_unstable();
        }
        Self {
            realm,
            cordoned: worker.cordoned,
            pairs: worker.pairs,
            cpu_milli: worker.free_cpu_milli,
            host_memory_bytes: worker.free_host_memory_bytes,
            devices,
        }
    }

    /// Which filter rejects it, of those that depend on what is free.
    pub fn rejects(&self, needs: &Needs) -> Option<Filter> {
        if self.pairs && !takes_pairs(needs) {
            return Some(Filter::Pairs);
        }
        if self.cpu_milli < needs.cpu_milli {
            return Some(Filter::Cpu);
        }
        if self.host_memory_bytes < needs.host_memory_bytes {
            return Some(Filter::HostMemory);
        }
        let wanted = needs.devices as usize;
        let enough = |memory_bytes| self.roomy(needs.milli, memory_bytes).take(wanted).count() == wanted;
        if !enough(0) {
            return Some(Filter::Milli);
        }
        if needs.memory_bytes > 0 && !enough(needs.memory_bytes) {
            return Some(Filter::Memory);
        }
        None
    }

    /// Devices that could take a share of the request, fullest first.
    pub fn fitting(&self, needs: &Needs) -> impl Iterator<Item = usize> {
        self.roomy(needs.milli, needs.memory_bytes)
    }

    fn roomy(&self, milli: u32, memory_bytes: u64) -> impl Iterator<Item = usize> {
        let fits = move |d: &Device| d.free_milli >= milli && d.free_memory_bytes >= memory_bytes;
        let fits_paired = move |index: usize| {
            let first = index - index % 2;
            self.devices.get(first..first + 2).is_some_and(|pair| pair.iter().all(fits))
        };
        let from = if self.pairs { 0 } else { self.devices.partition_point(|d| d.free_milli < milli) };
        (from..self.devices.len())
            .filter(move |&index| if self.pairs { fits_paired(index) } else { fits(&self.devices[index]) })
    }

    /// Names this content whatever the order in which contents arose; orders
    /// what is otherwise equal. FNV-1a over whole words, mixed at the end.
    pub fn fingerprint(&self, realm: &Realm) -> u64 {
        let mut hash = Fingerprint::default();
        for name in [&realm.class, &realm.zone, &realm.pool] {
            hash.bytes(name.as_bytes());
        }
        hash.word(u64::from(realm.clearance));
        hash.word(u64::from(self.pairs));
        hash.word(self.cpu_milli);
        hash.word(self.host_memory_bytes);
        for device in &self.devices {
            hash.word(u64::from(device.free_milli) << 32 | u64::from(device.milli));
            hash.word(device.free_memory_bytes);
            hash.word(device.memory_bytes);
        }
        hash.finish()
    }
}

/// Whether a worker whose devices are taken in pairs may take it.
pub(super) fn takes_pairs(needs: &Needs) -> bool {
    needs.devices == 0 || needs.devices.is_multiple_of(2) && needs.milli >= WHOLE_MILLI
}

/// Equal for the same devices in any order.
pub(super) fn sorted(devices: &[Device]) -> Vec<Device> {
    let mut sorted = devices.to_vec();
    sorted.sort_unstable();
    sorted
}

struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.word(u64::from(*byte));
        }
        self.word(bytes.len() as u64);
    }

    fn finish(self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    }
}
