//! Which parked lanes are tried again when something was freed.
//!
//! Those that fit are ranked as they would be if all were put forward, and only
//! as many are woken as what is free would do for: where a thousand queues wait
//! for one place, one is woken. The rest are woken only if preempting may help
//! them, or if one that was woken did not take the room it was woken for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::choices::{Choice, times};
use super::entries::{LaneIx, Slot, State, TenantIx};
use super::queue::Order;
use super::state::by;
use super::tree::{Ix, KeyIx};
use super::victims::{Shares, may_have};
use super::{Admissions, Amount, Share, View};
use crate::{Timestamp, WorkloadId};

/// How many of its tenant go before it, then as in the cycle.
type Rank = (u32, u32, Share, u128, Option<Order>);

/// What would do for the first of a lane.
pub(super) struct Fit {
    pub leaf: Ix,
    level: u32,
    pub amounts: Vec<(KeyIx, Amount)>,
    first: (Slot, WorkloadId),
}

/// What a look at the parked lanes finds.
#[derive(Default)]
struct Look {
    /// A tenant's lanes that were not looked at yet, in the order in which it
    /// would put them forward, the first one last.
    lanes: BTreeMap<TenantIx, Vec<LaneIx>>,
    /// The first that fits of each tenant.
    ranked: BinaryHeap<Reverse<(Rank, TenantIx, LaneIx)>>,
    /// Nothing is free for them.
    doubtful: Vec<(TenantIx, LaneIx)>,
    /// What those that were woken would take.
    filled: Vec<(TenantIx, Fit)>,
}

impl Admissions {
    /// Lets those parked lanes be tried again that what was freed may help.
    pub(super) fn wake(&mut self, root: Ix, now: Timestamp) {
        let parked: Vec<(TenantIx, LaneIx)> =
            self.roots.entry(root).or_default().parked.iter().copied().collect();
        // What quota has room for now, and devices have not, stands in nobody's way.
        for &(tenant, lane) in &parked {
            let kind = self.tenants[tenant as usize].queue.lane(lane).shape.kind;
            if self.aside.contains(&kind) && self.has_room(tenant, lane) {
                self.wake_lane(tenant, lane);
                self.park_aside(tenant, lane);
            }
        }
        let parked: Vec<(TenantIx, LaneIx)> =
            self.roots.entry(root).or_default().parked.iter().copied().collect();
        let mut look = Look::default();
        let fair = self.settings.fair_sharing;
        if fair && self.tree.nodes[root as usize].height > 1 {
            // Below a cohort's cohort, whose turn it is depends on all that
            // are put forward: everything that fits is.
            for (tenant, lane) in parked {
                match self.fit_of(tenant, lane) {
                    Some(_) => self.wake_lane(tenant, lane),
                    None => look.doubtful.push((tenant, lane)),
                }
            }
        } else {
            for (tenant, lane) in parked {
                look.lanes.entry(tenant).or_default().push(lane);
            }
            self.fill(&mut look, now);
        }
        self.wake_preemptors(root, look.doubtful);
        for (tenant, fit) in look.filled {
            self.lift(tenant);
            for (key, amount) in fit.amounts {
                self.tree.remove(View::Promised, fit.leaf, key, amount);
            }
            self.keep(tenant);
            self.roots.entry(root).or_default().woken.push(fit.first);
        }
    }

    /// After something was exposed: lets those parked lanes be tried again that
    /// may preempt.
    pub(super) fn wake_for_exposed(&mut self, root: Ix) {
        let state = self.roots.entry(root).or_default();
        if std::mem::take(&mut state.exposed) {
            let parked = state.parked.iter().copied().collect();
            self.wake_preemptors(root, parked);
        }
    }

    fn wake_preemptors(&mut self, root: Ix, lanes: Vec<(TenantIx, LaneIx)>) {
        let shares = self.settings.fair_sharing.then(|| Shares::new(&self.tree, root));
        for (tenant, lane) in lanes {
            if self.may_preempt(tenant, lane, shares.as_ref()) {
                self.wake_lane(tenant, lane);
            }
        }
    }

    /// Wakes lanes in order until what is free is given out, and leaves it
    /// given out.
    fn fill(&mut self, look: &mut Look, now: Timestamp) {
        let tenants: Vec<TenantIx> = look.lanes.keys().copied().collect();
        for tenant in tenants {
            if let Some(lanes) = look.lanes.get_mut(&tenant).filter(|l| l.len() > 1) {
                lanes.sort_by_cached_key(|&lane| Reverse(self.order_of(tenant, lane, now)));
            }
            self.put_forward(look, tenant, 0, now);
        }
        let mut sifted = usize::MAX;
        while let Some(Reverse((rank, tenant, lane))) = look.ranked.pop() {
            let Some(fit) = self.fit_of(tenant, lane) else {
                look.doubtful.push((tenant, lane));
                self.put_forward(look, tenant, rank.0, now);
                // Likely nothing is left for the others either.
                if look.ranked.len() <= sifted / 2 {
                    sifted = look.ranked.len();
                    self.sift(look, now);
                }
                continue;
            };
            let later = self.rank_of(tenant, lane, &fit, rank.0, now);
            if later > rank {
                look.ranked.push(Reverse((later, tenant, lane)));
                continue;
            }
            // What was kept for it is what it takes.
            self.lift(tenant);
            for &(key, amount) in &fit.amounts {
                self.tree.add(View::Promised, fit.leaf, key, amount);
            }
            self.keep(tenant);
            look.filled.push((tenant, fit));
            self.wake_lane(tenant, lane);
            self.put_forward(look, tenant, rank.0 + 1, now);
        }
    }

    /// Ranks the next of a tenant's lanes that fits.
    fn put_forward(&mut self, look: &mut Look, tenant: TenantIx, turn: u32, now: Timestamp) {
        while let Some(lane) = look.lanes.get_mut(&tenant).and_then(Vec::pop) {
            if let Some(fit) = self.fit_of(tenant, lane) {
                let rank = self.rank_of(tenant, lane, &fit, turn, now);
                look.ranked.push(Reverse((rank, tenant, lane)));
                return;
            }
            look.doubtful.push((tenant, lane));
        }
    }

    /// Takes out all for which nothing is left, at less than one by one.
    fn sift(&mut self, look: &mut Look, now: Timestamp) {
        for Reverse((rank, tenant, lane)) in std::mem::take(&mut look.ranked).into_vec() {
            if self.fit_of(tenant, lane).is_some() {
                look.ranked.push(Reverse((rank, tenant, lane)));
            } else {
                look.doubtful.push((tenant, lane));
                self.put_forward(look, tenant, rank.0, now);
            }
        }
    }

    /// Whether one that was woken for its room did not take it, so that others
    /// may.
    pub(super) fn withheld_in_vain(&mut self, root: Ix) -> bool {
        let woken = std::mem::take(&mut self.roots.entry(root).or_default().woken);
        let waits = |&(slot, id): &(Slot, WorkloadId)| {
            self.entries.find(id) == Some(slot) && matches!(self.entries.get(slot).state, State::Pending)
        };
        let vain = woken.iter().any(waits);
        if vain {
            self.roots.entry(root).or_default().released = true;
        }
        vain
    }

    /// What is free for the first of a parked lane, if anything is.
    pub(super) fn fit_of(&mut self, tenant: TenantIx, lane: LaneIx) -> Option<Fit> {
        let state = &self.tenants[tenant as usize];
        let (node, lane) = (state.node, state.queue.lane(lane));
        let &(_, id, slot) = lane.items.first()?;
        let shape = lane.shape.clone();
        let fewer = shape.min_count < shape.count;
        let found = self.open_to(tenant, |open| {
            open.choose_fit(node, &shape, shape.count)
                .or_else(|| if fewer { open.choose_fit(node, &shape, shape.min_count) } else { None })
        });
        let fit = |c: Choice| Fit { leaf: shape.leaf, level: c.level, amounts: c.amounts, first: (slot, id) };
        found.map(fit)
    }

    /// Its place in its tenant's queue.
    fn order_of(&self, tenant: TenantIx, lane: LaneIx, now: Timestamp) -> Option<(u128, Order)> {
        let lane = self.tenants[tenant as usize].queue.lane(lane);
        let &(at, id, _) = lane.items.first()?;
        let rank = self.rank(tenant, by(&self.settings, lane.shape.leaf), now);
        Some((rank, (Reverse(lane.shape.priority), at, id)))
    }

    /// Its place among other tenants' lanes.
    fn rank_of(&mut self, tenant: TenantIx, lane: LaneIx, fit: &Fit, turn: u32, now: Timestamp) -> Rank {
        let node = self.tenants[tenant as usize].node;
        let mut share = Share::NONE;
        if self.settings.fair_sharing {
            fit.amounts.iter().for_each(|&(k, a)| self.tree.add(View::Promised, fit.leaf, k, a));
            share = self.tree.share(View::Promised, node);
            fit.amounts.iter().for_each(|&(k, a)| self.tree.remove(View::Promised, fit.leaf, k, a));
        }
        let order = self.order_of(tenant, lane, now).map(|o| o.1);
        (turn, fit.level, share, self.rank(tenant, node, now), order)
    }

    /// Whether a parked lane for which nothing is free might do better now by
    /// preempting: never wrong when it says no.
    fn may_preempt(&mut self, tenant: TenantIx, lane: LaneIx, shares: Option<&Shares>) -> bool {
        let lane = self.tenants[tenant as usize].queue.lane(lane);
        let Some(&(_, _, slot)) = lane.items.first() else { return false };
        let shape = lane.shape.clone();
        self.open_to(tenant, |open| {
            shape.options.iter().enumerate().any(|(ix, option)| {
                let amounts = times(option, shape.min_count);
                if open.short_of_budget(&shape, ix).is_some() {
                    return false;
                }
                if may_have(&open.tree, shape.leaf, &amounts) {
                    return !open.does_without(&shape, ix, &amounts);
                }
                open.search(slot, &amounts, |search, wish| match shares {
                    Some(shares) => search.fair_could_help(wish, shares),
                    None => search.could_help(wish),
                })
            })
        })
    }
}
