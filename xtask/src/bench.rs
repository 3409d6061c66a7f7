//! `cargo xtask bench NAME`: figures and ratios, not verdicts. Each benchmark is
//! a file in `bench/` that returns samples; here they become a table and JSON.

mod api;
mod auth;
mod client;
mod example;
mod fairness;
mod memory;
mod placement;
mod prompt;
mod quota;
mod scheduler;
mod start;
mod system;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::project::Project;
use crate::{process, up};

#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// How often [default: the benchmark's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// `api`: share of the ministries that the database has at full size
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    scale: f64,
    /// `api`: seconds for each operation in each run; `scheduler`: for each number
    /// of workers; `fairness`: for each of its three runs
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// `api`: only operations with this in their name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PART")]
    only: String,
    /// `api`, `auth`: this program instead of an optimised build of the clone
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// `quota`: the load, a generator of Kueue's `test/performance/scheduler/configs`
    #[arg(long, value_name = "FILE", required_if_eq("name", "quota"))]
    generator: Option<PathBuf>,
    /// `quota`, `scheduler`: run a peer after us, and show the ratios
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// `quota`, `fairness`: an evicted share finishes its chunk first, as our
    /// workers let it, instead of stopping at once, as in Kueue's test
    #[arg(long)]
    finish_chunks: bool,
    /// `scheduler`: numbers of workers, of eight devices each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000,10000",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    workers: Vec<u32>,
    /// `scheduler`: jobs that wait when it begins
    #[arg(long, value_name = "JOBS", default_value_t = 100_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    backlog: u32,
    /// `placement`: nodes of an openb trace
    #[arg(long, value_name = "CSV", required_if_eq("name", "placement"))]
    nodes: Option<PathBuf>,
    /// `placement`: pods of an openb trace
    #[arg(long, value_name = "CSV", required_if_eq("name", "placement"))]
    pods: Option<PathBuf>,
    /// `placement`: orders in which the pods arrive, one run for each
    #[arg(long, value_name = "FIRST..LAST", default_value = "42..51")]
    seeds: placement::Seeds,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Knowing the caller and asking the policies, alone and as a share of a request
    Auth,
    /// Each operation over HTTP against pgbench with the same transactions
    Api,
    /// Kueue's performance test, from the creation of jobs to their end
    Quota,
    /// Placements committed each second with a backlog, by number of workers
    Scheduler,
    /// What a ministry that submits 100 times its share costs the others
    Fairness,
    /// Share of the accelerators that placement fills on a trace, and its speed
    Placement,
    /// Time to first token and tokens per second, whole path against bare engine
    Prompt,
    /// Cold and warm start, and memory at rest
    Start,
}

impl Arguments {
    /// Whether the only peer that this benchmark has is asked for.
    fn against(&self, peer: Peer) -> Result<bool> {
        anyhow::ensure!(self.against.is_none_or(|asked| asked == peer), "this benchmark has another peer");
        Ok(self.against.is_some())
    }
}

/// Who is measured beside us.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// `quota`: Kueue's scheduler and the runner of its test, on the same load
    Kueue,
    /// `scheduler`: the scheduler of Kubernetes, with 1,000 nodes
    KubeScheduler,
}

/// What a figure should reach.
#[derive(Clone, Copy)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// Values of one figure, one for each run.
#[derive(Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle value, or the mean of the middle two; 0 without samples.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => 0.0,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn mean(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some thousand samples")]
        let count = self.0.len().max(1) as f64;
        self.0.iter().sum::<f64>() / count
    }

    /// Standard deviation of the samples; 0 of one.
    fn deviation(&self) -> f64 {
        let mean = self.mean();
        #[expect(clippy::cast_precision_loss, reason = "some thousand samples")]
        let others = self.0.len().saturating_sub(1).max(1) as f64;
        (self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / others).sqrt()
    }

    fn lowest(&self) -> f64 {
        self.0.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
    }

    fn highest(&self) -> f64 {
        self.0.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)
    }
}

/// One line of the result. `low` and `high` are the spread of the runs.
#[derive(Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    bar: Option<f64>,
    low: f64,
    high: f64,
    /// Where the value is a mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<f64>,
    #[serde(skip)]
    limit: Option<Bar>,
}

/// The figures of one benchmark.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// The median of the samples.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: &Samples,
        limit: Option<Bar>,
    ) {
        self.push(name.into(), unit, samples, (samples.median(), None), limit);
    }

    /// The mean of the samples, where each run measures something else.
    pub fn add_mean(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: &Samples,
        limit: Option<Bar>,
    ) {
        let value = (samples.mean(), Some(samples.deviation()));
        self.push(name.into(), unit, samples, value, limit);
    }

    fn push(
        &mut self,
        name: String,
        unit: &'static str,
        samples: &Samples,
        (value, deviation): (f64, Option<f64>),
        limit: Option<Bar>,
    ) {
        let bar = limit.map(|(Bar::AtMost(bar) | Bar::AtLeast(bar))| bar);
        let (low, high) = (samples.lowest(), samples.highest());
        self.0.push(Figure { name, value, unit, bar, low, high, deviation, limit });
    }
}

/// The file that is kept.
#[derive(Serialize)]
struct Record<'a> {
    bench: String,
    commit: String,
    machine: String,
    runs: u32,
    figures: &'a [Figure],
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let (bench, (runs, figures)) = match arguments.name {
        Name::Api => ("api", api(project, arguments)?),
        Name::Auth => ("auth", auth(project, arguments)?),
        Name::Quota => ("quota", quota(project, arguments)?),
        Name::Scheduler => ("scheduler", scheduler(project, arguments)?),
        Name::Fairness => ("fairness", fairness(project, arguments)?),
        Name::Placement => ("placement", placement(project, arguments)?),
        Name::Prompt => ("prompt", prompt::run(&up::prepare(project)?, arguments.runs)?),
        Name::Start => ("start", start::run(&up::prepare(project)?, arguments.runs)?),
    };
    print_table(&figures.0);
    let record = Record {
        bench: bench.to_owned(),
        commit: commit(project),
        machine: machine(),
        runs,
        figures: &figures.0,
    };
    let path = project.target("bench").join(format!("{bench}.json"));
    let json = serde_json::to_string_pretty(&record)?;
    fs::create_dir_all(project.target("bench"))
        .and_then(|()| fs::write(&path, json + "\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("\n{} runs on {}, written to {}", record.runs, record.machine, path.display());
    Ok(())
}

fn api(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let (program, binaries) = programs(project, arguments)?;
    let plan = api::Plan {
        runs: arguments.runs,
        scale: arguments.scale,
        seconds: arguments.seconds,
        only: &arguments.only,
    };
    api::run(project, &program, &binaries, &plan)
}

fn auth(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let (program, binaries) = programs(project, arguments)?;
    let admission = program.with_file_name("examples").join("admission");
    if arguments.program.is_none() {
        let example = ["--package", "chancery", "--bin", "chancery", "--example", "admission"];
        process::run(project.cargo().args(["build", "--release", "--locked"]).args(example))?;
    }
    let shortest = api::Shortest { project, program: &program, binaries: &binaries };
    auth::run(&admission, arguments.runs, &shortest)
}

fn quota(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let generator = arguments.generator.as_ref().context("give --generator FILE")?;
    let binaries = up::ensure_postgres(project)?;
    let plan = quota::Plan {
        generator: &project.called_from.join(generator),
        finish_chunks: arguments.finish_chunks,
        against_kueue: arguments.against(Peer::Kueue)?,
        runs: arguments.runs,
    };
    quota::run(project, &binaries, &plan)
}

fn scheduler(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let plan = scheduler::Plan {
        workers: &arguments.workers,
        backlog: arguments.backlog,
        seconds: arguments.seconds,
        against_kube: arguments.against(Peer::KubeScheduler)?,
        runs: arguments.runs,
    };
    scheduler::run(project, &up::ensure_postgres(project)?, &plan)
}

fn fairness(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let plan = fairness::Plan {
        finish_chunks: arguments.finish_chunks,
        seconds: arguments.seconds,
        runs: arguments.runs,
    };
    fairness::run(project, &up::ensure_postgres(project)?, &plan)
}

fn placement(project: &Project, arguments: &Arguments) -> Result<(u32, Figures)> {
    let given = |path: &Option<PathBuf>| path.clone().context("placement needs --nodes and --pods");
    placement::run(project, &given(&arguments.nodes)?, &given(&arguments.pods)?, arguments.seeds)
}

/// What is measured, built unless it is given, and PostgreSQL.
fn programs(project: &Project, arguments: &Arguments) -> Result<(PathBuf, postgres::Binaries)> {
    let Some(program) = &arguments.program else {
        let inputs = up::prepare(project)?;
        return Ok((inputs.binary, inputs.postgres));
    };
    Ok((project.called_from.join(program), up::ensure_postgres(project)?))
}

fn print_table(figures: &[Figure]) {
    println!("\n{:<38} {:>10} {:<9} {:>21}  bar", "figure", "value", "unit", "spread");
    for figure in figures {
        let spread = match figure.deviation {
            Some(deviation) => format!("± {deviation:.3}"),
            None => format!("{:.2} … {:.2}", figure.low, figure.high),
        };
        let bar = match figure.limit {
            None => String::new(),
            Some(Bar::AtMost(bar)) => format!("≤ {bar} {}", verdict(figure.value <= bar)),
            Some(Bar::AtLeast(bar)) => format!("≥ {bar} {}", verdict(figure.value >= bar)),
        };
        let (name, value, unit) = (&figure.name, figure.value, figure.unit);
        let precision = if figure.deviation.is_some() { 3 } else { 2 };
        println!("{name:<38} {value:>10.precision$} {unit:<9} {spread:>21}  {bar}");
    }
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

/// The commit, marked if the clone differs from it.
fn commit(project: &Project) -> String {
    let git = |arguments: &[&str]| process::output(project.command("git").args(arguments));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])
        .map_or_else(|_| "none".to_owned(), |text| text.trim().to_owned());
    let changed = git(&["status", "--porcelain"]).is_ok_and(|text| !text.trim().is_empty());
    if changed { format!("{commit}-changed") } else { commit }
}

/// Processor, cores, memory.
fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory: u64 = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    format!("{processor}, {cores} cores, {} GB", memory / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Samples(vec![3.0, 1.0, 100.0]).median(), 3.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 100.0]).median(), 3.0);
        assert_eq!(Samples::default().median(), 0.0);
    }
}
