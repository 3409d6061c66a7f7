//! Runs a load of Kueue's performance test through the quota planner in
//! virtual time, and prints how long it took there and here.
//!
//! `[GRACE_MS=500] [FAIR=1] quota_virtual GENERATOR.yaml …`, a generator as in
//! Kueue's `test/performance/scheduler/configs`. A victim may end in its time
//! of grace; else it has lost its work and waits again. Nothing takes time but
//! the work itself, so that what is printed is what the policy makes of the
//! load.

mod generator;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use domain::quotas::{
    Admissions, Amount, Ask, Decision, Key, NodeId, NodeSpec, Quota, Reclaim, Settings, WithinTenant,
};
use domain::{CohortId, TenantId, Timestamp, WorkloadId};
use generator::{Cohorts, parse};

struct Work {
    ask: Ask,
    queue: usize,
    class: usize,
    runtime_ms: u64,
    created_ms: u64,
    admitted_ms: u64,
    /// Counts admissions, so that the end of one that was evicted is ignored.
    turn: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends(usize, u32),
    MustLeave(usize, u32),
    Created(usize),
}

struct Run {
    admissions: Admissions,
    work: Vec<Work>,
    index: BTreeMap<WorkloadId, usize>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    grace_ms: u64,
    evictions: u64,
    drained: u64,
    decided: u64,
    planning: Duration,
    slowest: Duration,
    used: Vec<(Amount, u64, u128)>,
}

fn at(ms: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_millis(ms)
}

impl Run {
    fn use_more(&mut self, work: usize, sign: Amount, now: u64) {
        let queue = &mut self.used[self.work[work].queue];
        queue.2 += queue.0 as u128 * u128::from(now - queue.1);
        queue.1 = now;
        queue.0 += sign * self.work[work].ask.options[0][0].1;
    }

    fn apply(&mut self, decisions: &[Decision], now: u64) {
        for decision in decisions {
            self.decided += 1;
            match decision {
                Decision::Admit { workload, .. } => {
                    let ix = self.index[workload];
                    self.use_more(ix, 1, now);
                    let work = &mut self.work[ix];
                    work.admitted_ms = now;
                    work.turn += 1;
                    self.events.push(Reverse((now + work.runtime_ms, Event::Ends(ix, work.turn))));
                }
                Decision::Evict { workload, .. } => {
                    let ix = self.index[workload];
                    self.drained += 1;
                    if self.grace_ms == 0 {
                        self.put_back(ix, now);
                    } else {
                        let leave = Event::MustLeave(ix, self.work[ix].turn);
                        self.events.push(Reverse((now + self.grace_ms, leave)));
                    }
                }
                Decision::Promise { .. } | Decision::Recall { .. } => {}
            }
        }
    }

    /// One that has not ended in its time of grace waits again.
    fn put_back(&mut self, ix: usize, now: u64) {
        self.use_more(ix, -1, now);
        self.evictions += 1;
        self.work[ix].turn += 1;
        self.admissions.release(self.work[ix].ask.id, &[], at(now));
        let ask = Ask { queued_at: at(now), ..self.work[ix].ask.clone() };
        self.admissions.enqueue(ask).expect("it was released");
    }

    fn run(&mut self) -> u64 {
        let mut end = 0;
        while let Some(&Reverse((now, _))) = self.events.peek() {
            let began = Instant::now();
            while let Some(&Reverse((then, event))) = self.events.peek()
                && then == now
            {
                self.events.pop();
                match event {
                    Event::Created(ix) => {
                        let ask = self.work[ix].ask.clone();
                        self.admissions.enqueue(ask).expect("it is new");
                    }
                    Event::Ends(ix, turn) if self.work[ix].turn == turn => {
                        self.use_more(ix, -1, now);
                        self.admissions.release(self.work[ix].ask.id, &[], at(now));
                        self.work[ix].turn += 1;
                        end = now;
                    }
                    Event::MustLeave(ix, turn) if self.work[ix].turn == turn => self.put_back(ix, now),
                    Event::Ends(..) | Event::MustLeave(..) => {}
                }
            }
            while !self.admissions.is_settled() {
                let decisions = self.admissions.cycle(at(now), usize::MAX);
                self.apply(&decisions, now);
            }
            let took = began.elapsed();
            self.planning += took;
            self.slowest = self.slowest.max(took);
        }
        end
    }
}

fn prepare(cohorts: &[Cohorts]) -> (Run, Vec<String>, Amount, u64) {
    let key = Key::milli("cpu");
    let mut nodes = Vec::new();
    let mut work = Vec::new();
    let mut classes: Vec<String> = Vec::new();
    let (mut queues, mut nominal, mut load) = (0, 0, 0);
    let id = |n: usize| uuid::Uuid::from_u128(n as u128 + 1);
    for cohort in cohorts {
        for _ in 0..cohort.count {
            let parent = NodeId::Cohort(CohortId(id(nodes.len())));
            nodes.push(NodeSpec::new(parent, None));
            for set in cohort.queues.iter().flat_map(|q| std::iter::repeat_n(q, q.count as usize)) {
                let tenant = TenantId(id(nodes.len()));
                let mut spec = NodeSpec::new(NodeId::Tenant(tenant), Some(parent));
                let quota =
                    Quota { nominal: set.nominal, borrowing_limit: Some(set.borrowing), lending_limit: None };
                spec.quotas.insert(key.clone(), quota);
                if set.reclaim == "Any" {
                    spec.policies.reclaim = Reclaim::Any;
                }
                if set.within == "LowerPriority" {
                    spec.policies.within = WithinTenant::LowerPriority;
                }
                nodes.push(spec);
                nominal += set.nominal;
                for kind in &set.sets {
                    let class = classes.iter().position(|c| *c == kind.class).unwrap_or_else(|| {
                        classes.push(kind.class.clone());
                        classes.len() - 1
                    });
                    for nth in 1..=kind.count {
                        let created_ms = nth * kind.interval_ms;
                        load += kind.request as u64 * kind.runtime_ms;
                        work.push(Work {
                            ask: Ask {
                                id: WorkloadId(id(work.len())),
                                tenant,
                                project: None,
                                priority: kind.priority,
                                queued_at: at(created_ms),
                                options: vec![vec![(key.clone(), kind.request)]],
                                count: 1,
                                min_count: None,
                                group: None,
                                budget: Vec::new(),
                                hold: None,
                                kind: 0,
                            },
                            queue: queues,
                            class,
                            runtime_ms: kind.runtime_ms,
                            created_ms,
                            admitted_ms: 0,
                            turn: 0,
                        });
                    }
                }
                queues += 1;
            }
        }
    }
    let settings = Settings { fair_sharing: std::env::var_os("FAIR").is_some(), history: None };
    let run = Run {
        admissions: Admissions::new(settings, nodes).expect("it is a tree"),
        index: work.iter().enumerate().map(|(i, w)| (w.ask.id, i)).collect(),
        events: work.iter().enumerate().map(|(i, w)| Reverse((w.created_ms, Event::Created(i)))).collect(),
        work,
        grace_ms: std::env::var("GRACE_MS").map_or(0, |g| g.parse().expect("GRACE_MS is a number")),
        evictions: 0,
        drained: 0,
        decided: 0,
        planning: Duration::ZERO,
        slowest: Duration::ZERO,
        used: vec![(0, 0, 0); queues],
    };
    (run, classes, nominal, load)
}

fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (mut run, classes, nominal, load) = prepare(&parse(&text));
        let end = run.run();
        let begin = run.work.iter().map(|w| w.created_ms).min().unwrap_or(0);
        let used: u128 = run.used.iter().map(|u| u.2).sum();
        let wall = end - begin;
        println!("{path}: {} workloads in {} queues", run.work.len(), run.used.len());
        println!("  wall {:.1} s, floor {:.1} s", wall as f64 / 1e3, load as f64 / nominal as f64 / 1e3);
        println!("  usage {:.1} %", used as f64 / (nominal as f64 * wall as f64) * 100.0);
        for (ix, class) in classes.iter().enumerate() {
            let waits: Vec<u64> =
                run.work.iter().filter(|w| w.class == ix).map(|w| w.admitted_ms - w.created_ms).collect();
            let mean = waits.iter().sum::<u64>() as f64 / waits.len() as f64 / 1e3;
            println!("  mean time to admission, {class}: {mean:.2} s");
        }
        let rate = run.work.len() as f64 / run.planning.as_secs_f64();
        println!("  {} decisions, {} told to leave, {} lost work", run.decided, run.drained, run.evictions);
        println!(
            "  {:.2} s of planning, {rate:.0} workloads/s, slowest {:?}",
            run.planning.as_secs_f64(),
            run.slowest
        );
    }
}
