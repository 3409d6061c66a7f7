//! Carries a case out on the planner and on the model side by side, and checks
//! after every step that they agree and that nothing was broken.

use std::collections::BTreeMap;

use super::dsl::at;
use super::generate::{Case, Op, keys};
use super::model::{Kept, Model, Work, times};
use crate::quotas::victims::Shares;
use crate::quotas::*;
use crate::{Timestamp, WorkloadId};

pub struct Drive {
    pub admissions: Admissions,
    pub model: Model,
    pub now: u64,
    case: Case,
    /// Identifiers in the order of arrival, those that are gone too.
    ids: Vec<WorkloadId>,
    overruns: [BTreeMap<(NodeId, Key), Amount>; 2],
    /// Quota was cut or spent beyond what was reserved: limits may be
    /// exceeded, if not any further.
    pub was_cut: bool,
}

impl Drive {
    pub fn new(case: &Case) -> Self {
        let admissions = Admissions::new(case.settings, case.nodes.clone()).unwrap();
        let specs = case.nodes.iter().map(|s| (s.id, s.clone())).collect();
        Self {
            admissions,
            model: Model { specs, ..Model::default() },
            now: 1000,
            case: case.clone(),
            ids: Vec::new(),
            overruns: Default::default(),
            was_cut: false,
        }
    }

    fn at(&self) -> Timestamp {
        at(self.now)
    }

    /// The `nth` that is there, of those that are in a standing.
    fn pick(&self, nth: usize, standings: &[Standing]) -> Option<WorkloadId> {
        let found =
            |id: &&WorkloadId| self.model.work.get(id).is_some_and(|w| standings.contains(&w.standing));
        let all: Vec<_> = self.ids.iter().filter(found).collect();
        (!all.is_empty()).then(|| *all[nth % all.len()])
    }

    /// Does one thing; returns what was decided, if that was asked.
    pub fn step(&mut self, op: &Op) -> Vec<Decision> {
        use Standing::*;
        self.now += 1;
        let mut decisions = Vec::new();
        match op {
            Op::Arrives(wanted) => {
                let ask = self.case.ask(self.ids.len(), wanted, self.now);
                self.ids.push(ask.id);
                self.arrive(ask);
            }
            Op::Ends(nth, spent) => {
                if let Some(id) = self.pick(*nth, &[Pending, Promised, Admitted, Leaving]) {
                    self.release(id, *spent);
                }
            }
            Op::Evict(nth) => {
                if let Some(id) = self.pick(*nth, &[Admitted]) {
                    assert!(self.admissions.evict(id, at(self.now)));
                    self.work(id).standing = Leaving;
                }
            }
            Op::Leaves(nth, again) => {
                if let Some(id) = self.pick(*nth, &[Leaving]) {
                    self.leave(id, *again);
                }
            }
            Op::AllLeave => {
                while let Some(id) = self.pick(0, &[Leaving]) {
                    self.leave(id, true);
                }
            }
            Op::Hold(nth) => {
                if let Some(id) = self.pick(*nth, &[Pending]) {
                    let hold = Hold { level: Level::Zone, detail: "it is full".into() };
                    assert!(self.admissions.set_hold(id, Some(hold.clone())));
                    self.work(id).ask.hold = Some(hold);
                }
            }
            Op::Unhold(nth) => {
                if let Some(id) = self.pick(*nth, &[Pending]) {
                    assert!(self.admissions.set_hold(id, None));
                    self.work(id).ask.hold = None;
                }
            }
            Op::Quota(nth, quota) => self.change_quota(*nth, *quota),
            Op::BeginPeriod(nth) => {
                let node = self.case.nodes[nth % self.case.nodes.len()].id;
                if self.admissions.begin_period(node, &BudgetKind::Tokens) {
                    self.model.spent.remove(&(node, BudgetKind::Tokens));
                }
            }
            Op::Cycle => {
                decisions = self.cycle();
                decisions.iter().for_each(|d| println!("{}: {d:?}", self.now));
            }
        }
        self.check();
        decisions
    }

    fn work(&mut self, id: WorkloadId) -> &mut Work {
        self.model.work.get_mut(&id).unwrap()
    }

    fn arrive(&mut self, ask: Ask) {
        if !self.model.specs.contains_key(&NodeId::Tenant(ask.tenant)) {
            let node = NodeId::Tenant(ask.tenant);
            self.model.specs.insert(node, NodeSpec::new(node, None));
        }
        self.admissions.enqueue(ask.clone()).unwrap();
        self.model.work.insert(ask.id, Work { ask, standing: Standing::Pending, option: 0, count: 0 });
    }

    /// Its time as it reserved, but no more than it reserved: what is spent
    /// beyond that is tried by name elsewhere.
    fn release(&mut self, id: WorkloadId, spent: Amount) {
        let work = self.model.work.remove(&id).unwrap();
        let spent: Vec<_> = work.ask.budget.iter().map(|(k, most)| (k.clone(), spent.min(*most))).collect();
        let standing = self.admissions.release(id, &spent, self.at());
        assert_eq!(standing, Some(work.standing));
        if matches!(work.standing, Standing::Admitted | Standing::Leaving) {
            for node in self.model.path(self.model.leaf(&work.ask)) {
                for (kind, amount) in &spent {
                    *self.model.spent.entry((node, kind.clone())).or_default() += amount;
                }
            }
        }
    }

    fn leave(&mut self, id: WorkloadId, again: bool) {
        let ask = self.model.work[&id].ask.clone();
        self.release(id, 0);
        if again {
            self.arrive(Ask { queued_at: self.at(), ..ask });
        }
    }

    fn change_quota(&mut self, nth: usize, quota: Quota) {
        let node = self.case.nodes[nth % self.case.nodes.len()].id;
        let mut nodes = self.admissions.specs();
        let key = keys()[nth % 3].clone();
        for spec in
            [nodes.iter_mut().find(|s| s.id == node).unwrap(), self.model.specs.get_mut(&node).unwrap()]
        {
            spec.quotas.insert(key.clone(), quota);
        }
        self.admissions.reconfigure(self.case.settings, nodes).unwrap();
        self.was_cut = true;
        self.kept();
        self.overruns = self.overrun();
    }

    /// Takes over from the planner what it keeps, which is its own affair.
    fn kept(&mut self) {
        let mut kept = Kept::new();
        for tenant in &self.admissions.tenants {
            let node = self.admissions.tree.nodes[tenant.node as usize].id;
            for &(key, amount) in &tenant.kept {
                kept.insert((node, self.admissions.tree.key(key).clone()), amount);
            }
        }
        self.model.kept = kept;
    }

    /// How far limits are exceeded by what is held or promised.
    fn overrun(&self) -> [BTreeMap<(NodeId, Key), Amount>; 2] {
        let without = Model { kept: Kept::new(), ..self.model.clone() };
        [View::Held, View::Promised].map(|view| without.overruns(view, &keys()))
    }

    /// Starts anew from what a snapshot says.
    pub fn reborn(&mut self) {
        let snapshot = self.admissions.snapshot();
        self.admissions = Admissions::from_snapshot(snapshot.clone()).unwrap();
        assert_eq!(self.admissions.snapshot(), snapshot);
    }

    /// Looks for victims for everything that waits: the sets are minimal, and
    /// a look leaves no trace. Returns how many sets there were.
    pub fn check_searches(&mut self) -> usize {
        self.kept();
        let mut found = 0;
        let waits = |w: &&Work| w.standing == Standing::Pending && w.ask.hold.is_none();
        for work in self.model.work.values().filter(waits) {
            let ask = &work.ask;
            let node = NodeId::Tenant(ask.tenant);
            for option in 0..ask.options.len() {
                let mut open = self.admissions.clone();
                let slot = open.entries.find(ask.id).unwrap();
                open.lift(open.entries.get(slot).tenant);
                let amounts = open.amounts(slot, option, ask.count);
                let mut model = self.model.clone();
                model.kept.retain(|(n, _), _| *n != node);
                let wanted = times(ask, option, ask.count);
                if model.may_have(ask, &wanted) {
                    continue;
                }
                #[expect(clippy::redundant_closure_for_method_calls, reason = "it is of one lifetime only")]
                let may = open.search(slot, &amounts, |search, wish| search.could_help(wish));
                let blind = !self.case.settings.fair_sharing || {
                    let root = open.tree.nodes[open.entries.get(slot).leaf as usize].root;
                    let shares = Shares::new(&open.tree, root);
                    open.search(slot, &amounts, |search, wish| {
                        search.fair_could_help(wish, &shares) || search.fair(wish).is_none()
                    })
                };
                assert!(blind, "what could not help would have");
                let before = open.tree.clone();
                let victims = open.victims(slot, &amounts);
                for key in open.tree.keys() {
                    let all = || open.tree.node_ids().map(|node| (node, key));
                    let of = |tree: &Tree| all().map(|(n, k)| tree.figures(n, k)).collect::<Vec<_>>();
                    assert_eq!(of(&before), of(&open.tree), "a search left a trace");
                }
                let Some(victims) = victims else { continue };
                assert!(may || self.case.settings.fair_sharing, "what could not help did");
                found += 1;
                let ids: Vec<_> = victims.iter().map(|v| open.entries.get(v.0).ask.id).collect();
                for id in &ids {
                    model.work.get_mut(id).unwrap().standing = Standing::Pending;
                }
                assert!(model.may_have(ask, &wanted));
                let borrows = |model: &Model| {
                    wanted.iter().filter(|w| w.1 > 0).any(|(key, amount)| {
                        model.usage(View::Promised, node, key) + amount > model.subtree(node, key)
                    })
                };
                let borrowed = borrows(&model);
                for id in ids {
                    let standing = self.model.work[&id].standing;
                    model.work.get_mut(&id).unwrap().standing = standing;
                    let spared = model.may_have(ask, &wanted) && borrows(&model) == borrowed;
                    assert!(!spared, "{id} need not leave for {}", ask.id);
                    model.work.get_mut(&id).unwrap().standing = Standing::Pending;
                }
            }
        }
        found
    }

    pub fn cycle(&mut self) -> Vec<Decision> {
        let decisions = self.admissions.cycle(self.at(), usize::MAX);
        assert!(self.admissions.is_settled());
        self.model.kept.clear();
        for (n, decision) in decisions.iter().enumerate() {
            self.carry_out(decision, &decisions[n..]);
        }
        self.kept();
        self.check_settled();
        decisions
    }

    fn carry_out(&mut self, decision: &Decision, from_here: &[Decision]) {
        match *decision {
            Decision::Admit { workload, option, count, .. } => {
                let work = self.model.work[&workload].clone();
                let amounts = times(&work.ask, option, count);
                match work.standing {
                    Standing::Pending => self.check_grant(&work, option, count),
                    Standing::Promised => assert_eq!((work.option, work.count), (option, count)),
                    other => panic!("{other:?} cannot be admitted"),
                }
                assert!(self.model.fits(View::Held, &work.ask, &amounts), "no room for {workload}");
                *self.work(workload) = Work { standing: Standing::Admitted, option, count, ..work };
            }
            Decision::Promise { workload, option, count, .. } => {
                let work = self.model.work[&workload].clone();
                assert_eq!(work.standing, Standing::Pending);
                self.check_grant(&work, option, count);
                *self.work(workload) = Work { standing: Standing::Promised, option, count, ..work };
            }
            Decision::Evict { workload, preemptor, rule, .. } => {
                assert_eq!(self.model.work[&workload].standing, Standing::Admitted);
                self.check_victim(workload, preemptor, rule, from_here);
                self.work(workload).standing = Standing::Leaving;
            }
            Decision::Recall { workload, preemptor, rule, .. } => {
                assert_eq!(self.model.work[&workload].standing, Standing::Promised);
                self.check_victim(workload, preemptor, rule, from_here);
                self.work(workload).standing = Standing::Pending;
            }
        }
    }

    /// What was asked is granted, there is room, and it can be paid.
    fn check_grant(&self, work: &Work, option: usize, count: u32) {
        let ask = &work.ask;
        assert!(ask.hold.is_none());
        assert!((ask.min_count.unwrap_or(ask.count)..=ask.count).contains(&count));
        assert!(self.model.fits(View::Promised, ask, &times(ask, option, count)), "no room for {}", ask.id);
        assert!(self.model.affords(ask), "overspent by {}", ask.id);
    }

    /// Whether one may be preempted by the other by that rule.
    fn check_victim(&self, victim: WorkloadId, preemptor: WorkloadId, rule: Rule, from_here: &[Decision]) {
        let model = &self.model;
        let (victim, wish) = (&model.work[&victim], &model.work[&preemptor]);
        let (tenant, other) = (wish.ask.tenant, victim.ask.tenant);
        let policies = model.specs[&NodeId::Tenant(tenant)].policies;
        let lower = victim.ask.priority < wish.ask.priority;
        let granted = from_here.iter().find_map(|d| match d {
            Decision::Promise { workload, option, count, .. }
            | Decision::Admit { workload, option, count, .. }
                if *workload == preemptor =>
            {
                Some((*option, *count))
            }
            _ => None,
        });
        let (option, count) = granted.expect("a preemptor is granted what it preempts for");
        let wanted = times(&wish.ask, option, count);
        let contends = |key: &Key| wanted.iter().any(|w| w.0 == *key && w.1 > 0) && victim.amount(key) > 0;
        if tenant == other {
            assert_eq!(rule, Rule::WithinTenant);
            let newer = victim.ask.priority == wish.ask.priority && victim.ask.queued_at > wish.ask.queued_at;
            assert!(match policies.within {
                WithinTenant::Never => false,
                WithinTenant::LowerPriority => lower,
                WithinTenant::LowerOrNewerEqualPriority => lower || newer,
            });
            assert!(keys().iter().any(contends), "{} was of no use", victim.ask.id);
            return;
        }
        match policies.reclaim {
            Reclaim::Never => panic!("{tenant} may not reclaim"),
            Reclaim::LowerPriority => assert!(lower),
            Reclaim::Any => {}
        }
        match (rule, policies.borrow) {
            (Rule::WithinTenant, _) => panic!("{tenant} is not {other}"),
            (Rule::ReclaimWhileBorrowing, BorrowWhilePreempting::LowerPriority { max_priority }) => {
                assert!(lower && max_priority.is_none_or(|most| victim.ask.priority <= most));
            }
            (Rule::ReclaimWhileBorrowing, BorrowWhilePreempting::Never) => panic!("{tenant} may not borrow"),
            (Rule::FairShare, _) => assert!(self.case.settings.fair_sharing),
            (Rule::Reclaim, _) => {}
        }
        // Of something contended, its tenant and each cohort of its own above
        // it use more than is theirs.
        let theirs = model.apart(tenant, other).1;
        let borrows = |key: &Key| theirs.iter().all(|n| model.borrowed(View::Promised, *n, key) > 0);
        assert!(
            keys().iter().any(|key| contends(key) && borrows(key)),
            "{} is within what is its own, and had to leave for {} by {rule:?}",
            victim.ask.id,
            wish.ask.id
        );
        if let Some(group) = victim.ask.group {
            use Standing::{Admitted, Promised};
            let least = group.guaranteed as usize;
            assert!(model.replicas(&victim.ask, &[Admitted, Promised]) > least, "below what is guaranteed");
            let running = model.replicas(&victim.ask, &[Admitted]);
            assert!(victim.standing != Admitted || running > least, "running below what is guaranteed");
        }
    }

    /// The planner's books are right, and no limit is exceeded that was not.
    fn check(&mut self) {
        self.kept();
        assert!(self.admissions.queues_are_consistent());
        let (tree, model) = (self.admissions.tree(), &self.model);
        for (&node, spec) in &model.specs {
            for key in &keys() {
                if !tree.keys().contains(key) {
                    continue;
                }
                let figures = tree.figures(node, key).unwrap();
                assert_eq!(figures.used, model.usage(View::Held, node, key), "{node:?} {key:?}");
                let promised = model.usage(View::Promised, node, key);
                assert_eq!(figures.used + figures.promised, promised, "{node:?} {key:?}");
                if !matches!(node, NodeId::Project(_)) {
                    assert_eq!(figures.subtree, model.subtree(node, key));
                    assert_eq!(figures.available, model.available(View::Held, node, key));
                }
            }
            for kind in spec.budgets.keys() {
                let budget = self.admissions.budget(node, kind).unwrap();
                assert_eq!(budget.reserved, model.reserved(node, kind), "{node:?}");
                let spent = model.spent.get(&(node, kind.clone())).copied().unwrap_or(0);
                assert_eq!(budget.spent, spent, "{node:?}");
                assert!(budget.free() >= 0, "{node:?} is overspent");
            }
        }
        for (node, key) in model.kept.keys() {
            let usage = model.usage(View::Kept, *node, key);
            assert!(usage <= model.nominal(*node, key), "{node:?} keeps what is not its own");
        }
        for (id, work) in &model.work {
            assert_eq!(self.admissions.standing(*id), Some(work.standing));
        }
        let overruns = self.overrun();
        for (new, old) in overruns.iter().zip(&self.overruns) {
            for (at, by) in new {
                assert!(*by <= old.get(at).copied().unwrap_or(0), "{at:?} is exceeded by {by}");
            }
        }
        self.overruns = overruns;
    }

    /// After a cycle nothing is left to do, and nobody waits without need.
    fn check_settled(&mut self) {
        assert_eq!(self.admissions.cycle(self.at(), usize::MAX), vec![]);
        let model = &self.model;
        let all = || model.work.values();
        if !self.was_cut && all().all(|w| w.standing != Standing::Leaving) {
            assert!(all().all(|w| w.standing != Standing::Promised), "nobody is in the way of a promise");
        }
        let floors = all().any(|w| w.ask.group.is_some());
        for work in all().filter(|w| w.standing == Standing::Pending) {
            let ask = &work.ask;
            let waiting = self.admissions.why(ask.id).unwrap();
            assert!(waiting.why.is_some(), "{} waits for no reason", ask.id);
            let node = NodeId::Tenant(ask.tenant);
            let policies = model.specs[&node].policies;
            if ask.hold.is_some() || policies.strategy == Strategy::StrictFifo || !model.affords(ask) {
                continue;
            }
            // What its tenant keeps, it keeps for itself.
            let mut open = model.clone();
            open.kept.retain(|(n, _), _| *n != node);
            let amounts = |option| times(ask, option, ask.min_count.unwrap_or(ask.count));
            for option in 0..ask.options.len() {
                assert!(!open.may_have(ask, &amounts(option)), "{} would fit", ask.id);
            }
            let own = |(key, amount): &(Key, Amount)| {
                *amount == 0
                    || open
                        .quota(node, key)
                        .is_some_and(|q| open.usage(View::Promised, node, key) + amount <= q.nominal)
            };
            let whole = times(ask, 0, ask.count);
            if policies.reclaim == Reclaim::Any && !self.was_cut && !floors && ask.project.is_none() {
                assert!(!whole.iter().all(own), "{} waits for what is its tenant's own", ask.id);
            }
        }
    }
}
