//! From what a worker should hold and what it holds to what it does.
//!
//! Two rules keep a paused or replaced scheduler from doing harm: a state of a
//! lower epoch than the highest seen is ignored, and so is a placement of a
//! lower generation than the one held or let go of.

use std::collections::{BTreeMap, VecDeque};

use super::{DesiredPlacement, DesiredState};
use crate::PlacementId;

/// How many placements that were let go of are remembered.
pub const MAX_REMEMBERED: usize = 4096;

/// How far a placement that is held is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Being made true.
    Running,
    /// Finishing what it does.
    Draining,
    /// Let go of; only the report of it remains.
    Ended,
}

/// A placement that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its generation.
    pub generation: i64,
    /// How far it is.
    pub phase: Phase,
}

/// What is held.
#[derive(Clone, Debug, Default)]
pub struct Actual {
    /// Highest epoch obeyed.
    pub epoch: i64,
    /// By placement.
    pub held: BTreeMap<PlacementId, Held>,
    /// Placements that were held and no longer are.
    pub gone: Gone,
}

/// The last placements that were held and no longer are, with their
/// generations: a late message must not bring them back.
#[derive(Clone, Debug, Default)]
pub struct Gone {
    generations: BTreeMap<PlacementId, i64>,
    order: VecDeque<PlacementId>,
}

impl Gone {
    /// Remembers one, forgetting the oldest beyond [`MAX_REMEMBERED`].
    pub fn remember(&mut self, id: PlacementId, generation: i64) {
        let known = self.generations.get(&id).copied();
        self.generations.insert(id, known.map_or(generation, |known| known.max(generation)));
        if known.is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.generations.remove(&oldest);
            }
        }
    }

    fn covers(&self, wanted: &DesiredPlacement) -> bool {
        self.generations.get(&wanted.placement_id).is_some_and(|gone| *gone >= wanted.generation)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold it and make it true.
    Start(DesiredPlacement),
    /// Finish what it does, then let go.
    Drain(PlacementId),
    /// Let go at once: nobody counts on it any more.
    Stop(PlacementId),
    /// Not held, and to be let go of: say that this is so.
    SayEnded(DesiredPlacement),
    /// Its end is known: say no more of it.
    Forget(PlacementId),
}

/// What to do so that what is held becomes what is desired.
pub fn reconcile(actual: &Actual, desired: &DesiredState) -> Vec<Action> {
    if desired.epoch < actual.epoch {
        return Vec::new();
    }
    let wanted: BTreeMap<PlacementId, &DesiredPlacement> =
        desired.placements.iter().map(|p| (p.placement_id, p)).collect();

    // What frees memory comes first.
    let unwanted =
        actual.held.iter().filter(|(id, _)| !wanted.contains_key(*id)).map(|(id, held)| {
            if held.phase == Phase::Ended { Action::Forget(*id) } else { Action::Stop(*id) }
        });
    let others = wanted.values().flat_map(|placement| for_wanted(actual, placement));
    let mut actions: Vec<Action> = unwanted.chain(others).collect();
    actions.sort_by_key(|action| matches!(action, Action::Start(_)));
    actions
}

fn for_wanted(actual: &Actual, wanted: &DesiredPlacement) -> Vec<Action> {
    let id = wanted.placement_id;
    let start = || {
        if wanted.drain || actual.gone.covers(wanted) {
            Action::SayEnded(wanted.clone())
        } else {
            Action::Start(wanted.clone())
        }
    };
    match actual.held.get(&id) {
        None => vec![start()],
        Some(held) if held.generation < wanted.generation => match held.phase {
            Phase::Ended => vec![Action::Forget(id), start()],
            Phase::Running | Phase::Draining => vec![Action::Stop(id), start()],
        },
        Some(held) if held.generation > wanted.generation => vec![],
        Some(held) if held.phase == Phase::Running && wanted.drain => vec![Action::Drain(id)],
        Some(_) => vec![],
    }
}

#[cfg(test)]
mod tests;
