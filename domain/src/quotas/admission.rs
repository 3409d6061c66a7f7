//! The admission cycle.
//!
//! Each tenant's queue puts its head forward; the heads are tried in order, each
//! against what those before it left; then the next heads are put forward, until
//! none is left that can be tried. A cycle thus does what repeated cycles of one
//! head per queue would do, but looks only at trees in which something changed,
//! and only at lanes that the change may help.

use std::collections::BTreeMap;

use serde::Serialize;

use super::choices::{Choice, times};
use super::entries::{Grant, LaneIx, Slot, State, TenantIx, micros};
use super::queue::{Order, Parked};
use super::state::by;
use super::tournament::Tournament;
use super::tree::{Ix, KeyIx};
use super::victims::are_free;
use super::{Admissions, Amount, Rule, Strategy, View, WhyNot};
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
        if self.dirty.is_empty() {
            self.turn = 0;
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
                self.wake(root, now);
            }
            let state = self.roots.entry(root).or_default();
            if state.active.is_empty() {
                state.active = std::mem::take(&mut state.later);
            }
            if state.active.is_empty() {
                if self.withheld_in_vain(root) || self.keeps_less(root) {
                    self.roots.entry(root).or_default().released = true;
                    continue;
                }
                self.wake_for_exposed(root);
                if self.roots.entry(root).or_default().active.is_empty() {
                    self.dirty.remove(&root);
                    return true;
                }
            }
            if !self.round(root, now, most, decisions) {
                return false;
            }
        }
        false
    }

    /// Admits whoever was promised room, as soon as enough is free, be it of
    /// its victims or not, unless its kind is set aside or the option passed over.
    fn keep_promises(&mut self, root: Ix, decisions: &mut Vec<Decision>) {
        let claims: Vec<(u64, Slot)> = self.roots.entry(root).or_default().claims.iter().copied().collect();
        for claim in claims {
            let entry = self.entries.get(claim.1);
            let State::Claimed { grant, .. } = &entry.state else { continue };
            let kind = entry.ask.kind;
            let tried = !self.aside.contains(&kind) && !self.is_passed_over(kind, grant.option);
            if !tried || !are_free(&self.tree, entry.leaf, &grant.amounts) {
                continue;
            }
            let grant = grant.clone();
            self.roots.entry(root).or_default().claims.remove(&claim);
            self.take_up(claim.1, grant, decisions);
        }
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
        let choice = self.open_to(tenant, |open| {
            let found = open.choose_fit(tenant_node, &shape, shape.count);
            found.filter(|c| c.level == 0 || !open.preempts_first(tenant_node)).unwrap_or_else(|| {
                let amounts = times(open.preferred(&shape).unwrap_or(&shape.options[0]), shape.count);
                let level = open.level(tenant_node, &amounts);
                Choice { option: usize::MAX, count: 0, amounts, level, victims: Vec::new() }
            })
        });
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
        let kind = self.entries.get(head.slot).ask.kind;
        if self.aside.contains(&kind) && self.has_room(head.tenant, head.lane) {
            return self.park_aside(head.tenant, head.lane);
        }
        let policies = self.tree.nodes[head.tenant_node as usize].policies;
        let strict = policies.strategy == Strategy::StrictFifo;
        if let Some(lane) = self.tenants[head.tenant as usize].queue.blocked_lane() {
            self.wake_lane(head.tenant, lane);
        }
        let by = by(&self.settings, head.leaf);
        let tenant = &mut self.tenants[head.tenant as usize];
        tenant.queue.park(head.lane, by, Parked { why, aside: false }, strict);
        self.note(head.tenant, head.lane);
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
                    self.recalled.insert(workload);
                    decisions.push(Decision::Recall { workload, tenant, preemptor: id, rule });
                }
                State::Pending | State::OnHold | State::Leaving { .. } => {}
            }
        }
        let entry = self.entries.get(slot);
        let (tenant, leaf, ask) = (entry.tenant, entry.leaf, entry.ask.clone());
        self.lift(tenant);
        let root = self.root_of(tenant);
        self.roots.entry(root).or_default().exposed |= self.exposes(tenant, &choice.amounts);
        for &(key, amount) in &choice.amounts {
            self.tree.add(View::Promised, leaf, key, amount);
        }
        let at_us = micros(now);
        let grant = Grant { option: choice.option, count: choice.count, amounts: choice.amounts, at_us };
        self.tenants[tenant as usize].granted.insert(slot, &ask, &grant, false);
        self.budgets.reserve(&self.path(leaf), &self.spends(&grant.amounts, &ask.budget));
        if self.settings.history.is_some() {
            let of = |key| grant.amounts.iter().find(|a| a.0 == key).map_or(0, |a| a.1);
            let measure = self.measure(self.tenants[tenant as usize].node, of);
            self.remember(tenant, leaf, now, measure);
        }
        if are_free(&self.tree, leaf, &grant.amounts) {
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
        self.roots.entry(root).or_default().claims.insert((order, slot));
    }

    /// What was granted is held from now on.
    fn take_up(&mut self, slot: Slot, grant: Grant, decisions: &mut Vec<Decision>) {
        let entry = self.entries.get_mut(slot);
        self.tenants[entry.tenant as usize].granted.take_up(&entry.ask);
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
