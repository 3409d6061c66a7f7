//! Workers that are alike in what is free, as one. What a decision looks at is
//! groups, of which there are far fewer than workers while a fleet is uniform,
//! and never more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::prices::Table;
use super::score::Worth;
use super::state::{Realm, State};
use crate::WorkerId;

/// Least entries that the log keeps.
const LOG_ENTRIES: usize = 8_192;
/// Groups without workers are kept, because fleets return to what they were,
/// up to this many beyond three times those with workers.
const SPARE_GROUPS: usize = 4_096;

/// Workers of one state.
pub(super) struct Group {
    pub state: Arc<State>,
    pub fingerprint: u64,
    /// By failure domain, so that spreading finds each at once.
    pub members: BTreeMap<Arc<str>, BTreeSet<WorkerId>>,
    pub count: u32,
    /// At the prices of which version.
    worth: (u64, Worth),
}

/// A worker joined or left a group.
#[derive(Clone, Copy)]
pub(super) struct Event {
    pub group: u32,
    pub joined: bool,
}

/// Every group, and what happened to them lately.
#[derive(Default)]
pub(super) struct Groups {
    list: Vec<Group>,
    ids: BTreeMap<Arc<State>, u32>,
    alive: usize,
    log: Vec<Event>,
    /// Number of the first event in `log`.
    log_begins: u64,
    /// Changes when groups are numbered anew.
    pub numbering: u64,
}

impl Groups {
    pub fn get(&self, group: u32) -> &Group {
        &self.list[group as usize]
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Groups that have workers.
    pub fn alive(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.list).filter(|(_, group)| group.count > 0).map(|(id, _)| id)
    }

    /// How many have workers.
    pub fn count_alive(&self) -> usize {
        self.alive
    }

    pub fn join(&mut self, state: State, realm: &Realm, domain: &Arc<str>, worker: WorkerId) -> u32 {
        let id = match self.ids.get(&state) {
            Some(id) => *id,
            None => self.create(state, realm),
        };
        let group = &mut self.list[id as usize];
        group.members.entry(Arc::clone(domain)).or_default().insert(worker);
        group.count += 1;
        self.alive += usize::from(group.count == 1);
        self.record(Event { group: id, joined: true });
        id
    }

    pub fn leave(&mut self, id: u32, domain: &Arc<str>, worker: WorkerId) {
        let group = &mut self.list[id as usize];
        if let Some(workers) = group.members.get_mut(domain)
            && workers.remove(&worker)
        {
            if workers.is_empty() {
                group.members.remove(domain);
            }
            group.count -= 1;
            self.alive -= usize::from(group.count == 0);
            self.record(Event { group: id, joined: false });
        }
    }

    /// What the group is worth at the prices of this version.
    pub fn worth(&mut self, id: u32, version: u64, table: &Table) -> Worth {
        let group = &mut self.list[id as usize];
        if group.worth.0 != version {
            group.worth = (version, Worth::of(&group.state, table));
        }
        group.worth.1
    }

    /// Number of the next event.
    pub fn now(&self) -> u64 {
        self.log_begins + self.log.len() as u64
    }

    /// An event by its number; none when it is forgotten or to come.
    pub fn event(&self, number: u64) -> Option<Event> {
        let index = usize::try_from(number.checked_sub(self.log_begins)?).ok()?;
        self.log.get(index).copied()
    }

    /// Number of the first event that is not forgotten.
    pub fn begins(&self) -> u64 {
        self.log_begins
    }

    /// Whether too many groups are empty.
    pub fn is_sparse(&self) -> bool {
        self.list.len() > 4 * self.alive + SPARE_GROUPS
    }

    /// Forgets empty groups and numbers the others anew; returns the new number
    /// of each old one that is left.
    pub fn compact(&mut self) -> BTreeMap<u32, u32> {
        let mut renamed = BTreeMap::new();
        let old = std::mem::take(&mut self.list);
        self.ids.clear();
        for (id, group) in (0..).zip(old) {
            if group.count > 0 {
                let new = number(self.list.len());
                renamed.insert(id, new);
                self.ids.insert(Arc::clone(&group.state), new);
                self.list.push(group);
            }
        }
        self.log_begins = self.now();
        self.log.clear();
        self.numbering += 1;
        renamed
    }

    fn create(&mut self, state: State, realm: &Realm) -> u32 {
        let id = number(self.list.len());
        let fingerprint = state.fingerprint(realm);
        let state = Arc::new(state);
        self.ids.insert(Arc::clone(&state), id);
        let (members, worth) = (BTreeMap::new(), (0, Worth::default()));
        self.list.push(Group { state, fingerprint, members, count: 0, worth });
        id
    }

    fn record(&mut self, event: Event) {
        // Reading more events than there are groups costs more than starting over.
        if self.log.len() >= LOG_ENTRIES.max(4 * self.alive) {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.log_begins += half as u64;
        }
        self.log.push(event);
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("groups are fewer than four times the workers and some thousand")
}
