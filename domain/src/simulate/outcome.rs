//! What came of a simulation: figures, and what plots show.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measures::{INDEX_UNIT, Measures};
use super::run::{Piece, Stage};
use super::scenario::Scenario;
use super::series::Gauge;
use super::{Job, Micros, SECOND};
use crate::accelerators::WHOLE_MILLI;

/// Most reasons for which work is left over that are told.
pub(super) const MOST_REASONS: usize = 20;

/// What came of a simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// `base`, or the name of the change.
    pub name: String,
    /// Virtual time at its end, in seconds.
    pub end_secs: f64,
    /// It was stopped before nothing happened any more.
    pub stopped: bool,
    /// What became of the work.
    pub work: WorkFigures,
    /// How long it waited.
    pub waits: Waits,
    /// Pieces of work that waited: mean over time.
    pub queue_mean: f64,
    /// The most at a time.
    pub queue_most: u64,
    /// Jain's index over the dominant shares, by weight, of the tenants of which
    /// something waits: mean over the time in which there are two or more; nothing
    /// if there never were. 1 is even.
    pub jain: Option<f64>,
    /// Work that was made to leave.
    pub preemptions: Preemptions,
    /// By accelerator class.
    pub classes: Vec<ClassFigures>,
    /// By tenant.
    pub tenants: Vec<TenantFigures>,
    /// What waits at the end, and why.
    pub left_over: Vec<LeftOver>,
    /// For plots.
    #[serde(skip)]
    pub plots: Plots,
}

/// What became of the work of a trace, in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkFigures {
    /// All of it.
    pub pieces: u64,
    /// Ran its time.
    pub finished: u64,
    /// Runs at the end.
    pub running: u64,
    /// Waits at the end.
    pub waiting: u64,
    /// Did not arrive until the end.
    pub to_come: u64,
}

/// How long work waited: all of the time in which it was not placed, also after it
/// was made to leave. What waits at the end counts with its time until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Waits {
    /// Mean.
    pub mean_secs: f64,
    /// Half waited at most this long.
    pub p50_secs: f64,
    /// 95 of 100 did.
    pub p95_secs: f64,
    /// The longest.
    pub most_secs: f64,
}

/// Work that was made to leave, in pieces.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Preemptions {
    /// All, also those that ended before they were broken off.
    pub total: u64,
    /// By the rule that let others make it leave.
    pub by_rule: BTreeMap<String, u64>,
    /// Lost with a worker that went.
    pub lost_with_workers: u64,
    /// What had run until it was broken off, in accelerator hours.
    pub wasted_hours: f64,
}

/// An accelerator class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Its name.
    pub class: String,
    /// Accelerators at the end; those that are cordoned as far as they are used.
    pub accelerators: f64,
    /// Accelerator hours used.
    pub used_hours: f64,
    /// Of all accelerator hours that there were.
    pub utilisation_pct: f64,
    /// Accelerator hours that were free and of no use to a usual request, of all
    /// that there were.
    pub fragmentation_pct: f64,
    /// Most accelerators used at a time.
    pub most_used: f64,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantFigures {
    /// Its short name.
    pub tenant: String,
    /// Its share of what is lent.
    pub weight: f64,
    /// It is in the quota tree.
    pub has_quotas: bool,
    /// Pieces of work that arrived.
    pub arrived: u64,
    /// Pieces of work that ran their time.
    pub finished: u64,
    /// Accelerator hours it had.
    pub used_hours: f64,
    /// How long its work waited.
    pub waits: Waits,
    /// How often its work was made to leave.
    pub preempted: u64,
}

/// Work that waits at the end for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOver {
    /// Why, in the planner's words.
    pub reason: String,
    /// How many pieces.
    pub pieces: u64,
    /// The first line of the trace that has one.
    pub line: usize,
}

/// Means over stretches of time: the middle of each in seconds, and the value.
pub type Points = Vec<(f64, f64)>;

/// What plots show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plots {
    /// By class: percent of it that is used.
    pub utilisation_pct: Vec<Points>,
    /// By class: percent of it that is free and of no use.
    pub fragmentation_pct: Vec<Points>,
    /// Pieces of work that wait.
    pub queue: Points,
    /// Jain's index.
    pub jain: Points,
    /// Preemptions so far, at the end of each stretch.
    pub preemptions: Points,
}

impl Outcome {
    #[expect(clippy::too_many_arguments, reason = "all that a simulation knows at its end")]
    pub(super) fn new(
        name: &str,
        scenario: &Scenario,
        jobs: &[Job],
        pieces: &[Piece],
        measures: &Measures,
        end: Micros,
        stopped: bool,
        reason: impl Fn(usize) -> Option<String>,
    ) -> Self {
        let mut work = WorkFigures { pieces: pieces.len() as u64, ..WorkFigures::default() };
        for piece in pieces {
            *match piece.stage {
                Stage::ToCome => &mut work.to_come,
                Stage::Waits => &mut work.waiting,
                Stage::Runs | Stage::Leaves => &mut work.running,
                Stage::Finished => &mut work.finished,
            } += 1;
        }
        let mut all: Vec<Micros> =
            measures.tenants.iter().flat_map(|tenant| &tenant.waits).copied().collect();
        let tenants =
            scenario.tenants.iter().zip(&measures.tenants).map(|(tenant, measured)| TenantFigures {
                tenant: tenant.name.to_string(),
                weight: f64::from(tenant.weight_milli) / 1000.0,
                has_quotas: tenant.has_quotas,
                arrived: measured.arrived,
                finished: measured.finished,
                used_hours: hours(measured.used.total),
                waits: Waits::of(&mut measured.waits.clone()),
                preempted: measured.evicted,
            });
        let classes = measures.classes.iter().map(|class| ClassFigures {
            class: class.name.clone(),
            accelerators: whole(class.capacity.value),
            used_hours: hours(class.used.total),
            utilisation_pct: pct(class.used.total, class.capacity.total),
            fragmentation_pct: pct(class.fragments.total, class.capacity.total * u128::from(class.weight)),
            most_used: whole(class.used.most),
        });
        let plots = Plots {
            utilisation_pct: measures
                .classes
                .iter()
                .map(|class| ratio(&class.used, &class.capacity, 1, 100.0))
                .collect(),
            fragmentation_pct: measures
                .classes
                .iter()
                .map(|class| ratio(&class.fragments, &class.capacity, class.weight, 100.0))
                .collect(),
            queue: means(&measures.queue, end),
            jain: ratio(&measures.index, &measures.rivalry, INDEX_UNIT, 1.0),
            preemptions: so_far(measures, end),
        };
        Self {
            name: name.to_owned(),
            end_secs: secs(end),
            stopped,
            work,
            waits: Waits::of(&mut all),
            queue_mean: quotient(measures.queue.total, u128::from(end)),
            queue_most: measures.queue.most,
            jain: (measures.rivalry.total > 0)
                .then(|| quotient(measures.index.total, measures.rivalry.total * u128::from(INDEX_UNIT))),
            preemptions: Preemptions {
                total: measures.preemptions.values().sum(),
                by_rule: measures.preemptions.iter().map(|(rule, n)| ((*rule).to_owned(), *n)).collect(),
                lost_with_workers: measures.lost,
                wasted_hours: hours(measures.wasted),
            },
            classes: classes.collect(),
            tenants: tenants.collect(),
            left_over: left_over(jobs, pieces, reason),
            plots,
        }
    }
}

impl Waits {
    /// Of times in microseconds; sorts them.
    fn of(waits: &mut [Micros]) -> Self {
        waits.sort_unstable();
        // The nearest rank.
        let rank =
            |pct: usize| waits.get((waits.len() * pct).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        let sum: u128 = waits.iter().map(|wait| u128::from(*wait)).sum();
        Self {
            mean_secs: quotient(sum, waits.len() as u128 * u128::from(SECOND)),
            p50_secs: secs(rank(50)),
            p95_secs: secs(rank(95)),
            most_secs: secs(rank(100)),
        }
    }
}

/// What waits at the end by reason, the most frequent first.
fn left_over(jobs: &[Job], pieces: &[Piece], reason: impl Fn(usize) -> Option<String>) -> Vec<LeftOver> {
    let mut by_reason: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for (ix, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.stage == Stage::Waits) {
        let reason = reason(ix).unwrap_or_else(|| "others are before it".to_owned());
        let line = jobs[piece.job].line;
        let (count, first) = by_reason.entry(reason).or_insert((0, line));
        (*count, *first) = (*count + 1, line.min(*first));
    }
    let all = by_reason.into_iter().map(|(reason, (pieces, line))| LeftOver { reason, pieces, line });
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|left| (std::cmp::Reverse(left.pieces), left.line));
    all.truncate(MOST_REASONS);
    all
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn quotient(a: u128, b: u128) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn secs(micros: Micros) -> f64 {
    quotient(micros.into(), SECOND.into())
}

fn pct(a: u128, b: u128) -> f64 {
    100.0 * quotient(a, b)
}

/// Accelerators of thousandths.
fn whole(milli: u64) -> f64 {
    quotient(milli.into(), WHOLE_MILLI.into())
}

/// Accelerator hours of thousandths times microseconds.
fn hours(total: u128) -> f64 {
    quotient(total, u128::from(WHOLE_MILLI) * u128::from(SECOND) * 3600)
}

/// One quantity by another, where there is any of that.
fn ratio(of: &Gauge, by: &Gauge, times: u64, scale: f64) -> Points {
    // Both are kept over the same time, unless one never changed.
    let width = of.series.width_us().max(by.series.width_us());
    let grouped = |gauge: &Gauge| {
        let mut sums: BTreeMap<Micros, u128> = BTreeMap::new();
        for (end, sum) in gauge.series.stretches() {
            *sums.entry(end.div_ceil(width)).or_default() += sum;
        }
        sums
    };
    let (of, by) = (grouped(of), grouped(by));
    let some = by.into_iter().filter(|(_, sum)| *sum > 0);
    some.map(|(n, sum)| {
        let value = of.get(&n).copied().unwrap_or(0);
        (secs(n * width - width / 2), scale * quotient(value, sum * u128::from(times.max(1))))
    })
    .collect()
}

/// Mean of a quantity over each stretch.
fn means(gauge: &Gauge, end: Micros) -> Points {
    let width = gauge.series.width_us();
    let point = |(until, sum): (Micros, u128)| {
        let begun = until - width;
        let length = end.min(until) - begun.min(end);
        (secs(begun + length / 2), quotient(sum, length.into()))
    };
    gauge.series.stretches().map(point).collect()
}

fn so_far(measures: &Measures, end: Micros) -> Points {
    let mut total = 0;
    let mut points = vec![(0.0, 0.0)];
    for (until, sum) in measures.preempted.stretches() {
        total += sum;
        points.push((secs(until.min(end)), quotient(total, 1)));
    }
    points.push((secs(end), quotient(total, 1)));
    points
}
