//! What a decision of the quota planner costs as queues grow in number.
//!
//! `quota_scale [QUEUES …]`: one cohort, every queue full to its nominal quota
//! and with a backlog. Each step one workload ends, another of the same queue
//! comes, and a cycle decides. The worst case for a planner that looks at every
//! queue: all of them could use what was freed.

use std::time::{Duration, Instant};

use domain::quotas::{
    Admissions, Ask, Decision, Key, NodeId, NodeSpec, Quota, Reclaim, Settings, WithinTenant,
};
use domain::{CohortId, TenantId, Timestamp, WorkloadId};

const NOMINAL: i64 = 4;
/// Steps that are not counted.
const WARM_UP: usize = 5;

fn id(n: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(n as u128 + 1)
}

struct Load {
    admissions: Admissions,
    key: Key,
    asked: usize,
    now_us: u64,
}

impl Load {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_micros(self.now_us)
    }

    fn enqueue(&mut self, queue: usize) {
        self.asked += 1;
        self.now_us += 1;
        let ask = Ask {
            id: WorkloadId(id(self.asked)),
            tenant: TenantId(id(queue)),
            project: None,
            priority: 0,
            queued_at: self.now(),
            options: vec![vec![(self.key.clone(), 1)]],
            count: 1,
            min_count: None,
            group: None,
            budget: Vec::new(),
            hold: None,
            kind: 0,
        };
        self.admissions.enqueue(ask).expect("it is new");
    }

    fn cycle(&mut self) -> Vec<Decision> {
        self.now_us += 1;
        self.admissions.cycle(self.now(), usize::MAX)
    }
}

/// Nanoseconds per decision.
fn measure(queues: usize, fair_sharing: bool, reclaim: Reclaim, batch: usize) -> f64 {
    let cohort = NodeId::Cohort(CohortId(id(0)));
    let key = Key::milli("gpu");
    let mut nodes = vec![NodeSpec::new(cohort, None)];
    for queue in 0..queues {
        let mut spec = NodeSpec::new(NodeId::Tenant(TenantId(id(queue))), Some(cohort));
        spec.quotas.insert(key.clone(), Quota { nominal: NOMINAL, ..Quota::default() });
        spec.policies.reclaim = reclaim;
        spec.policies.within = WithinTenant::LowerPriority;
        nodes.push(spec);
    }
    let admissions = Admissions::new(Settings { fair_sharing, history: None }, nodes).expect("it is a tree");
    let mut load = Load { admissions, key, asked: 0, now_us: 0 };
    for _ in 0..NOMINAL + 2 {
        (0..queues).for_each(|queue| load.enqueue(queue));
    }
    let mut running: std::collections::VecDeque<(WorkloadId, TenantId)> = Default::default();
    let note = |decisions: Vec<Decision>, running: &mut std::collections::VecDeque<_>| {
        decisions
            .into_iter()
            .filter_map(|d| match d {
                Decision::Admit { workload, tenant, .. } => Some((workload, tenant)),
                _ => None,
            })
            .for_each(|a| running.push_back(a));
    };
    note(load.cycle(), &mut running);
    let (mut decided, mut began, mut steps) = (0, Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(400) || steps <= WARM_UP {
        if steps == WARM_UP {
            (decided, began) = (0, Instant::now());
        }
        steps += 1;
        for _ in 0..batch {
            let (workload, tenant) = running.pop_front().expect("the cohort is full");
            load.admissions.release(workload, &[], load.now());
            load.enqueue(tenant.0.as_u128() as usize - 1);
        }
        let decisions = load.cycle();
        decided += decisions.len();
        note(decisions, &mut running);
    }
    began.elapsed().as_nanos() as f64 / decided as f64
}

fn main() {
    let named: Vec<usize> =
        std::env::args().skip(1).map(|n| n.parse().expect("a number of queues")).collect();
    let queues = if named.is_empty() { vec![10, 100, 1_000, 10_000] } else { named };
    println!(
        "{:>8} {:>10} {:>6} {:>6} {:>14} {:>14}",
        "queues", "sharing", "claim", "batch", "ns/decision", "cycles/s"
    );
    for (fair, reclaim) in [(false, Reclaim::Never), (false, Reclaim::Any), (true, Reclaim::Any)] {
        for batch in [1, 10] {
            for &queues in &queues {
                let ns = measure(queues, fair, reclaim, batch);
                let sharing = if fair { "fair" } else { "classical" };
                let claim = if reclaim == Reclaim::Any { "any" } else { "never" };
                let rate = 1e9 / ns / batch as f64;
                println!("{queues:>8} {sharing:>10} {claim:>6} {batch:>6} {ns:>14.0} {rate:>14.0}");
            }
        }
    }
}
