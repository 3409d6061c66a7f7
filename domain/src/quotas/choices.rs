//! What could be done for the head of a queue: which class, how many, at whose
//! cost, or why nothing.

use super::admission::Nomination;
use super::budgets::Short;
use super::entries::Slot;
use super::queue::Shape;
use super::reasons::first_obstacle;
use super::tree::{Ix, KeyIx};
use super::victims::{Victim, may_have};
use super::{Admissions, Amount, Fungibility, Level, Reclaim, View, WhyNot};

/// What to do for a head.
pub(super) struct Choice {
    pub option: usize,
    pub count: u32,
    pub amounts: Vec<(KeyIx, Amount)>,
    pub level: u32,
    pub victims: Vec<Victim>,
}

/// What an option comes to for `count` members.
pub(super) fn times(option: &[(KeyIx, Amount)], count: u32) -> Vec<(KeyIx, Amount)> {
    option.iter().map(|&(key, amount)| (key, amount * Amount::from(count))).collect()
}

impl Admissions {
    pub(super) fn preempts_first(&self, tenant_node: Ix) -> bool {
        self.tree.nodes[tenant_node as usize].policies.fungibility == Fungibility::PreemptFirst
    }

    pub(super) fn level(&self, tenant_node: Ix, amounts: &[(KeyIx, Amount)]) -> u32 {
        let level = |&(key, amount): &(KeyIx, Amount)| match amount {
            0 => 0,
            _ => self.tree.borrowing_level(View::Kept, tenant_node, key, amount),
        };
        amounts.iter().map(level).max().unwrap_or(0)
    }

    /// The first class with room that is the tenant's own, else the first with
    /// room.
    pub(super) fn choose_fit(&self, tenant_node: Ix, shape: &Shape, count: u32) -> Option<Choice> {
        let mut first = None;
        for (ix, option) in shape.options.iter().enumerate() {
            let amounts = times(option, count);
            let closed = self.does_without(shape, ix, &amounts) || self.short_of_budget(shape, ix).is_some();
            if closed || !may_have(&self.tree, shape.leaf, &amounts) {
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
            // It is not quota that is missing.
            let missing =
                may_have(&self.tree, shape.leaf, &amounts) && self.does_without(shape, ix, &amounts);
            if missing || self.short_of_budget(shape, ix).is_some() {
                continue;
            }
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
    pub(super) fn choose(&mut self, nomination: &Nomination) -> Result<Choice, WhyNot> {
        let shape = self.tenants[nomination.tenant as usize].queue.lane(nomination.lane).shape.clone();
        let (slot, node) = (nomination.slot, nomination.tenant_node);
        if let Some(short) = self.all_short_of_budget(&shape) {
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

    /// The first budget that has too little, if that is so of every option that
    /// is not passed over.
    pub(super) fn all_short_of_budget(&self, shape: &Shape) -> Option<Short> {
        if self.budgets.is_empty() {
            return None;
        }
        let open = (0..shape.options.len()).filter(|option| !self.is_passed_over(shape.kind, *option));
        let short: Option<Vec<Short>> = open.map(|option| self.short_of_budget(shape, option)).collect();
        short?.into_iter().next()
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
        let amounts = times(self.preferred(shape).unwrap_or(&shape.options[0]), shape.count);
        let node = self.tree.tenant_of(shape.leaf);
        let Some(mut why) = first_obstacle(&self.tree, shape.leaf, &amounts) else {
            return WhyNot::of(Level::Cohort);
        };
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
}
