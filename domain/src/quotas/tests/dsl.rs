//! A small language for trees and workloads, so that a case reads like its
//! specification. Quantities are in accelerators and may have decimals.
//!
//! ```text
//! cohort R 10
//! tenant a in R 3 lends 2 borrows 6 weight 2 within lower reclaim any
//! project a/x 2
//! ```
//!
//! A workload is `TENANT[/PROJECT] NAME AMOUNT`, then any of `p1` (priority),
//! `x3` (members), `min 2`, `*5` (five of them, `NAME#1` …), `on CLASS`,
//! `or CLASS`, `of ENDPOINT min 2 floor 1`, `tokens 100`, `at 7` (seconds).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::quotas::*;
use crate::{CohortId, EndpointId, ProjectId, TenantId, Timestamp, WorkloadId};

pub const CLASS: &str = "gpu";
pub const UNIT: Amount = 1000;

pub fn at(secs: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs(secs)
}

fn quantity(text: &str) -> Amount {
    (text.parse::<f64>().unwrap_or_else(|_| panic!("{text:?} is no quantity")) * UNIT as f64).round()
        as Amount
}

#[derive(Clone)]
pub struct World {
    pub admissions: Admissions,
    pub now: u64,
    specs: Vec<NodeSpec>,
    settings: Settings,
    nodes: BTreeMap<String, NodeId>,
    endpoints: BTreeMap<String, EndpointId>,
    pub ids: BTreeMap<String, WorkloadId>,
    pub asks: BTreeMap<WorkloadId, Ask>,
    pub names: BTreeMap<WorkloadId, String>,
    /// Everything decided, as `evict a for b by reclaim`, `admit b` …
    pub log: Vec<String>,
}

pub fn classical(tree: &str) -> World {
    World::new(tree, Settings::default())
}

pub fn fair(tree: &str) -> World {
    World::new(tree, Settings { fair_sharing: true, history: None })
}

impl World {
    pub fn new(tree: &str, settings: Settings) -> Self {
        let (specs, nodes) = parse_tree(tree);
        Self {
            admissions: Admissions::new(settings, specs.clone()).unwrap(),
            now: 1000,
            specs,
            settings,
            nodes,
            endpoints: BTreeMap::new(),
            ids: BTreeMap::new(),
            asks: BTreeMap::new(),
            names: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    pub fn node(&self, name: &str) -> NodeId {
        self.nodes[name]
    }

    pub fn tenant(&self, name: &str) -> TenantId {
        match self.node(name) {
            NodeId::Tenant(id) => id,
            other => panic!("{other:?} is no tenant"),
        }
    }

    fn parse_workload(&mut self, line: &str) -> Vec<Ask> {
        let mut words = line.split_whitespace();
        let place = words.next().unwrap();
        let name = words.next().unwrap().to_owned();
        let amount = quantity(words.next().unwrap());
        let (tenant, project) = match place.split_once('/') {
            Some((tenant, _)) => (tenant, Some(place)),
            None => (place, None),
        };
        let mut ask = Ask {
            id: WorkloadId(uuid::Uuid::nil()),
            tenant: self.tenant(tenant),
            project: project.map(|p| match self.nodes.get(p) {
                Some(NodeId::Project(id)) => *id,
                _ => ProjectId(uuid::Uuid::nil()),
            }),
            priority: 0,
            queued_at: at(self.now),
            options: vec![vec![(Key::milli(CLASS), amount)]],
            count: 1,
            min_count: None,
            group: None,
            budget: Vec::new(),
            hold: None,
            kind: 0,
        };
        let mut copies = 1;
        let mut in_group = false;
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value in {line:?}"));
            match word {
                "on" => ask.options = vec![vec![(Key::milli(value()), amount)]],
                "or" => ask.options.push(vec![(Key::milli(value()), amount)]),
                "of" => {
                    let next = self.endpoints.len() as u128 + 1;
                    let endpoint = *self
                        .endpoints
                        .entry(value().to_owned())
                        .or_insert(EndpointId(uuid::Uuid::from_u128(next)));
                    ask.group = Some(Group { endpoint, min_replicas: 0, guaranteed: 0 });
                    in_group = true;
                }
                "min" if in_group => ask.group.as_mut().unwrap().min_replicas = value().parse().unwrap(),
                "floor" => ask.group.as_mut().unwrap().guaranteed = value().parse().unwrap(),
                "min" => ask.min_count = Some(value().parse().unwrap()),
                "tokens" => ask.budget.push((BudgetKind::Tokens, value().parse().unwrap())),
                "at" => ask.queued_at = at(value().parse().unwrap()),
                _ if word.starts_with('p') => ask.priority = word[1..].parse().unwrap(),
                _ if word.starts_with('x') => ask.count = word[1..].parse().unwrap(),
                _ if word.starts_with('*') => copies = word[1..].parse().unwrap(),
                _ => panic!("{word:?} means nothing in {line:?}"),
            }
        }
        (1..=copies)
            .map(|nth| {
                let mut ask = ask.clone();
                let name = if copies == 1 { name.clone() } else { format!("{name}#{nth}") };
                ask.id = WorkloadId(uuid::Uuid::from_u128(self.ids.len() as u128 + 1));
                assert!(self.ids.insert(name.clone(), ask.id).is_none(), "{name} is there twice");
                self.names.insert(ask.id, name);
                self.asks.insert(ask.id, ask.clone());
                ask
            })
            .collect()
    }

    /// Workloads that hold their room already, each admitted after the last.
    pub fn runs(mut self, lines: &[&str]) -> Self {
        for line in lines {
            for ask in self.parse_workload(line) {
                let (count, reserved_at) = (ask.count, at(self.now));
                let standing = HoldingStanding::Admitted;
                self.admissions.restore(Holding { ask, option: 0, count, reserved_at, standing }).unwrap();
                self.now += 1;
            }
        }
        self.cycle();
        self.log.clear();
        self
    }

    /// New workloads, and a cycle.
    pub fn arrives(&mut self, lines: &[&str]) -> &mut Self {
        for line in lines {
            for ask in self.parse_workload(line) {
                self.now += 1;
                self.admissions.enqueue(Ask { queued_at: ask.queued_at.max(at(0)), ..ask }).unwrap();
            }
        }
        self.cycle();
        self
    }

    /// A cycle; what it decides goes to the log.
    pub fn cycle(&mut self) -> Vec<Decision> {
        let decisions = self.admissions.cycle(at(self.now), usize::MAX);
        assert!(self.admissions.is_settled());
        for decision in &decisions {
            let text = self.say(decision);
            self.log.push(text);
        }
        self.now += 1;
        decisions
    }

    pub fn say(&self, decision: &Decision) -> String {
        let name = |id: &WorkloadId| self.names[id].clone();
        match decision {
            Decision::Admit { workload, option, count, .. } => {
                let ask = &self.asks[workload];
                let mut text = format!("admit {}", name(workload));
                if *count != ask.count {
                    text += &format!(" x{count}");
                }
                if ask.options.len() > 1 {
                    text += &format!(" on {}", ask.options[*option][0].0.class);
                }
                text
            }
            Decision::Promise { workload, .. } => format!("promise {}", name(workload)),
            Decision::Evict { workload, preemptor, rule, .. } => {
                format!("evict {} for {} by {}", name(workload), name(preemptor), rule.as_str())
            }
            Decision::Recall { workload, preemptor, .. } => {
                format!("recall {} for {}", name(workload), name(preemptor))
            }
        }
    }

    /// A workload ends, is withdrawn, or leaves; and a cycle.
    pub fn ends(&mut self, names: &[&str]) -> &mut Self {
        for name in names {
            let id = self.ids[*name];
            assert!(self.admissions.release(id, &[], at(self.now)).is_some(), "{name} is not there");
        }
        self.cycle();
        self
    }

    /// Every victim leaves and waits again; and a cycle.
    pub fn leave(&mut self) -> &mut Self {
        for id in self.standing(Standing::Leaving) {
            self.admissions.release(id, &[], at(self.now)).unwrap();
            let ask = Ask { queued_at: at(self.now), ..self.asks[&id].clone() };
            self.admissions.enqueue(ask).unwrap();
        }
        self.cycle();
        self
    }

    pub fn standing(&self, standing: Standing) -> Vec<WorkloadId> {
        self.ids.values().copied().filter(|id| self.admissions.standing(*id) == Some(standing)).collect()
    }

    fn named(&self, standing: Standing) -> Vec<String> {
        self.standing(standing)
            .iter()
            .map(|id| self.names[id].split('#').next().unwrap().to_owned())
            .collect()
    }

    /// Names of victims, sorted, without numbers.
    pub fn victims(&self) -> String {
        let mut names = self.named(Standing::Leaving);
        names.sort();
        names.join(" ")
    }

    pub fn is(&self, name: &str) -> Option<Standing> {
        self.admissions.standing(self.ids[name])
    }

    pub fn why(&self, name: &str) -> WhyNot {
        self.admissions.why(self.ids[name]).unwrap().why.unwrap()
    }

    /// What the log says since last asked.
    pub fn said(&mut self) -> String {
        std::mem::take(&mut self.log).join("; ")
    }

    pub fn figures(&self, node: &str) -> Figures {
        self.admissions.tree().figures(self.node(node), &Key::milli(CLASS)).unwrap()
    }

    /// Changes a node and reconfigures.
    pub fn change(&mut self, node: &str, change: impl FnOnce(&mut NodeSpec)) -> &mut Self {
        let id = self.node(node);
        change(self.specs.iter_mut().find(|s| s.id == id).unwrap());
        self.admissions.reconfigure(self.settings, self.specs.clone()).unwrap();
        self.cycle();
        self
    }
}

pub fn parse_tree(text: &str) -> (Vec<NodeSpec>, BTreeMap<String, NodeId>) {
    let (mut specs, mut nodes) = (Vec::new(), BTreeMap::new());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace().peekable();
        let (kind, name) = (words.next().unwrap(), words.next().unwrap());
        let uuid = uuid::Uuid::from_u128(nodes.len() as u128 + 1);
        let id = match kind {
            "cohort" => NodeId::Cohort(CohortId(uuid)),
            "tenant" => NodeId::Tenant(TenantId(uuid)),
            "project" => NodeId::Project(ProjectId(uuid)),
            _ => panic!("{kind:?} is no kind of node"),
        };
        let mut spec = NodeSpec::new(id, name.split_once('/').map(|(tenant, _)| nodes[tenant]));
        let mut key = Key::milli(CLASS);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value in {line:?}"));
            match word {
                "in" => spec.parent = Some(nodes[value()]),
                "weight" => spec.weight_milli = u32::try_from(quantity(value())).unwrap(),
                "lends" => spec.quotas.get_mut(&key).unwrap().lending_limit = Some(quantity(value())),
                "borrows" => spec.quotas.get_mut(&key).unwrap().borrowing_limit = Some(quantity(value())),
                "of" => {
                    key = Key::milli(value());
                }
                "within" => {
                    spec.policies.within = match value() {
                        "lower" => WithinTenant::LowerPriority,
                        "newer" => WithinTenant::LowerOrNewerEqualPriority,
                        _ => WithinTenant::Never,
                    };
                }
                "reclaim" => {
                    spec.policies.reclaim = match value() {
                        "lower" => Reclaim::LowerPriority,
                        "any" => Reclaim::Any,
                        _ => Reclaim::Never,
                    };
                }
                "threshold" => {
                    let max_priority = value().parse().ok();
                    spec.policies.borrow = BorrowWhilePreempting::LowerPriority { max_priority };
                }
                "strict" => spec.policies.strategy = Strategy::StrictFifo,
                "preempt-first" => spec.policies.fungibility = Fungibility::PreemptFirst,
                "tokens" => {
                    let budget = Budget { limit: value().parse().unwrap(), spent: 0 };
                    spec.budgets.insert(BudgetKind::Tokens, budget);
                }
                number => {
                    spec.quotas.insert(key.clone(), Quota { nominal: quantity(number), ..Quota::default() });
                }
            }
        }
        nodes.insert(name.to_owned(), id);
        specs.push(spec);
    }
    (specs, nodes)
}
