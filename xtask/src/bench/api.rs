//! `api`: what HTTP, authentication, policy and row-level security add to the
//! database. Each operation is asked of `chancery api` by sixteen clients, and
//! by turns pgbench runs the same transactions on the same database.

mod clients;
mod database;
mod operations;
mod peer;
mod rows;
mod server;
mod timings;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use postgres::Binaries;

use self::clients::Load;
use self::database::{Kept, LARGE, SMALL, SMALL_TENANTS};
use self::operations::{Depth, Group, Operation, Page};
use self::server::Api;
use self::timings::Timings;
use super::system::DataDir;
use super::{Bar, Figures, Samples};
use crate::project::Project;

const RUNS: u32 = 3;
/// Seconds for each operation and side, in each run.
const SECONDS: u32 = 2;
const CLIENTS: u32 = 16;
/// The page that is compared with the first.
const DEEP_PAGE: usize = 1000;
/// Who the cost of row-level security is measured for: an ordinary ministry.
const ORDINARY: u32 = 3;

/// Requests answered by us, for each that the peer answers.
const THROUGHPUT_BAR: Bar = Bar::AtLeast(0.6);
const P99_BAR: Bar = Bar::AtMost(3.0);
const SECURITY_BAR: Bar = Bar::AtMost(1.15);
const GROWTH_BAR: Bar = Bar::AtMost(1.2);
const DEPTH_BAR: Bar = Bar::AtMost(1.2);

/// How it is measured.
pub struct Plan<'a> {
    pub runs: Option<u32>,
    pub scale: f64,
    pub seconds: Option<u32>,
    /// A part of the names of operations; all if empty.
    pub only: &'a str,
}

pub fn run(
    project: &Project,
    program: &Path,
    binaries: &Binaries,
    plan: &Plan<'_>,
) -> Result<(u32, Figures)> {
    let runs = plan.runs.unwrap_or(RUNS);
    let seconds = plan.seconds.unwrap_or(SECONDS);
    let kept = Kept::open(project, binaries, program, plan.scale)?;
    kept.tidy()?;
    let dir = DataDir::new()?;
    let apis = [(LARGE, kept.tenants), (SMALL, SMALL_TENANTS)];
    let mut load = apis
        .into_iter()
        .map(|(database, tenants)| {
            let api = Api::start(program, &kept, database, &dir.path().join(database))?;
            Ok((api, tenants))
        })
        .collect::<Result<Vec<_>>>()?;
    let (small, _) = load.pop().context("two were started")?;
    let (large, tenants) = load.pop().context("two were started")?;

    let mut all = operations::all();
    all.retain(|operation| operation.name.contains(plan.only));
    let mut measured = Measured::default();
    let mut pages = BTreeMap::new();
    for operation in &all {
        pages.insert(operation.name, page_of(&large, operation)?);
    }
    for run in 1..=runs {
        for operation in &all {
            println!("run {run} of {runs}: {}", operation.name);
            let page = &pages[operation.name];
            let ours = || Load { clients: CLIENTS, tenants, seconds }.run(large.address, operation, page);
            let scratch = dir.path();
            let theirs = || peer::run(&kept, LARGE, &scratch, operation, page, (CLIENTS, tenants, seconds));
            // Who goes first changes, since the second finds caches warm.
            let (ours, theirs) = if run % 2 == 0 {
                let theirs = theirs()?;
                (ours()?, theirs)
            } else {
                let ours = ours()?;
                (ours, theirs()?)
            };
            measured.pair(operation, ours, theirs);
        }
        measured.depth(&all);
        for operation in all.iter().filter(|operation| operation.grows) {
            println!("run {run} of {runs}: {} among few and many ministries", operation.name);
            let page = &pages[operation.name];
            // The same ten ministries in both, so that only the others differ.
            let load = Load { clients: CLIENTS, tenants: SMALL_TENANTS, seconds };
            let many = load.run(large.address, operation, page)?;
            let few = load.run(small.address, operation, page)?;
            measured.growth(operation, many, few);
        }
        measured.security(&kept, &dir.path(), plan.only, seconds)?;
    }
    large.stop()?;
    small.stop()?;
    kept.tidy()?;
    kept.stop()?;
    for (name, page) in &pages {
        if page.number > 1 && page.number < DEEP_PAGE && name.starts_with("list_") {
            println!("{name}: the list has no page {DEEP_PAGE}; page {} is its deepest", page.number);
        }
    }
    Ok((runs, measured.figures()))
}

/// Where the shortest request is measured.
pub struct Shortest<'a> {
    pub project: &'a Project,
    pub program: &'a Path,
    pub binaries: &'a Binaries,
}

/// Median milliseconds of the shortest request that asks for a credential, by
/// one client, of each run: the fewer rows there are, the shorter.
pub fn shortest_request_ms(of: &Shortest<'_>, runs: u32) -> Result<Vec<f64>> {
    let scale = f64::from(SMALL_TENANTS) / 1000.0;
    let kept = Kept::open(of.project, of.binaries, of.program, scale)?;
    kept.tidy()?;
    let dir = DataDir::new()?;
    let api = Api::start(of.program, &kept, SMALL, &dir.path())?;
    let operation = operations::all().into_iter().find(|operation| operation.name == "get_me");
    let operation = operation.context("the shortest request is measured")?;
    let load = Load { clients: 1, tenants: SMALL_TENANTS, seconds: SECONDS };
    let medians = (0..runs)
        .map(|_| Ok(load.run(api.address, &operation, &Page::default())?.quantile(0.5)))
        .collect::<Result<_>>()?;
    api.stop()?;
    kept.stop()?;
    Ok(medians)
}

/// Where the page of an operation begins: found by turning the pages before it.
fn page_of(api: &Api, operation: &Operation) -> Result<Page> {
    match operation.list {
        None | Some((_, Depth::First)) if operation.list.is_none_or(|(list, _)| list != "usage") => {
            Ok(Page { number: 1, ..Page::default() })
        }
        Some(("usage", depth)) => Ok(peer::month(depth)),
        _ => clients::turn_to(api.address, operation, DEEP_PAGE)
            .with_context(|| format!("cannot turn the pages of {}", operation.name)),
    }
}

/// What was measured so far, by name of the figure.
#[derive(Default)]
struct Measured {
    figures: BTreeMap<String, (&'static str, Samples)>,
    /// Of this run: milliseconds of our median request.
    p50: BTreeMap<&'static str, f64>,
    /// Of this run, by group: throughput and p99 against the peer's.
    groups: Vec<(Group, f64, f64)>,
    depth: Vec<f64>,
    growth: Vec<f64>,
    security: Vec<f64>,
}

impl Measured {
    fn add(&mut self, name: String, unit: &'static str, value: f64) {
        self.figures.entry(name).or_insert_with(|| (unit, Samples::default())).1.add(value);
    }

    fn pair(&mut self, operation: &Operation, mut ours: Timings, mut theirs: Timings) {
        let name = operation.name;
        let (p50, p99) = (ours.quantile(0.5), ours.quantile(0.99));
        let throughput = ours.per_second() / theirs.per_second();
        let slower = p99 / theirs.quantile(0.99);
        self.add(format!("{name}_p50_ms"), "ms", p50);
        self.add(format!("{name}_p99_ms"), "ms", p99);
        self.add(format!("{name}_per_second"), "1/s", ours.per_second());
        self.add(format!("{name}_throughput_ratio"), "×", throughput);
        self.add(format!("{name}_p99_ratio"), "×", slower);
        self.p50.insert(name, p50);
        self.groups.push((operation.group, throughput, slower));
    }

    /// The median request of the thousandth page against that of the first.
    fn depth(&mut self, all: &[Operation]) {
        let lists = all.iter().filter_map(|operation| Some((operation.list?, self.p50.get(operation.name)?)));
        let mut first = BTreeMap::new();
        let mut ratios = Vec::new();
        for ((list, depth), p50) in lists {
            match depth {
                Depth::First => {
                    first.insert(list, *p50);
                }
                Depth::Deep => ratios.extend(first.get(list).map(|first| (list, p50 / first))),
            }
        }
        for (list, ratio) in ratios {
            self.add(format!("{list}_depth_ratio"), "×", ratio);
            self.depth.push(ratio);
        }
    }

    fn growth(&mut self, operation: &Operation, mut many: Timings, mut few: Timings) {
        let ratio = many.quantile(0.5) / few.quantile(0.5);
        self.add(format!("{}_growth_ratio", operation.name), "×", ratio);
        self.growth.push(ratio);
    }

    /// Each statement alone, by one client: with row-level security, and
    /// without it but with the tenant in the statement.
    fn security(&mut self, kept: &Kept, dir: &Path, only: &str, seconds: u32) -> Result<()> {
        for (name, statement, page) in operations::secured() {
            if !name.contains(only) {
                continue;
            }
            let mean = |sees| {
                peer::statement(kept, dir, (name, statement), page.number > 0, (ORDINARY, seconds), sees)
            };
            let (with, without) = (mean(peer::Sees::Own)?, mean(peer::Sees::All)?);
            self.add(format!("{name}_rls_ratio"), "×", with / without);
            self.security.push(with / without);
        }
        // What the worst of each kind was in this run.
        for group in Group::ALL {
            let own = self.groups.iter().filter(|(of, ..)| *of == group);
            let (throughput, slower) =
                own.fold((f64::INFINITY, 0.0_f64), |(low, high), (_, t, p)| (low.min(*t), high.max(*p)));
            if throughput.is_finite() {
                self.add(format!("{}_throughput_ratio", group.name()), "×", throughput);
                self.add(format!("{}_p99_ratio", group.name()), "×", slower);
            }
        }
        for (name, ratios) in [
            ("depth_ratio", std::mem::take(&mut self.depth)),
            ("tenants_growth_ratio", std::mem::take(&mut self.growth)),
            ("rls_cost_ratio", std::mem::take(&mut self.security)),
        ] {
            if let Some(worst) = ratios.into_iter().max_by(f64::total_cmp) {
                self.add(name.to_owned(), "×", worst);
            }
        }
        self.groups.clear();
        Ok(())
    }

    fn figures(self) -> Figures {
        let mut figures = Figures::default();
        let bar = |name: &str| match name {
            "depth_ratio" => Some(DEPTH_BAR),
            "tenants_growth_ratio" => Some(GROWTH_BAR),
            "rls_cost_ratio" => Some(SECURITY_BAR),
            "read_throughput_ratio" | "list_throughput_ratio" | "write_throughput_ratio" => {
                Some(THROUGHPUT_BAR)
            }
            "read_p99_ratio" | "list_p99_ratio" | "write_p99_ratio" => Some(P99_BAR),
            _ => None,
        };
        let (worst, each): (Vec<_>, Vec<_>) =
            self.figures.into_iter().partition(|(name, _)| bar(name).is_some());
        for (name, (unit, samples)) in each.into_iter().chain(worst) {
            figures.add(name.clone(), unit, &samples, bar(&name));
        }
        figures
    }
}
