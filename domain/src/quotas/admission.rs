//! The admission cycle.
//!
//! Each tenant's queue puts its head forward; the heads are tried in order, each
//! against what those before it left; then the next heads are put forward, until
//! none is left that can be tried. A cycle thus does what repeated cycles of one
//! head per queue would do, but looks only at trees in which something changed,
//! and only at lanes that the change may help.

use std::collections::BTreeMap;

use serde::Serialize;

use super::entries::{Grant, LaneIx, Slot, State, TenantIx, micros};
use super::queue::{Order, Parked, Shape};
use super::reasons::first_obstacle;
use super::state::by;
use super::tournament::Tournament;
use super::tree::{Ix, KeyIx};
use super::victims::{Victim, fits};
use super::{Admissions, Amount, Fungibility, Level, NodeId, Reclaim, Rule, Strategy, View, WhyNot};
use crate::{TenantId, Timestamp, WorkloadId};

/// Most rounds of heads in one cycle of one tree; what is left is for the next.
pub const MAX_ROUNDS: usize = 1 << 20;

/// What a cycle decided, in the order in which it is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It has its room now.
    Admit {
        /// Which.
        workload: WorkloadId,
        /// Whose.
        tenant: TenantId,
        /// Which of its acceptable classes.
        option: usize,
        /// How many members.
        count: u32,
    },
    /// Its room is kept for it until those that hold it have left; `Admit`
    /// follows.
    Promise {
        /// Which.
        workload: WorkloadId,
        /// Whose.
        tenant: TenantId,
        /// Which of its acceptable classes.
        option: usize,
        /// How many members.
        count: u32,
    },
    /// It must leave. Tell when it has (`release`), and if it is to wait again,
    /// `enqueue` it with that time.
    Evict {
        /// Which.
        workload: WorkloadId,
        /// Whose.
        tenant: TenantId,
        /// For whom.
        preemptor: WorkloadId,
        /// By which rule.
        rule: Rule,
    },
    /// Its room was promised and is no more; it waits again, where it was.
    Recall {
        /// Which.
        workload: WorkloadId,
        /// Whose.
        tenant: TenantId,
        /// For whom.
        preemptor: WorkloadId,
        /// By which rule.
        rule: Rule,
    },
}

/// The head of a queue, put forward.
#[derive(Clone, Debug)]
pub(super) struct Nomination {
    pub slot: Slot,
    pub tenant: TenantIx,
    pub tenant_node: Ix,
    pub leaf: Ix,
    pub lane: LaneIx,
    /// It fits; it is not to preempt this time.
    pub fits: bool,
    pub level: u32,
    pub rank: u128,
    pub order: Order,
    pub amounts: Vec<(KeyIx, Amount)>,
}

struct Choice {
    option: usize,
    count: u32,
    amounts: Vec<(KeyIx, Amount)>,
    level: u32,
    victims: Vec<Victim>,
}

fn times(option: &[(KeyIx, Amount)], count: u32) -> Vec<(KeyIx, Amount)> {
    option.iter().map(|&(key, amount)| (key, amount * Amount::from(count))).collect()
}

impl Admissions {
    /// Decides what can be decided. Stops after about `most` decisions, and
    /// goes on from there next time ([`Self::is_settled`] tells).
    pub fn cycle(&mut self, now: Timestamp, most: usize) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some(&root) = self.dirty.range(self.turn..).next().or(self.dirty.first()) {
            if decisions.len() >= most {
                break;
            }
            self.dirty.remove(&root);
            self.turn = root + 1;
            if !self.settle(root, now, most, &mut decisions) {
                self.dirty.insert(root);
            }
        }
        decisions
    }

    /// Deals with one tree. Returns whether nothing is left to try.
    fn settle(&mut self, root: Ix, now: Timestamp, most: usize, decisions: &mut Vec<Decision>) -> bool {
        for _ in 0..MAX_ROUNDS {
            let state = self.roots.entry(root).or_default();
            if std::mem::take(&mut state.left) {
                self.keep_promises(root, decisions);
            }
            let state = self.roots.entry(root).or_default();
            if std::mem::take(&mut state.released) {
                self.wake(root);
            }
            let state = self.roots.entry(root).or_default();
            if state.active.is_empty() {
                state.active = std::mem::take(&mut state.later);
            }
            if state.active.is_empty() {
                self.dirty.remove(&root);
                return true;
            }
            if !self.round(root, now, most, decisions) {
                return false;
            }
        }
        false
    }

    /// Admits whoever was promised room, as soon as enough is free, be it of
    /// its victims or not.
    fn keep_promises(&mut self, root: Ix, decisions: &mut Vec<Decision>) {
        let claims: Vec<(u64, Slot)> = self.roots.entry(root).or_default().claims.iter().copied().collect();
        for claim in claims {
            let entry = self.entries.get(claim.1);
            let State::Claimed { grant, .. } = &entry.state else { continue };
            if !fits(&self.tree, View::Held, entry.leaf, &grant.amounts) {
                continue;
            }
            let grant = grant.clone();
            self.roots.entry(root).or_default().claims.remove(&claim);
            self.take_up(claim.1, grant, decisions);
        }
    }

    /// Lets those parked lanes be tried again that what was freed may help.
    fn wake(&mut self, root: Ix) {
        let parked: Vec<(TenantIx, LaneIx)> =
            self.roots.entry(root).or_default().parked.iter().copied().collect();
        let mut lifted = None;
        for (tenant, lane) in parked {
            if lifted != Some(tenant) {
                lifted.into_iter().for_each(|t| self.keep(t));
                self.lift(tenant);
                lifted = Some(tenant);
            }
            if self.may_help(tenant, lane) {
                self.wake_lane(tenant, lane);
            }
        }
        lifted.into_iter().for_each(|t| self.keep(t));
    }

    /// Whether a parked lane might do better now: never wrong when it says no.
    fn may_help(&mut self, tenant: TenantIx, lane: LaneIx) -> bool {
        let lane = self.tenants[tenant as usize].queue.lane(lane);
        let Some(&(_, _, slot)) = lane.items.first() else { return false };
        let shape = lane.shape.clone();
        if self.budgets.short(&self.path(shape.leaf), &shape.budget).is_some() {
            return false;
        }
        let fair = self.settings.fair_sharing;
        shape.options.iter().any(|option| {
            let amounts = times(option, shape.min_count);
            fits(&self.tree, View::Promised, shape.leaf, &amounts)
                || self.search(slot, &amounts, |search, wish| {
                    fair && search.reclaims(wish) || search.could_help(wish)
                })
        })
    }

    /// One head of each queue that has something to try. Returns whether all
    /// were dealt with.
    fn round(&mut self, root: Ix, now: Timestamp, most: usize, decisions: &mut Vec<Decision>) -> bool {
        let active = std::mem::take(&mut self.roots.entry(root).or_default().active);
        let mut levels: BTreeMap<u32, Vec<Nomination>> = BTreeMap::new();
        for tenant in active {
            if let Some(nomination) = self.nominate(tenant, now) {
                levels.entry(nomination.level).or_default().push(nomination);
            }
        }
        let mut stopped = false;
        for (_, mut heads) in levels {
            if stopped {
                self.stay_active(root, heads);
                continue;
            }
            if self.settings.fair_sharing {
                let mut tournament = Tournament::new(&mut self.tree, root, heads);
                while !stopped && let Some(nomination) = tournament.pop() {
                    let node = nomination.tenant_node;
                    self.process(root, &nomination, now, decisions);
                    tournament.done(&mut self.tree, node);
                    stopped = decisions.len() >= most;
                }
                self.stay_active(root, tournament.rest());
            } else {
                heads.sort_by_key(|n| (n.rank, n.order));
                let mut heads = heads.into_iter();
                while !stopped && let Some(nomination) = heads.next() {
                    self.process(root, &nomination, now, decisions);
                    stopped = decisions.len() >= most;
                }
                self.stay_active(root, heads);
            }
        }
        !stopped
    }

    fn stay_active(&mut self, root: Ix, heads: impl IntoIterator<Item = Nomination>) {
        self.roots.entry(root).or_default().active.extend(heads.into_iter().map(|n| n.tenant));
    }

    fn nominate(&mut self, tenant: TenantIx, now: Timestamp) -> Option<Nomination> {
        let state = &self.tenants[tenant as usize];
        let (lane, slot) = state.queue.head(|by| self.rank(tenant, by, now))?;
        let tenant_node = state.node;
        let shape = state.queue.lane(lane).shape.clone();
        self.lift(tenant);
        let found = if self.budgets.short(&self.path(shape.leaf), &shape.budget).is_some() {
            None
        } else {
            self.choose_fit(tenant_node, &shape, shape.count)
                .filter(|c| c.level == 0 || !self.preempts_first(tenant_node))
        };
        let choice = found.unwrap_or_else(|| {
            let amounts = times(&shape.options[0], shape.count);
            let level = self.level(tenant_node, &amounts);
            Choice { option: usize::MAX, count: 0, amounts, level, victims: Vec::new() }
        });
        self.keep(tenant);
        let entry = self.entries.get(slot);
        Some(Nomination {
            slot,
            tenant,
            tenant_node,
            leaf: entry.leaf,
            lane,
            fits: choice.count > 0,
            level: choice.level,
            rank: self.rank(tenant, tenant_node, now),
            order: (std::cmp::Reverse(entry.ask.priority), entry.queued_us, entry.ask.id),
            amounts: choice.amounts,
        })
    }

    fn preempts_first(&self, tenant_node: Ix) -> bool {
        self.tree.nodes[tenant_node as usize].policies.fungibility == Fungibility::PreemptFirst
    }

    fn level(&self, tenant_node: Ix, amounts: &[(KeyIx, Amount)]) -> u32 {
        let level = |&(key, amount): &(KeyIx, Amount)| match amount {
            0 => 0,
            _ => self.tree.borrowing_level(View::Promised, tenant_node, key, amount),
        };
        amounts.iter().map(level).max().unwrap_or(0)
    }

    /// The first class with room that is the tenant's own, else the first with
    /// room.
    fn choose_fit(&self, tenant_node: Ix, shape: &Shape, count: u32) -> Option<Choice> {
        let mut first = None;
        for (ix, option) in shape.options.iter().enumerate() {
            let amounts = times(option, count);
            if !fits(&self.tree, View::Promised, shape.leaf, &amounts) {
                continue;
            }
            let level = self.level(tenant_node, &amounts);
            let choice = Choice { option: ix, count, amounts, level, victims: Vec::new() };
            if level == 0 {
                return Some(choice);
            }
            first.get_or_insert(choice);
        }
        first
    }

    /// The first class in which preempting makes room; with `own`, room that
    /// is the tenant's own.
    fn choose_victims(&mut self, slot: Slot, shape: &Shape, count: u32, own: bool) -> Option<Choice> {
        let tenant_node = self.tree.tenant_of(shape.leaf);
        for (ix, option) in shape.options.iter().enumerate() {
            let amounts = times(option, count);
            let Some(victims) = self.victims(slot, &amounts) else { continue };
            let borrows = self.search(slot, &amounts, |search, wish| search.borrows_without(wish, &victims));
            if !own || !borrows {
                let level = self.level(tenant_node, &amounts);
                return Some(Choice { option: ix, count, amounts, level, victims });
            }
        }
        None
    }

    /// What to do for a head, with its tenant's own quota open to it.
    fn choose(&mut self, nomination: &Nomination) -> Result<Choice, WhyNot> {
        let shape = self.tenants[nomination.tenant as usize].queue.lane(nomination.lane).shape.clone();
        let (slot, node) = (nomination.slot, nomination.tenant_node);
        if let Some(short) = self.budgets.short(&self.path(shape.leaf), &shape.budget) {
            return Err(WhyNot {
                node: Some(self.tree.nodes[short.node as usize].id),
                never: self.budgets.get(short.node, &short.kind).is_some_and(|b| short.asked > b.limit),
                budget: Some(short.kind),
                asked: short.asked,
                free: short.free.max(0),
                ..WhyNot::of(Level::Budget)
            });
        }
        let fit = self.choose_fit(node, &shape, shape.count);
        match fit {
            Some(fit) if fit.level == 0 || !self.preempts_first(node) => return Ok(fit),
            Some(fit) => return Ok(self.choose_victims(slot, &shape, shape.count, true).unwrap_or(fit)),
            None if nomination.fits => return Err(WhyNot::of(Level::Cohort)),
            None => {}
        }
        if let Some(choice) = self.choose_victims(slot, &shape, shape.count, false) {
            return Ok(choice);
        }
        if let Some(choice) = self.choose_fewer(node, slot, &shape) {
            return Ok(choice);
        }
        Err(self.why_not(&shape))
    }

    /// The largest count that fits, else the smallest with preemption.
    fn choose_fewer(&mut self, node: Ix, slot: Slot, shape: &Shape) -> Option<Choice> {
        if shape.min_count >= shape.count {
            return None;
        }
        if self.choose_fit(node, shape, shape.min_count).is_none() {
            return self.choose_victims(slot, shape, shape.min_count, false);
        }
        let (mut fits, mut too_many) = (shape.min_count, shape.count);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match self.choose_fit(node, shape, middle) {
                Some(_) => fits = middle,
                None => too_many = middle,
            }
        }
        self.choose_fit(node, shape, fits)
    }

    fn why_not(&self, shape: &Shape) -> WhyNot {
        let amounts = times(&shape.options[0], shape.count);
        let Some(mut why) = first_obstacle(&self.tree, View::Promised, shape.leaf, &amounts) else {
            return WhyNot::of(Level::Cohort);
        };
        let node = self.tree.tenant_of(shape.leaf);
        let policies = self.tree.nodes[node as usize].policies;
        if why.level == Level::Cohort && !why.never && policies.reclaim != Reclaim::Never {
            if self.settings.fair_sharing {
                why.level = Level::FairShare;
            } else if policies.reclaim == Reclaim::LowerPriority && self.level(node, &amounts) == 0 {
                why.level = Level::Priority;
            }
        }
        why
    }

    /// Tries one head against what those before it left.
    fn process(&mut self, root: Ix, head: &Nomination, now: Timestamp, decisions: &mut Vec<Decision>) {
        self.lift(head.tenant);
        match self.choose(head) {
            Ok(choice) => self.grant(head.slot, choice, now, decisions),
            // Others were before it. Next round it may try by other means.
            Err(_) if head.fits => {}
            Err(why) => self.park(root, head, why),
        }
        self.keep(head.tenant);
        self.roots.entry(root).or_default().later.insert(head.tenant);
    }

    fn park(&mut self, root: Ix, head: &Nomination, why: WhyNot) {
        let policies = self.tree.nodes[head.tenant_node as usize].policies;
        let strict = policies.strategy == Strategy::StrictFifo;
        if let Some(lane) = self.tenants[head.tenant as usize].queue.blocked_lane() {
            self.wake_lane(head.tenant, lane);
        }
        // What is its own, and could not be taken back for certain, nobody
        // else is to borrow in the meantime.
        let keeps = policies.reclaim != Reclaim::Any
            && !self.tree.is_root(head.tenant_node)
            && why.level != Level::Budget
            && !matches!(why.node, Some(NodeId::Project(_)))
            && head.amounts.iter().all(|&(key, amount)| {
                amount <= self.tree.nominal(head.tenant_node, key) && self.tree.lists(head.tenant_node, key)
            });
        let by = by(&self.settings, head.leaf);
        let tenant = &mut self.tenants[head.tenant as usize];
        tenant.keepers += u32::from(keeps);
        tenant.queue.park(head.lane, by, Parked { why, keeps }, strict);
        self.roots.entry(root).or_default().parked.insert((head.tenant, head.lane));
    }

    /// Gives a head what was chosen, at its victims' cost.
    fn grant(&mut self, slot: Slot, choice: Choice, now: Timestamp, decisions: &mut Vec<Decision>) {
        self.step_out(slot);
        let id = self.entries.get(slot).ask.id;
        for (victim, rule) in choice.victims {
            let entry = self.entries.get(victim);
            let (workload, tenant) = (entry.ask.id, entry.ask.tenant);
            match entry.state.clone() {
                State::Admitted(grant) => {
                    self.send_away(victim, &grant, Some(id), now);
                    decisions.push(Decision::Evict { workload, tenant, preemptor: id, rule });
                }
                State::Claimed { grant, .. } => {
                    self.unpromise(victim, &grant, now);
                    self.line_up(victim);
                    decisions.push(Decision::Recall { workload, tenant, preemptor: id, rule });
                }
                State::Pending | State::OnHold | State::Leaving { .. } => {}
            }
        }
        let entry = self.entries.get(slot);
        let (tenant, leaf, ask) = (entry.tenant, entry.leaf, entry.ask.clone());
        self.lift(tenant);
        for &(key, amount) in &choice.amounts {
            self.tree.add(View::Promised, leaf, key, amount);
        }
        let at_us = micros(now);
        let grant = Grant { option: choice.option, count: choice.count, amounts: choice.amounts, at_us };
        self.tenants[tenant as usize].granted.insert(slot, &ask, &grant);
        self.budgets.reserve(&self.path(leaf), &ask.budget);
        if self.settings.history.is_some() {
            let of = |key| grant.amounts.iter().find(|a| a.0 == key).map_or(0, |a| a.1);
            let measure = self.measure(self.tenants[tenant as usize].node, of);
            self.remember(tenant, leaf, now, measure);
        }
        if fits(&self.tree, View::Held, leaf, &grant.amounts) {
            self.take_up(slot, grant, decisions);
            return;
        }
        decisions.push(Decision::Promise {
            workload: id,
            tenant: ask.tenant,
            option: grant.option,
            count: grant.count,
        });
        self.claimed += 1;
        let order = self.claimed;
        self.entries.get_mut(slot).state = State::Claimed { grant, order };
        let root = self.root_of(tenant);
        self.roots.entry(root).or_default().claims.insert((order, slot));
    }

    /// What was granted is held from now on.
    fn take_up(&mut self, slot: Slot, grant: Grant, decisions: &mut Vec<Decision>) {
        let entry = self.entries.get_mut(slot);
        for &(key, amount) in &grant.amounts {
            self.tree.add(View::Held, entry.leaf, key, amount);
        }
        decisions.push(Decision::Admit {
            workload: entry.ask.id,
            tenant: entry.ask.tenant,
            option: grant.option,
            count: grant.count,
        });
        entry.state = State::Admitted(grant);
    }
}
