//! The two experiments: filling a cluster from which nothing departs, and a
//! steady state in which pods come and go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use domain::WorkerId;
use domain::placing::{Demand, Fleet, Hold, Preferences, Weights};

use crate::rivals::{Cluster, Policy};
use crate::trace::{Pod, Random, Trace};

/// Pods are offered until they ask for this much of the capacity.
const OFFERED_PCT: u64 = 130;
/// Where the filling is reported.
const REPORTED_PCT: [u64; 3] = [95, 100, 130];
/// Offered loads of the steady state.
pub const STEADY_LOADS_PCT: [u32; 2] = [90, 95];
/// Mean lives of a pod before counting begins, and while it lasts.
const WARM_UP_LIVES: f64 = 2.0;
const COUNTED_LIVES: f64 = 3.0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// Frequencies of the whole list, as FGD knows them.
    Known,
    /// Only what has arrived.
    Learned,
}

pub struct Run {
    /// At each of the reported percentages.
    pub allocated_pct: BTreeMap<u64, f64>,
    pub decisions_per_s: f64,
}

/// One seed.
pub struct Trial<'a> {
    trace: &'a Trace,
    seed: u64,
    stream: Vec<&'a Pod>,
}

impl<'a> Trial<'a> {
    pub fn new(trace: &'a Trace, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut stream: Vec<&Pod> = trace.pods.iter().collect();
        random.shuffle(&mut stream);
        let most = trace.capacity_milli() * OFFERED_PCT / 100;
        let mut offered: u64 = stream.iter().map(|pod| pod.total_milli()).sum();
        loop {
            let pod = &trace.pods[random.below(trace.pods.len())];
            offered += pod.total_milli();
            if offered > most {
                break;
            }
            stream.push(pod);
        }
        Self { trace, seed, stream }
    }

    /// The production policy on nodes in shuffled order.
    pub fn fill(&self, knowledge: Knowledge, weights: Weights) -> Run {
        let mut fleet = self.fleet(knowledge, weights);
        let mut spent = Duration::ZERO;
        let allocated_pct = self.offer(|pod| {
            let ask = pod.ask();
            let begun = Instant::now();
            if knowledge == Knowledge::Learned {
                fleet.observe(&ask.needs);
            }
            let choice = fleet.choose(&ask, &Preferences::default());
            let placed = choice.is_ok_and(|choice| fleet.place(&ask.needs, &choice.hold).is_ok());
            spent += begun.elapsed();
            placed
        });
        #[expect(clippy::cast_precision_loss, reason = "some thousand pods")]
        let decisions_per_s = self.stream.len() as f64 / spent.as_secs_f64();
        Run { allocated_pct, decisions_per_s }
    }

    pub fn fill_by(&self, policy: Policy) -> BTreeMap<u64, f64> {
        let mut cluster = Cluster::new(self.trace, policy);
        self.offer(|pod| cluster.place(pod).is_some())
    }

    /// Percent of pods that the production policy refuses at this load, learning
    /// as it goes.
    pub fn steady(&self, load_pct: u32) -> f64 {
        let mut fleet = self.fleet(Knowledge::Learned, Weights::default());
        self.come_and_go(
            load_pct,
            &mut fleet,
            |fleet, pod| -> Option<Hold> {
                let ask = pod.ask();
                fleet.observe(&ask.needs);
                let hold = fleet.choose(&ask, &Preferences::default()).ok()?.hold;
                fleet.place(&ask.needs, &hold).ok()?;
                Some(hold)
            },
            |fleet, pod, hold| fleet.release(&pod.ask().needs, hold).expect("it was placed"),
        )
    }

    pub fn steady_by(&self, policy: Policy, load_pct: u32) -> f64 {
        let mut cluster = Cluster::new(self.trace, policy);
        self.come_and_go(load_pct, &mut cluster, Cluster::place, Cluster::release)
    }

    fn fleet(&self, knowledge: Knowledge, weights: Weights) -> Fleet {
        let mut demand = Demand::new();
        if knowledge == Knowledge::Known {
            demand = Demand::known(self.trace.pods.iter().map(|pod| pod.ask().needs));
        }
        let nodes = self.trace.shuffled_nodes(self.seed);
        let mut fleet = Fleet::new(weights, demand);
        for (number, node) in (1u128..).zip(nodes) {
            let id = WorkerId::from(uuid::Uuid::from_u128(number));
            fleet.put(id, node.worker()).expect("a node of the trace is plausible");
        }
        fleet
    }

    /// Mean allocation while the rounded percentage of what has arrived is each
    /// of the reported ones.
    #[expect(clippy::cast_precision_loss, reason = "some million thousandths")]
    fn offer(&self, mut place: impl FnMut(&'a Pod) -> bool) -> BTreeMap<u64, f64> {
        let capacity = self.trace.capacity_milli();
        let (mut arrived, mut allocated) = (0, 0);
        let mut seen: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for pod in &self.stream {
            arrived += pod.total_milli();
            if place(pod) {
                allocated += pod.total_milli();
            }
            let pct = (200 * arrived + capacity) / (2 * capacity);
            if REPORTED_PCT.contains(&pct) {
                let (sum, count) = seen.entry(pct).or_default();
                *sum += 100.0 * allocated as f64 / capacity as f64;
                *count += 1.0;
            }
        }
        seen.into_iter().map(|(pct, (sum, count))| (pct, sum / count)).collect()
    }

    /// Pods arrive one a tick and live for a drawn time, so that they would
    /// hold the load on average. Percent refused after warming up.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some thousand ticks"
    )]
    fn come_and_go<S, H>(
        &self,
        load_pct: u32,
        state: &mut S,
        mut place: impl FnMut(&mut S, &'a Pod) -> Option<H>,
        mut release: impl FnMut(&mut S, &Pod, &H),
    ) -> f64 {
        let pods = &self.trace.pods;
        let load = f64::from(load_pct) / 100.0;
        let mean_life = load * self.trace.capacity_milli() as f64 / self.trace.mean_pod_milli();
        let counted_from = (WARM_UP_LIVES * mean_life) as u64;
        let ticks = counted_from + (COUNTED_LIVES * mean_life) as u64;
        let mut random = Random::new(self.seed ^ 0x5eed);
        let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut living: BTreeMap<u64, (&Pod, H)> = BTreeMap::new();
        let mut refused = 0u32;
        for tick in 0..ticks {
            while let Some(Reverse((end, born))) = ends.peek().copied()
                && end <= tick
            {
                ends.pop();
                if let Some((pod, held)) = living.remove(&born) {
                    release(state, pod, &held);
                }
            }
            let pod = &pods[random.below(pods.len())];
            let end = tick + 1 + (random.exponential() * mean_life) as u64;
            match place(state, pod) {
                Some(held) => {
                    living.insert(tick, (pod, held));
                    ends.push(Reverse((end, tick)));
                }
                None if tick >= counted_from => refused += 1,
                None => {}
            }
        }
        100.0 * f64::from(refused) / (ticks - counted_from) as f64
    }
}
