//! For each kind of request, the groups in order of preference, kept up with
//! what changed since the last request of the kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::groups::Groups;
use super::prices::{MAX_SIZES, Table};
use super::score::{self, Key, Lost, Place};
use super::state::Realm;
use super::{Ask, Considered, Filter, Weights};

/// Most kinds of request that are kept in order; beyond it the longest unused
/// is forgotten.
const MAX_SHAPES: usize = 256;

/// The present prices.
pub(super) struct Pricing {
    /// From 1; changes with the prices.
    pub version: u64,
    /// Of each realm.
    pub tables: Vec<Arc<Table>>,
    /// What losing a place of each size costs now, in steps, by market.
    pub places: Vec<[i64; MAX_SIZES]>,
}

impl Pricing {
    /// What these places cost, in steps.
    pub fn steps(&self, market: usize, lost: Lost) -> i64 {
        let prices = self.places.get(market).copied().unwrap_or_default();
        lost.iter().zip(prices).map(|(lost, price)| i64::from(*lost) * price).sum()
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Unknown,
    Rejected(Filter),
    Fits { listed: bool },
}

/// A place and how good it is: key, group, device.
type Ranked = (Key, u32, u8);

/// Places of one market that cost the same places for several devices.
struct Lane {
    market: usize,
    lost: Lost,
    order: BTreeSet<Ranked>,
}

/// The best place.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub group: u32,
    pub device: u8,
}

/// The order for one kind of request.
pub(super) struct Shape {
    ask: Ask,
    verdicts: Vec<Verdict>,
    lanes: Vec<Lane>,
    found: Vec<Place>,
    considered: Considered,
    /// Events that are worked in.
    cursor: u64,
    /// Prices and numbering that it is of.
    basis: (u64, u64),
    used: u64,
}

/// What an order is made from.
pub(super) struct Context<'a> {
    pub groups: &'a mut Groups,
    pub realms: &'a [Realm],
    pub pricing: &'a Pricing,
    pub weights: &'a Weights,
}

impl Shape {
    fn new(ask: Ask) -> Self {
        Self {
            ask,
            verdicts: Vec::new(),
            lanes: Vec::new(),
            found: Vec::new(),
            considered: Considered::default(),
            cursor: 0,
            basis: (0, 0),
            used: 0,
        }
    }

    pub fn considered(&self) -> Considered {
        self.considered
    }

    /// The best place in a group that has workers, at these prices.
    pub fn best(&mut self, groups: &Groups, pricing: &Pricing) -> Option<Best> {
        let mut best: Option<((i64, Key), Best)> = None;
        for lane in &mut self.lanes {
            while let Some(&(key, group, device)) = lane.order.first() {
                if groups.get(group).count == 0 {
                    lane.order.pop_first();
                    self.verdicts[group as usize] = Verdict::Fits { listed: false };
                    continue;
                }
                let rank = (key.step + pricing.steps(lane.market, lane.lost), key);
                if best.is_none_or(|(least, _)| rank < least) {
                    best = Some((rank, Best { group, device }));
                }
                break;
            }
        }
        best.map(|(_, best)| best)
    }

    /// Each lane in order of preference, with its step at these prices; some
    /// groups may have no workers any more.
    pub fn lanes<'a>(
        &'a self,
        pricing: &'a Pricing,
    ) -> impl Iterator<Item = impl Iterator<Item = (i64, Key, Best)>> {
        self.lanes.iter().map(|lane| {
            let steps = pricing.steps(lane.market, lane.lost);
            lane.order
                .iter()
                .map(move |&(key, group, device)| (key.step + steps, key, Best { group, device }))
        })
    }

    fn catch_up(&mut self, context: &mut Context<'_>) {
        let basis = (context.pricing.version, context.groups.numbering);
        let now = context.groups.now();
        self.verdicts.resize(context.groups.len(), Verdict::Unknown);
        if self.basis == basis && self.cursor >= context.groups.begins() {
            for number in self.cursor..now {
                let Some(event) = context.groups.event(number) else { continue };
                // One that was never seen with workers and has none now came
                // and went unseen.
                let unseen = matches!(self.verdicts[event.group as usize], Verdict::Unknown);
                if !unseen || context.groups.get(event.group).count > 0 {
                    self.learn(event.group, context);
                    let change = if event.joined { 1 } else { -1 };
                    self.count(event.group, change);
                }
            }
        } else {
            self.verdicts.fill(Verdict::Unknown);
            self.lanes.clear();
            self.considered = Considered::default();
            for group in 0..u32::try_from(context.groups.len()).expect("groups have such numbers") {
                let count = context.groups.get(group).count;
                if count > 0 {
                    self.learn(group, context);
                    self.count(group, count.cast_signed());
                }
            }
        }
        (self.cursor, self.basis) = (now, basis);
    }

    fn count(&mut self, group: u32, change: i32) {
        let rejection = match self.verdicts[group as usize] {
            Verdict::Rejected(filter) => Some(filter),
            Verdict::Fits { .. } | Verdict::Unknown => None,
        };
        let slot = self.considered.slot(rejection);
        *slot = slot.wrapping_add_signed(change);
    }

    /// Judges a group, and puts it in order if the request fits there.
    fn learn(&mut self, group: u32, context: &mut Context<'_>) {
        let known = self.verdicts[group as usize];
        if matches!(known, Verdict::Rejected(_) | Verdict::Fits { listed: true }) {
            return;
        }
        if let Some(filter) = rejection(&self.ask, group, context) {
            self.verdicts[group as usize] = Verdict::Rejected(filter);
            return;
        }
        // A place in a group without workers would only be thrown away.
        let listed = context.groups.get(group).count > 0;
        self.verdicts[group as usize] = Verdict::Fits { listed };
        if !listed {
            return;
        }
        let market = places(&self.ask, group, context, &mut self.found);
        for place in &self.found {
            let ranked = (place.key, group, place.device);
            match self.lanes.iter_mut().find(|lane| lane.market == market && lane.lost == place.lost) {
                Some(lane) => {
                    lane.order.insert(ranked);
                }
                None => {
                    self.lanes.push(Lane { market, lost: place.lost, order: BTreeSet::from([ranked]) });
                }
            }
        }
    }
}

fn rejection(ask: &Ask, group: u32, context: &Context<'_>) -> Option<Filter> {
    let state = &context.groups.get(group).state;
    if state.cordoned {
        return Some(Filter::Cordoned);
    }
    context.realms[state.realm as usize].rejects(ask).or_else(|| state.rejects(&ask.needs))
}

/// The best places in a group where the request fits, and its market.
pub(super) fn places(ask: &Ask, id: u32, context: &mut Context<'_>, found: &mut Vec<Place>) -> usize {
    let realm = context.groups.get(id).state.realm as usize;
    let table = &context.pricing.tables[realm];
    let worth = context.groups.worth(id, context.pricing.version, table);
    let group = context.groups.get(id);
    score::evaluate(context.weights, table, &ask.needs, &group.state, &worth, group.fingerprint, found);
    table.market
}

/// The kinds of request that are kept in order.
#[derive(Default)]
pub(super) struct Shapes {
    ids: BTreeMap<Ask, usize>,
    list: Vec<Shape>,
    uses: u64,
}

impl Shapes {
    /// The order for a request, up to date.
    pub fn of(&mut self, ask: &Ask, context: &mut Context<'_>) -> &mut Shape {
        let id = match self.ids.get(ask) {
            Some(id) => *id,
            None => self.create(ask),
        };
        self.uses += 1;
        let shape = &mut self.list[id];
        shape.used = self.uses;
        shape.catch_up(context);
        shape
    }

    /// How many kinds there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    fn create(&mut self, ask: &Ask) -> usize {
        let shape = Shape::new(ask.clone());
        let id = if self.list.len() < MAX_SHAPES {
            self.list.push(shape);
            self.list.len() - 1
        } else {
            let unused = self.list.iter().enumerate().min_by_key(|(_, shape)| shape.used);
            let id = unused.map_or(0, |(id, _)| id);
            self.ids.remove(&self.list[id].ask);
            self.list[id] = shape;
            id
        };
        self.ids.insert(ask.clone(), id);
        id
    }
}

/// The best place in one group for a request, with its step, if it fits.
pub(super) fn best_in(ask: &Ask, group: u32, context: &mut Context<'_>) -> Option<(i64, Key, Best)> {
    if rejection(ask, group, context).is_some() {
        return None;
    }
    let mut found = Vec::new();
    let market = places(ask, group, context, &mut found);
    let ranked = found.iter().map(|place| {
        let step = place.key.step + context.pricing.steps(market, place.lost);
        (step, place.key, Best { group, device: place.device })
    });
    ranked.min_by_key(|(step, key, _)| (*step, *key))
}
