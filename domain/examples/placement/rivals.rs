//! The policies to compare with, after *Beware of Fragmentation* (USENIX ATC
//! 2023) and its simulator: scores are whole numbers from 0 to 100, and the
//! first of equals by name wins.

use std::collections::BTreeMap;

use crate::trace::{Node, Pod, Trace, WHOLE};

/// Share of all pods that FGD's classes cover.
const POPULAR: f64 = 0.95;
/// The largest worker of the trace, for normalizing.
const MOST_CPU_MILLI: f64 = 128_000.0;
const MOST_MILLI: f64 = 8_000.0;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Least left over, processor and devices alike.
    BestFit,
    /// Fragmentation gradient descent, as published.
    Fgd,
    /// The same with what is left over as tie-break in place of the name.
    FgdFull,
}

impl Policy {
    pub const ALL: [Self; 3] = [Self::BestFit, Self::Fgd, Self::FgdFull];

    pub fn name(self) -> &'static str {
        match self {
            Self::BestFit => "best_fit",
            Self::Fgd => "fgd",
            Self::FgdFull => "fgd_tie_break",
        }
    }
}

/// A class of pods as FGD counts fragments for it.
struct Class {
    cpu_milli: u64,
    milli: u32,
    devices: u32,
    models: Vec<String>,
    popularity: f64,
}

struct State {
    model: String,
    cpu_milli: u64,
    memory_mib: u64,
    free: Vec<u32>,
    version: u32,
}

/// How good a node is: the score negated, then the tie-break; least is best.
type Rank = (i64, f64);

#[derive(Clone, Copy)]
struct Cached {
    version: u32,
    found: Option<(Rank, usize)>,
}

/// Where a pod went.
pub struct Held {
    node: usize,
    devices: Vec<usize>,
}

/// A cluster under one policy. Scores are remembered for each kind of pod and
/// node until the node changes.
pub struct Cluster<'a> {
    policy: Policy,
    nodes: Vec<State>,
    classes: Vec<Class>,
    kinds: BTreeMap<&'a Pod, usize>,
    cache: Vec<Vec<Cached>>,
}

impl<'a> Cluster<'a> {
    pub fn new(trace: &'a Trace, policy: Policy) -> Self {
        let state = |node: &Node| State {
            model: node.model.clone(),
            cpu_milli: node.cpu_milli,
            memory_mib: node.memory_mib,
            free: vec![WHOLE; node.devices],
            version: 1,
        };
        let nodes = trace.nodes.iter().map(state).collect();
        Self { policy, nodes, classes: classes(&trace.pods), kinds: BTreeMap::new(), cache: Vec::new() }
    }

    pub fn place(&mut self, pod: &'a Pod) -> Option<Held> {
        let fresh = self.kinds.len();
        let kind = *self.kinds.entry(pod).or_insert(fresh);
        if kind == self.cache.len() {
            self.cache.push(vec![Cached { version: 0, found: None }; self.nodes.len()]);
        }
        let mut best: Option<(Rank, usize, usize)> = None;
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if self.cache[kind][index].version != node.version {
                let found = fits(pod, node).then(|| rank(self.policy, &self.classes, pod, node));
                self.cache[kind][index] = Cached { version: node.version, found };
            }
            if let Some((rank, device)) = self.cache[kind][index].found
                && best.is_none_or(|(least, ..)| rank < least)
            {
                best = Some((rank, index, device));
            }
        }
        let (_, node, device) = best?;
        let state = &mut self.nodes[node];
        let devices = if pod.is_fractional() { vec![device] } else { whole(&state.free, pod) };
        state.cpu_milli -= pod.cpu_milli;
        state.memory_mib -= pod.memory_mib;
        for &device in &devices {
            state.free[device] -= pod.milli;
        }
        state.version += 1;
        Some(Held { node, devices })
    }

    pub fn release(&mut self, pod: &Pod, held: &Held) {
        let state = &mut self.nodes[held.node];
        state.cpu_milli += pod.cpu_milli;
        state.memory_mib += pod.memory_mib;
        for &device in &held.devices {
            state.free[device] += pod.milli;
        }
        state.version += 1;
    }
}

/// The most popular classes, until they cover enough.
fn classes(pods: &[Pod]) -> Vec<Class> {
    let mut counts: BTreeMap<(u64, u32, u32, &[String]), u32> = BTreeMap::new();
    for pod in pods {
        *counts.entry((pod.cpu_milli, pod.milli, pod.devices, &pod.models)).or_default() += 1;
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
    #[expect(clippy::cast_precision_loss, reason = "some thousand pods")]
    let enough = POPULAR * pods.len() as f64;
    let mut covered = 0.0;
    let mut classes = Vec::new();
    for ((cpu_milli, milli, devices, models), count) in sorted {
        if covered >= enough {
            break;
        }
        covered += f64::from(count);
        let popularity = f64::from(count);
        classes.push(Class { cpu_milli, milli, devices, models: models.to_vec(), popularity });
    }
    for class in &mut classes {
        class.popularity /= covered;
    }
    classes
}

fn accepts(models: &[String], model: &String) -> bool {
    models.is_empty() || models.contains(model)
}

fn fits(pod: &Pod, node: &State) -> bool {
    node.cpu_milli >= pod.cpu_milli
        && node.memory_mib >= pod.memory_mib
        && (pod.devices == 0
            || accepts(&pod.models, &node.model)
                && node.free.iter().filter(|free| **free >= pod.milli).count() >= pod.devices as usize)
}

fn rank(policy: Policy, classes: &[Class], pod: &Pod, node: &State) -> (Rank, usize) {
    match policy {
        Policy::BestFit => {
            let tightest = (0..node.free.len()).filter(|&device| node.free[device] >= pod.milli);
            let device = tightest.min_by_key(|&device| node.free[device]).unwrap_or(0);
            ((-whole_score(1.0 - left_over(pod, node)), 0.0), device)
        }
        Policy::Fgd => fgd(classes, pod, node, 0.0),
        Policy::FgdFull => fgd(classes, pod, node, left_over(pod, node)),
    }
}

/// What would be left of the node, from 0 to 1.
fn left_over(pod: &Pod, node: &State) -> f64 {
    let free: u32 = node.free.iter().sum();
    let asked = pod.devices * pod.milli;
    let cpu_milli = u32::try_from(node.cpu_milli - pod.cpu_milli).expect("a node has few cores");
    0.5 * f64::from(cpu_milli) / MOST_CPU_MILLI + 0.5 * f64::from(free - asked) / MOST_MILLI
}

#[expect(clippy::cast_possible_truncation, reason = "the published scores are whole numbers, cut off")]
fn whole_score(score: f64) -> i64 {
    (100.0 * score) as i64
}

fn fgd(classes: &[Class], pod: &Pod, node: &State, tie_break: f64) -> (Rank, usize) {
    let before = fragments(classes, node.cpu_milli, &node.free, &node.model);
    let cpu_milli = node.cpu_milli - pod.cpu_milli;
    let score = |devices: &[usize]| {
        let mut free = node.free.clone();
        for &device in devices {
            free[device] -= pod.milli;
        }
        let after = fragments(classes, cpu_milli, &free, &node.model);
        whole_score(1.0 / (1.0 + (-(before - after) / 1000.0).exp()))
    };
    if !pod.is_fractional() {
        return ((-score(&whole(&node.free, pod)), tie_break), 0);
    }
    let mut best: Option<(i64, usize)> = None;
    for device in (0..node.free.len()).filter(|&device| node.free[device] >= pod.milli) {
        let score = score(&[device]);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, device));
        }
    }
    let (score, device) = best.unwrap_or((0, 0));
    ((-score, tie_break), device)
}

/// The wholly free devices that a pod of whole devices gets, ascending.
fn whole(free: &[u32], pod: &Pod) -> Vec<usize> {
    (0..free.len()).filter(|&device| free[device] >= pod.milli).take(pod.devices as usize).collect()
}

/// Idle thousandths that classes cannot use, weighted by popularity.
fn fragments(classes: &[Class], cpu_milli: u64, free: &[u32], model: &String) -> f64 {
    let idle: u32 = free.iter().sum();
    let mut fragments = 0.0;
    for class in classes {
        let fitting = free.iter().filter(|free| **free >= class.milli).count();
        let fits = class.devices > 0
            && class.cpu_milli <= cpu_milli
            && fitting >= class.devices as usize
            && accepts(&class.models, model);
        let lost: u32 = if fits { free.iter().filter(|free| **free < class.milli).sum() } else { idle };
        fragments += class.popularity * f64::from(lost);
    }
    fragments
}
