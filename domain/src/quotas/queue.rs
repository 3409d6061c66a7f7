//! A tenant's queue.
//!
//! Workloads that ask for the same thing in the same way stand in one lane, in
//! the order in which they came: if the first of a lane cannot be admitted,
//! none behind it can, so that a lane is tried and parked as one. A queue of a
//! million lines of three kinds costs what three workloads cost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::entries::{LaneIx, Slot};
use super::tree::{Ix, KeyIx};
use super::{Amount, BudgetKind, WhyNot};
use crate::WorkloadId;

/// What makes workloads equal but for their age.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub leaf: Ix,
    pub priority: i32,
    pub options: Vec<Vec<(KeyIx, Amount)>>,
    pub count: u32,
    pub min_count: u32,
    pub budget: Vec<(BudgetKind, Amount)>,
    pub kind: u32,
}

/// Why a lane waits, and when to look again.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub why: WhyNot,
    /// Its kind is set aside: what is freed of quota does not help it.
    pub aside: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub shape: Arc<Shape>,
    /// By age.
    pub items: BTreeSet<(i64, WorkloadId, Slot)>,
    pub parked: Option<Parked>,
    /// What was last told of why it waits.
    pub told: Option<WhyNot>,
}

/// Priority, age, identifier: the order within a queue.
pub(super) type Order = (Reverse<i32>, i64, WorkloadId);

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    lanes: Vec<Lane>,
    by_shape: HashMap<Arc<Shape>, LaneIx>,
    free: Vec<LaneIx>,
    /// First of each lane that is not parked, by project where projects are
    /// told apart by what they used.
    ready: BTreeMap<Ix, BTreeSet<(Order, LaneIx)>>,
    /// With strict order: the lane and the head that block.
    stuck: Option<(LaneIx, Slot)>,
}

impl Queue {
    pub fn lane(&self, lane: LaneIx) -> &Lane {
        &self.lanes[lane as usize]
    }

    pub fn lanes(&self) -> impl Iterator<Item = (LaneIx, &Lane)> {
        self.lanes.iter().enumerate().map(|(i, l)| (i as LaneIx, l)).filter(|(_, l)| !l.items.is_empty())
    }

    /// Puts a workload in the lane of its shape.
    pub fn insert(&mut self, shape: Shape, at: i64, id: WorkloadId, slot: Slot, by: Ix) -> LaneIx {
        let lane = match self.by_shape.get(&shape) {
            Some(&lane) => lane,
            None => {
                let shape = Arc::new(shape);
                let new = Lane { shape: shape.clone(), items: BTreeSet::new(), parked: None, told: None };
                let lane = match self.free.pop() {
                    Some(lane) => {
                        self.lanes[lane as usize] = new;
                        lane
                    }
                    None => {
                        self.lanes.push(new);
                        self.lanes.len() as LaneIx - 1
                    }
                };
                self.by_shape.insert(shape, lane);
                lane
            }
        };
        self.change(lane, by, |items| {
            items.insert((at, id, slot));
        });
        lane
    }

    /// Takes a workload out of its lane.
    pub fn remove(&mut self, lane: LaneIx, at: i64, id: WorkloadId, slot: Slot, by: Ix) {
        self.change(lane, by, |items| {
            items.remove(&(at, id, slot));
        });
        if self.stuck == Some((lane, slot)) {
            self.stuck = None;
            self.lanes[lane as usize].parked = None;
        }
        let emptied = &mut self.lanes[lane as usize];
        if emptied.items.is_empty() {
            emptied.parked = None;
            let shape = emptied.shape.clone();
            self.by_shape.remove(&shape);
            self.free.push(lane);
        }
    }

    fn change(&mut self, lane: LaneIx, by: Ix, change: impl FnOnce(&mut BTreeSet<(i64, WorkloadId, Slot)>)) {
        let is_ready = self.is_ready(lane);
        let before = self.first(lane);
        change(&mut self.lanes[lane as usize].items);
        let after = self.first(lane);
        if is_ready && before != after {
            let ready = self.ready.entry(by).or_default();
            before.map(|order| ready.remove(&(order, lane)));
            after.map(|order| ready.insert((order, lane)));
            if ready.is_empty() {
                self.ready.remove(&by);
            }
        }
    }

    /// Parked lanes stand aside, except a strict queue's head.
    fn is_ready(&self, lane: LaneIx) -> bool {
        self.lanes[lane as usize].parked.is_none() || self.stuck.is_some_and(|s| s.0 == lane)
    }

    fn first(&self, lane: LaneIx) -> Option<Order> {
        let lane = &self.lanes[lane as usize];
        lane.items.first().map(|&(at, id, _)| (Reverse(lane.shape.priority), at, id))
    }

    /// Sets a lane aside, or in a strict queue lets its first block.
    pub fn park(&mut self, lane: LaneIx, by: Ix, parked: Parked, strict: bool) {
        if strict {
            self.stuck = self.lanes[lane as usize].items.first().map(|i| (lane, i.2));
        } else if let (Some(order), Some(ready)) = (self.first(lane), self.ready.get_mut(&by)) {
            ready.remove(&(order, lane));
            if ready.is_empty() {
                self.ready.remove(&by);
            }
        }
        self.lanes[lane as usize].parked = Some(parked);
    }

    /// Whether a parked lane waits for another reason than when this was last
    /// asked. How much is free just now is no reason.
    pub fn is_news(&mut self, lane: LaneIx) -> bool {
        let lane = &mut self.lanes[lane as usize];
        let why = lane.parked.as_ref().map(|p| WhyNot { free: p.why.free.clamp(0, 1), ..p.why.clone() });
        let news = why != lane.told;
        lane.told = why;
        news
    }

    /// Lets a parked lane be tried again, and a strict queue's head in its turn.
    pub fn wake(&mut self, lane: LaneIx, by: Ix) {
        if let Some((head, _)) = self.stuck.take().filter(|stuck| stuck.0 != lane) {
            self.lanes[head as usize].parked = None;
        }
        if self.lanes[lane as usize].parked.take().is_some()
            && let Some(order) = self.first(lane)
        {
            self.ready.entry(by).or_default().insert((order, lane));
        }
    }

    /// The workload to try next, or nothing while a strict head blocks.
    pub fn head(&self, rank: impl Fn(Ix) -> u128) -> Option<(LaneIx, Slot)> {
        let best = self.ready.iter().filter_map(|(by, ready)| Some((rank(*by), ready.first()?))).min()?;
        let lane = best.1.1;
        let slot = self.lanes[lane as usize].items.first()?.2;
        (self.stuck != Some((lane, slot))).then_some((lane, slot))
    }

    /// Whether exactly those lanes can be tried that should be.
    #[cfg(test)]
    pub fn is_consistent(&self) -> bool {
        let ready: BTreeSet<_> = self.ready.values().flatten().copied().collect();
        let expected = self.lanes().filter(|(lane, _)| self.is_ready(*lane));
        ready == expected.filter_map(|(lane, _)| Some((self.first(lane)?, lane))).collect()
    }

    /// With strict order: the lane that blocks.
    pub fn blocked_lane(&self) -> Option<LaneIx> {
        self.stuck.map(|(lane, _)| lane)
    }

    /// Every waiting workload, in order.
    pub fn in_order(&self) -> Vec<(Order, LaneIx, Slot)> {
        let mut all: Vec<_> = self
            .lanes()
            .flat_map(|(ix, lane)| {
                let priority = Reverse(lane.shape.priority);
                lane.items.iter().map(move |&(at, id, slot)| ((priority, at, id), ix, slot))
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.by_shape.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lanes().map(|(_, lane)| lane.items.len()).sum()
    }
}
