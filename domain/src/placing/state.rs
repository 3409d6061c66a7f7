//! What is free on a worker, in a form that is equal for workers that are alike.

use super::prices::accepts;
use super::{Ask, Device, Filter, Needs};

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
    pub cpu_milli: u64,
    pub host_memory_bytes: u64,
    /// Sorted, so that the fullest comes first.
    pub devices: Vec<Device>,
}

impl State {
    /// Which filter rejects it, of those that depend on what is free.
    pub fn rejects(&self, needs: &Needs) -> Option<Filter> {
        if self.cpu_milli < needs.cpu_milli {
            return Some(Filter::Cpu);
        }
        if self.host_memory_bytes < needs.host_memory_bytes {
            return Some(Filter::HostMemory);
        }
        if needs.devices == 0 {
            return None;
        }
        let wanted = needs.devices as usize;
        // Devices are sorted by what is free.
        let roomy = &self.devices[self.devices.partition_point(|d| d.free_milli < needs.milli)..];
        if roomy.len() < wanted {
            return Some(Filter::Milli);
        }
        if roomy.iter().filter(|d| d.free_memory_bytes >= needs.memory_bytes).take(wanted).count() < wanted {
            return Some(Filter::Memory);
        }
        None
    }

    /// Devices that could take a share of the request, fullest first.
    pub fn fitting(&self, needs: &Needs) -> impl Iterator<Item = usize> {
        let (milli, memory) = (needs.milli, needs.memory_bytes);
        let fits = move |d: &Device| d.free_milli >= milli && d.free_memory_bytes >= memory;
        self.devices.iter().enumerate().filter(move |(_, d)| fits(d)).map(|(index, _)| index)
    }

    /// Names this content whatever the order in which contents arose; orders
    /// what is otherwise equal. FNV-1a over whole words, mixed at the end.
    pub fn fingerprint(&self, realm: &Realm) -> u64 {
        let mut hash = Fingerprint::default();
        for name in [&realm.class, &realm.zone, &realm.pool] {
            hash.bytes(name.as_bytes());
        }
        hash.word(u64::from(realm.clearance));
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
