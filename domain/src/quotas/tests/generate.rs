//! Random trees, workloads and operations, in a form that shrinks well.

use proptest::option::weighted;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop, prop_oneof};

use super::dsl::at;
use crate::quotas::{Strategy as QueueOrder, *};
use crate::{CohortId, EndpointId, ProjectId, TenantId, WorkloadId};

/// A tree and what happens to it.
#[derive(Clone)]
pub struct Case {
    pub settings: Settings,
    pub nodes: Vec<NodeSpec>,
    pub ops: Vec<Op>,
}

/// A line each for nodes and operations, so that a failure can be read.
impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}", self.settings)?;
        for spec in &self.nodes {
            write!(f, "{} in {}", name(spec.id), spec.parent.map_or_else(String::new, name))?;
            for (key, q) in &spec.quotas {
                write!(f, "; {} {:?} {}", key.class, key.resource, q.nominal)?;
                write!(f, " lends {:?} borrows {:?}", q.lending_limit, q.borrowing_limit)?;
            }
            writeln!(f, "; weight {} {:?} {:?}", spec.weight_milli, spec.policies, spec.budgets)?;
        }
        self.ops.iter().try_for_each(|op| writeln!(f, "{op:?}"))
    }
}

fn name(id: NodeId) -> String {
    match id {
        NodeId::Cohort(id) => format!("cohort {}", id.0.as_u128()),
        NodeId::Tenant(id) => format!("tenant {}", id.0.as_u128()),
        NodeId::Project(id) => format!("project {}", id.0.as_u128()),
    }
}

/// Positions are taken modulo what is there.
#[derive(Clone, Debug)]
pub enum Op {
    Arrives(Wanted),
    /// Any workload is gone, having spent so many tokens.
    Ends(usize, Amount),
    /// An operator sends one away.
    Evict(usize),
    /// One victim leaves, and waits again or not.
    Leaves(usize, bool),
    /// All victims leave and wait again.
    AllLeave,
    Hold(usize),
    Unhold(usize),
    Quota(usize, Quota),
    BeginPeriod(usize),
    Cycle,
}

#[derive(Clone, Debug)]
pub struct Wanted {
    pub tenant: usize,
    pub project: bool,
    pub priority: i32,
    pub milli: Amount,
    pub memory: Option<Amount>,
    pub other_class: Option<Amount>,
    pub count: u32,
    pub min_count: Option<u32>,
    pub endpoint: Option<u8>,
    pub tokens: Option<Amount>,
}

/// What cases are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    pub fair: Option<bool>,
    pub deep: bool,
    /// One resource of one class.
    pub one_key: bool,
    pub changes: bool,
    pub history: bool,
    pub ops: usize,
}

pub const ALL: Kinds =
    Kinds { fair: None, deep: true, one_key: false, changes: true, history: true, ops: 40 };

pub fn milli() -> Key {
    Key::milli("gpu")
}

pub fn memory() -> Key {
    Key { class: "gpu".into(), resource: Resource::MemoryBytes }
}

pub fn other_class() -> Key {
    Key::milli("h100")
}

pub fn keys() -> [Key; 3] {
    [milli(), memory(), other_class()]
}

fn id(n: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(n as u128 + 1)
}

fn quota() -> impl Strategy<Value = Quota> {
    (0..=6i64, weighted(0.3, 0..=5i64), weighted(0.3, 0..=6i64)).prop_map(
        |(nominal, lending_limit, borrowing_limit)| Quota { nominal, lending_limit, borrowing_limit },
    )
}

/// Something or nothing, never anything where it is not likely at all.
fn maybe<T: std::fmt::Debug + Clone + 'static>(
    likely: f64,
    some: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    if likely > 0.0 { weighted(likely, some).boxed() } else { Just(None).boxed() }
}

/// Quota of each key, where it is listed.
type Quotas = (Option<Quota>, Option<Quota>, Option<Quota>);

fn quotas(likely: f64, kinds: Kinds) -> impl Strategy<Value = Quotas> {
    let others = if kinds.one_key { 0.0 } else { likely / 1.5 };
    (weighted(likely, quota()), maybe(others, quota()), maybe(others, quota()))
}

fn listed(spec: &mut NodeSpec, quotas: Quotas) {
    for (key, quota) in keys().into_iter().zip([quotas.0, quotas.1, quotas.2]) {
        if let Some(quota) = quota {
            spec.quotas.insert(key, quota);
        }
    }
}

fn policies() -> impl Strategy<Value = Policies> {
    let within = prop_oneof![
        Just(WithinTenant::Never),
        Just(WithinTenant::LowerPriority),
        Just(WithinTenant::LowerOrNewerEqualPriority)
    ];
    let reclaim = prop_oneof![
        1 => Just(Reclaim::Never),
        1 => Just(Reclaim::LowerPriority),
        3 => Just(Reclaim::Any)
    ];
    let borrow = prop_oneof![
        2 => Just(BorrowWhilePreempting::Never),
        1 => weighted(0.5, -1..=1i32)
            .prop_map(|max_priority| BorrowWhilePreempting::LowerPriority { max_priority }),
    ];
    (within, reclaim, borrow, prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        |(within, reclaim, borrow, strict, preempt_first)| Policies {
            within,
            reclaim,
            borrow,
            strategy: if strict { QueueOrder::StrictFifo } else { QueueOrder::BestEffortFifo },
            fungibility: if preempt_first { Fungibility::PreemptFirst } else { Fungibility::BorrowFirst },
        },
    )
}

/// Cohorts below each other, tenants in them, projects in those.
pub fn nodes(kinds: Kinds) -> impl Strategy<Value = Vec<NodeSpec>> {
    let weight = || prop_oneof![6 => Just(1000u32), 1 => Just(0), 1 => Just(2000)];
    let cohort = (any::<usize>(), quotas(0.5, kinds), weight());
    let tenant = (0..8usize, quotas(0.9, kinds), weight(), policies(), weighted(0.2, 0..=20i64));
    let project = (any::<usize>(), quotas(0.7, kinds), weighted(0.2, 0..=20i64));
    let cohorts = if kinds.deep { 1..=4usize } else { 1..=1 };
    let parts = (
        prop::collection::vec(cohort, cohorts),
        prop::collection::vec(tenant, 1..=5),
        prop::collection::vec(project, 0..=2),
    );
    parts.prop_map(|(cohorts, tenants, projects)| {
        let mut nodes: Vec<NodeSpec> = Vec::new();
        let budget = |tokens: Option<Amount>| {
            tokens.map(|limit| (BudgetKind::Tokens, Budget { limit, spent: 0 })).into_iter().collect()
        };
        for (n, (parent, quotas, weight_milli)) in cohorts.iter().enumerate() {
            // Few trees, so that they are deep.
            let parent = (n > 0 && parent % 8 > 0).then(|| nodes[parent % n].id);
            let mut spec = NodeSpec::new(NodeId::Cohort(CohortId(id(100 + n))), parent);
            listed(&mut spec, *quotas);
            spec.weight_milli = *weight_milli;
            nodes.push(spec);
        }
        for (n, (parent, quotas, weight_milli, policies, tokens)) in tenants.iter().enumerate() {
            let parent = (*parent > 0).then(|| nodes[parent % cohorts.len()].id);
            let mut spec = NodeSpec::new(NodeId::Tenant(TenantId(id(200 + n))), parent);
            listed(&mut spec, *quotas);
            spec.weight_milli = *weight_milli;
            spec.policies = *policies;
            spec.budgets = budget(*tokens);
            nodes.push(spec);
        }
        for (n, (parent, quotas, tokens)) in projects.iter().enumerate() {
            let tenant = NodeId::Tenant(TenantId(id(200 + parent % tenants.len())));
            let mut spec = NodeSpec::new(NodeId::Project(ProjectId(id(300 + n))), Some(tenant));
            listed(&mut spec, *quotas);
            spec.budgets = budget(*tokens);
            nodes.push(spec);
        }
        nodes
    })
}

pub fn wanted(kinds: Kinds) -> impl Strategy<Value = Wanted> {
    let others = if kinds.one_key { 0.0 } else { 0.3 };
    let members = prop_oneof![
        4 => Just((1u32, None)),
        1 => Just((2, None)),
        1 => (2..=4u32, 1..=2u32).prop_map(|(count, least)| (count, Some(least.min(count)))),
    ];
    let bounds = (weighted(0.3, 0..2u8), weighted(0.2, 0..=8i64));
    let amounts = (0..=4i64, maybe(others, 0..=4i64), maybe(others, 0..=4i64));
    (0..12usize, prop::bool::weighted(0.3), -1..=2i32, amounts, members, bounds).prop_map(
        |(
            tenant,
            project,
            priority,
            (milli, memory, other_class),
            (count, min_count),
            (endpoint, tokens),
        )| {
            Wanted {
                tenant,
                project,
                priority,
                milli,
                memory,
                other_class,
                count,
                min_count,
                endpoint,
                tokens,
            }
        },
    )
}

fn op(kinds: Kinds) -> impl Strategy<Value = Op> {
    let change = if kinds.changes { 1 } else { 0 };
    prop_oneof![
        14 => wanted(kinds).prop_map(Op::Arrives),
        4 => (any::<usize>(), 0..10i64).prop_map(|(n, spent)| Op::Ends(n, spent)),
        1 => any::<usize>().prop_map(Op::Evict),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, again)| Op::Leaves(n, again)),
        3 => Just(Op::AllLeave),
        1 => any::<usize>().prop_map(Op::Hold),
        1 => any::<usize>().prop_map(Op::Unhold),
        change => (any::<usize>(), quota()).prop_map(|(n, quota)| Op::Quota(n, quota)),
        1 => any::<usize>().prop_map(Op::BeginPeriod),
        10 => Just(Op::Cycle),
    ]
}

pub fn case(kinds: Kinds) -> impl Strategy<Value = Case> {
    let fair = match kinds.fair {
        Some(fair) => Just(fair).boxed(),
        None => any::<bool>().boxed(),
    };
    let history = maybe(if kinds.history { 0.2 } else { 0.0 }, Just(()));
    (fair, history, nodes(kinds), prop::collection::vec(op(kinds), 1..=kinds.ops)).prop_map(
        |(fair_sharing, history, nodes, ops)| Case {
            settings: Settings {
                fair_sharing,
                history: history.map(|()| History { half_life_secs: 20, penalty_secs: 5 }),
            },
            nodes,
            ops,
        },
    )
}

impl Case {
    /// Its tenants, in order.
    pub fn tenants(&self) -> Vec<TenantId> {
        let tenant = |spec: &NodeSpec| match spec.id {
            NodeId::Tenant(id) => Some(id),
            _ => None,
        };
        self.nodes.iter().filter_map(tenant).collect()
    }

    /// Everything `k` times as large.
    pub fn scaled(&self, k: Amount) -> Self {
        let mut scaled = self.clone();
        let quota = |q: &mut Quota| {
            q.nominal *= k;
            [&mut q.lending_limit, &mut q.borrowing_limit].into_iter().flatten().for_each(|l| *l *= k);
        };
        for spec in &mut scaled.nodes {
            spec.quotas.values_mut().for_each(quota);
            spec.budgets.values_mut().for_each(|b| b.limit *= k);
        }
        for op in &mut scaled.ops {
            match op {
                Op::Arrives(wanted) => {
                    wanted.milli *= k;
                    let more = [&mut wanted.memory, &mut wanted.other_class, &mut wanted.tokens];
                    more.into_iter().flatten().for_each(|a| *a *= k);
                }
                Op::Ends(_, spent) => *spent *= k,
                Op::Quota(_, changed) => quota(changed),
                _ => {}
            }
        }
        scaled
    }

    /// The ask of the `nth` workload to arrive. One in a dozen is of a tenant
    /// that is not in the tree.
    pub fn ask(&self, nth: usize, wanted: &Wanted, now: u64) -> Ask {
        let tenants = self.tenants();
        let tenant = match wanted.tenant {
            11 => TenantId(id(299)),
            n => tenants[n % tenants.len()],
        };
        let project = self.nodes.iter().find_map(|spec| match spec.id {
            NodeId::Project(id) if spec.parent == Some(NodeId::Tenant(tenant)) => Some(id),
            _ => None,
        });
        let mut first = vec![(milli(), wanted.milli)];
        first.extend(wanted.memory.map(|amount| (memory(), amount)));
        let mut options = vec![first];
        options.extend(wanted.other_class.map(|amount| vec![(other_class(), amount)]));
        Ask {
            id: WorkloadId(id(1000 + nth)),
            tenant,
            project: project.filter(|_| wanted.project),
            priority: wanted.priority,
            queued_at: at(now),
            options,
            count: wanted.count,
            min_count: wanted.min_count,
            group: wanted.endpoint.map(|n| {
                // An endpoint is of one tenant, and says the same of each replica.
                let number = tenant.0.as_u128() as usize * 2 + n as usize;
                Group { endpoint: EndpointId(id(number)), min_replicas: 2, guaranteed: u32::from(n) + 1 }
            }),
            budget: wanted.tokens.map(|tokens| (BudgetKind::Tokens, tokens)).into_iter().collect(),
            hold: None,
            kind: 0,
        }
    }
}
