//! Every workload that waits or holds something, and what it holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tree::{Ix, KeyIx};
use super::{Amount, Ask};
use crate::{EndpointId, Timestamp, WorkloadId};

/// Position of an entry; stable while it is there.
pub(super) type Slot = u32;
/// Position of a tenant; stable for ever.
pub(super) type TenantIx = u32;
/// Position of a lane in its tenant's queue.
pub(super) type LaneIx = u32;

/// Microseconds since 1970.
pub(super) fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.0.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// What an entry was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub option: usize,
    pub count: u32,
    /// Of all members together.
    pub amounts: Vec<(KeyIx, Amount)>,
    /// When; the newest is preempted first.
    pub at_us: i64,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// In its lane.
    Pending,
    /// Kept from its lane by something other than quota.
    OnHold,
    /// Its room is promised, once enough has left; it was the `order`th to be
    /// promised any.
    Claimed { grant: Grant, order: u64 },
    /// It holds its room.
    Admitted(Grant),
    /// It is to leave, for a preemptor if it is one's victim.
    Leaving { grant: Grant, preemptor: Option<WorkloadId> },
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub ask: Ask,
    pub tenant: TenantIx,
    /// Its project where that has a node, else its tenant.
    pub leaf: Ix,
    pub queued_us: i64,
    pub lane: LaneIx,
    pub state: State,
}

impl Entry {
    /// What it holds or is promised, if its place in the promised view counts.
    pub fn granted(&self) -> Option<&Grant> {
        match &self.state {
            State::Claimed { grant, .. } | State::Admitted(grant) => Some(grant),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    slots: Vec<Option<Entry>>,
    free: Vec<Slot>,
    index: HashMap<WorkloadId, Slot>,
}

impl Entries {
    pub fn insert(&mut self, entry: Entry) -> Slot {
        let id = entry.ask.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() as Slot - 1
            }
        };
        self.index.insert(id, slot);
        slot
    }

    pub fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.slots[slot as usize].take()?;
        self.index.remove(&entry.ask.id);
        self.free.push(slot);
        Some(entry)
    }

    pub fn find(&self, id: WorkloadId) -> Option<Slot> {
        self.index.get(&id).copied()
    }

    pub fn get(&self, slot: Slot) -> &Entry {
        self.slots[slot as usize].as_ref().expect("a slot is used only while its entry is there")
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        self.slots[slot as usize].as_mut().expect("a slot is used only while its entry is there")
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        self.slots.iter().enumerate().filter_map(|(i, e)| Some((i as Slot, e.as_ref()?)))
    }
}

/// What a tenant was granted, in the order in which it would be preempted:
/// lowest priority, newest, identifier.
#[derive(Clone, Debug, Default)]
pub(super) struct Granted {
    classes: BTreeMap<i32, Class>,
    replicas: HashMap<EndpointId, u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    members: BTreeSet<(Reverse<i64>, WorkloadId, Slot)>,
    /// How many are replicas of endpoints.
    grouped: usize,
    /// What they hold together.
    total: Vec<(KeyIx, Amount)>,
}

impl Class {
    fn count(&mut self, amounts: &[(KeyIx, Amount)], sign: Amount) {
        for &(key, amount) in amounts {
            match self.total.iter_mut().find(|t| t.0 == key) {
                Some(total) => total.1 += sign * amount,
                None => self.total.push((key, sign * amount)),
            }
        }
    }
}

impl Granted {
    pub fn insert(&mut self, slot: Slot, ask: &Ask, grant: &Grant) {
        let class = self.classes.entry(ask.priority).or_default();
        class.members.insert((Reverse(grant.at_us), ask.id, slot));
        class.count(&grant.amounts, 1);
        if let Some(group) = ask.group {
            class.grouped += 1;
            *self.replicas.entry(group.endpoint).or_default() += 1;
        }
    }

    pub fn remove(&mut self, slot: Slot, ask: &Ask, grant: &Grant) {
        if let Some(class) = self.classes.get_mut(&ask.priority) {
            class.members.remove(&(Reverse(grant.at_us), ask.id, slot));
            class.count(&grant.amounts, -1);
            class.grouped -= usize::from(ask.group.is_some());
            if class.members.is_empty() {
                self.classes.remove(&ask.priority);
            }
        }
        if let Some(count) = ask.group.and_then(|g| self.replicas.get_mut(&g.endpoint)) {
            *count -= 1;
        }
    }

    /// What is held by those up to a priority.
    pub fn total(&self, highest: i32) -> Vec<(KeyIx, Amount)> {
        let mut total = Class::default();
        for class in self.classes.range(..=highest).map(|(_, class)| class) {
            total.count(&class.total, 1);
        }
        total.total
    }

    /// In the order of preemption: surplus replicas of endpoints before others
    /// of their priority, and for another tenant none that its endpoint is
    /// guaranteed. Lazy, since most searches end early.
    pub fn victims<'a>(
        &'a self,
        entries: &'a Entries,
        foreign: bool,
    ) -> impl Iterator<Item = (i32, Reverse<i64>, WorkloadId, Slot)> + 'a {
        let mut seen: HashMap<EndpointId, u32> = HashMap::new();
        self.classes.iter().flat_map(move |(&priority, class)| {
            let members = class.members.iter().map(move |&(at, id, slot)| (priority, at, id, slot));
            if class.grouped == 0 {
                return Either::Left(members);
            }
            let mut sorted = Vec::with_capacity(class.members.len());
            for victim in members {
                let needed = match entries.get(victim.3).ask.group {
                    None => true,
                    Some(group) => {
                        let nth = seen.entry(group.endpoint).or_default();
                        *nth += 1;
                        let left =
                            self.replicas.get(&group.endpoint).map_or(0, |all| all.saturating_sub(*nth));
                        if foreign && left < group.guaranteed {
                            continue;
                        }
                        left < group.min_replicas
                    }
                };
                sorted.push((needed, victim));
            }
            sorted.sort_by_key(|(needed, victim)| (*needed, victim.1, victim.2));
            Either::Right(sorted.into_iter().map(|(_, victim)| victim))
        })
    }
}

/// One of two iterators.
enum Either<L, R> {
    Left(L),
    Right(R),
}

impl<T, L: Iterator<Item = T>, R: Iterator<Item = T>> Iterator for Either<L, R> {
    type Item = T;
    fn next(&mut self) -> Option<T> {
        match self {
            Self::Left(i) => i.next(),
            Self::Right(i) => i.next(),
        }
    }
}
