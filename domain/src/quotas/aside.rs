//! Kinds of workload that are set aside, because something other than quota
//! keeps them all: they wait without keeping anything from others. Where it is
//! only some of their options that nothing but quota would allow, these are
//! passed over.

use super::choices::times;
use super::entries::{LaneIx, State, TenantIx};
use super::queue::{Parked, Shape};
use super::state::by;
use super::tree::KeyIx;
use super::victims::{are_free, may_have};
use super::{Admissions, Amount, Level, WhyNot};
use crate::WorkloadId;

impl Admissions {
    /// Nothing of this kind ([`super::Ask::kind`]) that quota would admit is tried
    /// until it is brought back.
    pub fn set_aside(&mut self, kind: u32) {
        self.aside.insert(kind);
        let narrowed = self.passed_over.remove(&kind).is_some();
        for (tenant, lane) in self.kinds.get(&kind).cloned().unwrap_or_default() {
            if narrowed && !self.is_lane_aside(tenant, lane) {
                self.try_lane(tenant, lane);
            }
            let tried = self.tenants[tenant as usize].queue.lane(lane).parked.is_none();
            if tried && self.has_room(tenant, lane) {
                self.park_aside(tenant, lane);
                let root = self.root_of(tenant);
                self.dirty.insert(root);
            }
        }
    }

    /// A kind is tried again.
    pub fn bring_back(&mut self, kind: u32) {
        self.pass_over(kind, 0);
    }

    /// A kind is tried, but options that quota would admit it in are passed over:
    /// a bit each, not all of them.
    pub fn pass_over(&mut self, kind: u32, options: u16) {
        let was_aside = self.aside.remove(&kind);
        let before = match options {
            0 => self.passed_over.remove(&kind),
            _ => self.passed_over.insert(kind, options),
        };
        let changed = before.unwrap_or(0) != options;
        if was_aside || changed {
            for (&ix, root) in self.roots.iter_mut().filter(|(_, root)| !root.claims.is_empty()) {
                root.left = true;
                self.dirty.insert(ix);
            }
        }
        for (tenant, lane) in self.kinds.get(&kind).cloned().unwrap_or_default() {
            // Beside what is not tried because of devices, an option may lack quota.
            let several = self.tenants[tenant as usize].queue.lane(lane).shape.options.len() > 1;
            if !self.bring_lane_back(tenant, lane) && (changed || was_aside && several) {
                self.try_lane(tenant, lane);
            }
        }
    }

    /// A lane is tried again, now that other options of it may be.
    fn try_lane(&mut self, tenant: TenantIx, lane: LaneIx) {
        self.wake_lane(tenant, lane);
        let root = self.root_of(tenant);
        self.dirty.insert(root);
    }

    /// Whether an option of a kind is passed over.
    pub(super) fn is_passed_over(&self, kind: u32, option: usize) -> bool {
        self.passed_over.get(&kind).is_some_and(|options| options & (1 << option) != 0)
    }

    /// Whether it is not for quota that a kind does without an option that quota has
    /// room for.
    pub(super) fn does_without(&self, shape: &Shape, option: usize, amounts: &[(KeyIx, Amount)]) -> bool {
        self.is_passed_over(shape.kind, option)
            || self.aside.contains(&shape.kind) && are_free(&self.tree, shape.leaf, amounts)
    }

    /// In which options devices would take a kind now, a bit each: quota is kept for
    /// it in the first of them. Returns whether they are others than before.
    pub fn tell_takers(&mut self, kind: u32, options: u16) -> bool {
        let changed = self.takers.insert(kind, options) != Some(options);
        if changed {
            for (tenant, _) in self.kinds.get(&kind).cloned().unwrap_or_default() {
                self.keep(tenant);
                let root = self.root_of(tenant);
                self.dirty.insert(root);
            }
        }
        changed
    }

    /// What a shape asks for in the first option that devices would take it in now,
    /// and of which its budgets have enough; if there is one.
    pub(super) fn preferred<'a>(&self, shape: &'a Shape) -> Option<&'a [(KeyIx, Amount)]> {
        let takers = self.takers.get(&shape.kind).copied().unwrap_or(u16::MAX);
        let open =
            |option: &usize| takers & (1 << option) != 0 && self.short_of_budget(shape, *option).is_none();
        (0..shape.options.len()).find(open).map(|option| &shape.options[option][..])
    }

    /// After others were granted something: lanes that are set aside with their
    /// kind and for which quota has no room any more are tried again, since they
    /// may preempt or be promised some; so are those set aside by themselves, for
    /// which there may be other victims. Returns whether there are any.
    pub fn bring_back_crowded_out(&mut self) -> bool {
        let mut any = self.bring_lanes_back();
        for kind in self.aside.iter().copied().collect::<Vec<_>>() {
            for (tenant, lane) in self.kinds.get(&kind).cloned().unwrap_or_default() {
                if self.is_lane_aside(tenant, lane) && !self.has_room(tenant, lane) {
                    any |= self.bring_lane_back(tenant, lane);
                }
            }
        }
        any
    }

    /// Whether the first of a lane could be admitted at once, in any of its options.
    pub(super) fn has_room(&mut self, tenant: TenantIx, lane: LaneIx) -> bool {
        let shape = self.tenants[tenant as usize].queue.lane(lane).shape.clone();
        if self.all_short_of_budget(&shape).is_some() {
            return false;
        }
        self.open_to(tenant, |open| {
            shape.options.iter().enumerate().all(|(ix, option)| {
                let amounts = times(option, shape.min_count);
                let has = || may_have(&open.tree, shape.leaf, &amounts);
                open.short_of_budget(&shape, ix).is_some()
                    || has() && are_free(&open.tree, shape.leaf, &amounts)
            })
        })
    }

    /// What stands in line with a workload is not tried until
    /// [`Self::bring_lanes_back`]: it could preempt, but that would not help it.
    pub fn set_lane_aside(&mut self, id: WorkloadId) {
        let Some(slot) = self.entries.find(id) else { return };
        let entry = self.entries.get(slot);
        let (tenant, lane) = (entry.tenant, entry.lane);
        if !matches!(entry.state, State::Pending) {
            return;
        }
        if self.tenants[tenant as usize].queue.lane(lane).parked.is_none() {
            self.park_aside(tenant, lane);
        }
        self.lanes_aside.insert((tenant, lane));
    }

    /// Lanes that were set aside by themselves are tried again; whether there
    /// are any.
    pub fn bring_lanes_back(&mut self) -> bool {
        let lanes = std::mem::take(&mut self.lanes_aside);
        lanes.into_iter().fold(false, |any, (tenant, lane)| self.bring_lane_back(tenant, lane) || any)
    }

    fn is_lane_aside(&self, tenant: TenantIx, lane: LaneIx) -> bool {
        let parked = self.tenants[tenant as usize].queue.lane(lane).parked.as_ref();
        parked.is_some_and(|parked| parked.aside)
    }

    /// Whether it was aside.
    fn bring_lane_back(&mut self, tenant: TenantIx, lane: LaneIx) -> bool {
        let aside = self.is_lane_aside(tenant, lane);
        if aside {
            self.try_lane(tenant, lane);
        }
        aside
    }

    /// Whether a kind is set aside.
    pub fn is_aside(&self, kind: u32) -> bool {
        self.aside.contains(&kind)
    }

    /// Kinds of which something waits.
    pub fn waiting_kinds(&self) -> Vec<u32> {
        self.kinds.iter().filter(|(_, lanes)| !lanes.is_empty()).map(|(kind, _)| *kind).collect()
    }

    /// Kinds that are set aside.
    pub fn aside(&self) -> impl Iterator<Item = u32> {
        self.aside.iter().copied()
    }

    /// What waits of a kind.
    pub fn of_kind(&self, kind: u32) -> impl Iterator<Item = WorkloadId> {
        let lanes = self.kinds.get(&kind).into_iter().flatten();
        lanes.flat_map(|&(tenant, lane)| {
            self.tenants[tenant as usize].queue.lane(lane).items.iter().map(|item| item.1)
        })
    }

    pub(super) fn park_aside(&mut self, tenant: TenantIx, lane: LaneIx) {
        let queue = &mut self.tenants[tenant as usize].queue;
        let by = by(&self.settings, queue.lane(lane).shape.leaf);
        queue.park(lane, by, Parked { why: WhyNot::of(Level::Devices), aside: true }, false);
        self.note(tenant, lane);
    }

    /// Remembers a lane whose reason is another than before.
    pub(super) fn note(&mut self, tenant: TenantIx, lane: LaneIx) {
        let queue = &mut self.tenants[tenant as usize].queue;
        if queue.is_news(lane) {
            self.news.insert((tenant, lane));
        }
    }

    /// What waits for another reason than when this was last asked.
    pub fn take_news(&mut self) -> Vec<WorkloadId> {
        let lanes = std::mem::take(&mut self.news);
        let items = lanes.into_iter().flat_map(|(tenant, lane)| {
            self.tenants[tenant as usize].queue.lane(lane).items.iter().map(|item| item.1)
        });
        items.collect()
    }
}
