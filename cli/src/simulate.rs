//! `chancery simulate`: plays a trace of work on a described fleet with the
//! scheduler's own planner, and writes what came of it. Needs no server.

mod chart;
mod figures;
mod inputs;
mod report;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use domain::simulate::{Job, Outcome, Scenario, Simulation};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::Format;
use crate::client::upload::target;
use crate::output;
use inputs::Inputs;

/// Most changes beside the base.
const MAX_WHAT_IFS: usize = 8;
/// Requests that fit nowhere of which each is told.
const MOST_TOLD: usize = 5;
/// How often progress is told where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
Example:
  chancery simulate --trace jobs.csv --cluster cluster.toml --what-if more-h100.toml --report report.html

The trace is CSV with a header. It must have the columns arrival_secs, tenant, class, milli and
duration_secs; project, model, memory_bytes, priority and count may be there. Where several
classes will do, they stand in one field, as h100|a100, the preferred first. The cluster and each
change are TOML. docs/OPERATIONS.md, Planning capacity, has an example of each and says what the
report's figures mean. The same files, seed and version give the same report, byte for byte.";

/// `chancery simulate …`
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = AFTER_HELP)]
pub struct SimulateOptions {
    /// The work: when it arrives, whose it is, what it needs and for how long (CSV).
    #[arg(long, value_name = "FILE", required_unless_present = "openb_pods")]
    trace: Option<PathBuf>,
    /// The workers, the quota tree and its policies (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "openb_nodes")]
    cluster: Option<PathBuf>,
    /// Changes to the cluster, played beside it (TOML); may be repeated.
    #[arg(long, value_name = "FILE")]
    what_if: Vec<PathBuf>,
    /// Workers from a list of nodes of the openb trace (CSV), beside those of --cluster.
    #[arg(long, value_name = "FILE", requires = "openb_pods")]
    openb_nodes: Option<PathBuf>,
    /// Work from a list of pods of the openb trace (CSV).
    #[arg(long, value_name = "FILE", requires = "openb_nodes", conflicts_with = "trace")]
    openb_pods: Option<PathBuf>,
    /// Stop at this virtual time, e.g. 90s, 15m, 36h or 7d [default: when all is done].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    until: Option<Duration>,
    /// Draws the model of a pod that accepts several.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Where the report goes: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
}

/// Plays the trace and writes the report.
pub fn run(options: &SimulateOptions, format: Format) -> Result<()> {
    if options.what_if.len() > MAX_WHAT_IFS {
        bail!("{} changes are too many: at most {MAX_WHAT_IFS}", options.what_if.len());
    }
    let inputs = Inputs::read(options)?;
    if inputs.jobs.is_empty() {
        bail!("{} has no work: add a line below its header", inputs.trace_name());
    }
    let base = inputs.scenario(None)?;
    let scenarios = inputs
        .changes
        .iter()
        .map(|(file, change)| inputs.scenario(Some((file, change))))
        .collect::<Result<Vec<_>>>()?;
    warn_of_what_fits_nowhere(&inputs, &base, &scenarios)?;
    let names = inputs.changes.iter().map(|(_, change)| change.name.as_str());
    let mut outcomes = Vec::new();
    for (name, scenario) in std::iter::once("base").chain(names).zip(std::iter::once(&base).chain(&scenarios))
    {
        outcomes.push(play(name, scenario, &inputs.jobs, options.until)?);
    }
    let html = report::html(&inputs, options, &base, &outcomes);
    std::fs::write(&options.report, html)
        .with_context(|| format!("cannot write {}", options.report.display()))?;
    eprintln!("The report is in {}.", options.report.display());
    if format == Format::Json {
        let inputs: Vec<_> =
            inputs.files.iter().map(|file| json!({ "file": file.name, "sha256": file.sha256 })).collect();
        return output::json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "seed": options.seed,
            "until_secs": options.until.map(|until| until.as_secs_f64()), "inputs": inputs, "outcomes": outcomes,
        }));
    }
    let (header, rows) = figures::table(&outcomes);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    output::print(&output::table(&header, rows))
}

/// Says which requests no device could ever take; if that is all, nothing is worth
/// playing.
fn warn_of_what_fits_nowhere(inputs: &Inputs, base: &Scenario, others: &[Scenario]) -> Result<()> {
    let fits = |job: &&Job| {
        base.could_take(&job.request) || others.iter().any(|scenario| scenario.could_take(&job.request))
    };
    let never: Vec<&Job> = inputs.jobs.iter().filter(|job| !fits(job)).collect();
    let told = |job: &Job| {
        let asked = &job.request;
        let largest = |class| match base.largest(class) {
            None => format!("no worker has a device of class {class}"),
            Some((milli, memory)) => {
                format!("the largest device of class {class} has {milli} milli and {memory} bytes")
            }
        };
        let largest = asked.classes().map(largest).collect::<Vec<_>>().join(", ");
        format!(
            "{} line {}: asks for {} milli and {} bytes of one device, but {largest}",
            inputs.trace_name(),
            job.line,
            asked.milli,
            asked.memory_bytes
        )
    };
    if never.len() == inputs.jobs.len() {
        bail!("none of the work fits anywhere; {}", told(never[0]));
    }
    never.iter().take(MOST_TOLD).for_each(|job| eprintln!("warning: {}", told(job)));
    if never.len() > MOST_TOLD {
        eprintln!("warning: {} more lines ask for what no device has", never.len() - MOST_TOLD);
    }
    Ok(())
}

fn play(name: &str, scenario: &Scenario, jobs: &[Job], until: Option<Duration>) -> Result<Outcome> {
    let mut simulation = Simulation::new(scenario, jobs, until)?;
    let bar = ProgressBar::with_draw_target(None, target());
    let style = ProgressStyle::with_template("{msg}  {bar:30}  {pos}/{len} pieces of work  {elapsed}");
    bar.set_style(style.expect("a constant template"));
    bar.set_message(name.to_owned());
    let mut told = Instant::now();
    while let Some(progress) = simulation.step()? {
        bar.set_length(progress.of as u64);
        bar.set_position(progress.finished as u64);
        if told.elapsed() >= LINE_EVERY && !std::io::stderr().is_terminal() {
            told = Instant::now();
            eprintln!(
                "{name}: {} of {} pieces of work, at {} s",
                progress.finished, progress.of, progress.secs
            );
        }
    }
    bar.finish_and_clear();
    Ok(simulation.outcome(name))
}

/// `90s`, `15m`, `36h`, `7d`; seconds where no unit is given.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86400)];
    let unit = UNITS.iter().find_map(|(unit, secs)| Some((text.strip_suffix(*unit)?, *secs)));
    let (number, secs) = unit.unwrap_or((text, 1));
    let total = number.parse::<u64>().ok().and_then(|n| n.checked_mul(secs));
    total
        .filter(|secs| *secs <= domain::simulate::MAX_SECS)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no time such as 90s, 15m, 36h or 7d, at most a century"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, secs) in [("90", 90), ("90s", 90), ("15m", 900), ("36h", 129_600), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in ["", "h", "-1s", "1.5h", "1w", "99999999d"] {
            assert!(duration(bad).unwrap_err().contains("36h"), "{bad}");
        }
    }

    /// Runs the command in a folder with these files; the report, or the error.
    fn simulate(files: &[(&str, &str)], more: &[&str]) -> Result<String, String> {
        use clap::Parser;

        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        files.iter().for_each(|(name, text)| std::fs::write(path(name), text).unwrap());
        let report = path("report.html");
        let mut args: Vec<String> = ["chancery", "simulate", "--report", &report].map(str::to_owned).to_vec();
        for (option, name) in [("--trace", "jobs.csv"), ("--cluster", "cluster.toml")] {
            args.extend([option.to_owned(), path(name)]);
        }
        for name in more {
            args.extend(["--what-if".to_owned(), path(name)]);
        }
        let args = crate::args::Args::try_parse_from(args).map_err(|error| error.to_string())?;
        let crate::args::Command::Simulate(options) = args.command else { panic!("another command") };
        run(&options, Format::Json).map_err(|error| crate::errors::describe(&error, false))?;
        Ok(std::fs::read_to_string(report).unwrap())
    }

    const TRACE: &str = "arrival_secs,tenant,class,milli,duration_secs\n0,a,x,1000,10\n0,a,x,1000,10\n";
    const CLUSTER: &str = "[[workers]]\nname = \"w\"\nclass = \"x\"\n";

    #[test]
    fn the_report_needs_nothing_else_and_can_be_made_again() {
        let change = "name = \"<b>more</b>\"\nadd = [{ name = \"v\", class = \"x\" }]\n";
        let files = [("jobs.csv", TRACE), ("cluster.toml", CLUSTER), ("more.toml", change)];
        let report = simulate(&files, &["more.toml"]).unwrap();
        assert_eq!(report, simulate(&files, &["more.toml"]).unwrap());
        assert!(report.contains("&lt;b&gt;more&lt;/b&gt;") && !report.contains("<b>more"));
        assert!(!report.contains("http:") && !report.contains("https:") && !report.contains("<script"));
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(TRACE));
        assert!(report.contains(&digest) && report.contains("<svg"));
    }

    #[test]
    fn bad_files_are_named_with_what_was_expected() {
        let told = |trace: &str, cluster: &str| {
            simulate(&[("jobs.csv", trace), ("cluster.toml", cluster)], &[]).unwrap_err()
        };
        let bad = told(&TRACE.replacen("1000", "many", 1), CLUSTER);
        assert!(bad.contains("jobs.csv line 2, column milli: expected thousandths"), "{bad}");
        let large = told(&TRACE.replace("1000", "2000"), CLUSTER);
        assert!(large.contains("line 2: asks for 2000 milli") && large.contains("has 1000 milli"), "{large}");
        let unknown = told(TRACE, "colour = 1");
        assert!(unknown.contains("cluster.toml") && unknown.contains("colour"), "{unknown}");
        let empty = told(TRACE.lines().next().unwrap(), CLUSTER);
        assert!(empty.contains("has no work"), "{empty}");
        assert!(told(TRACE, "").contains("describe some in [[workers]]"));
    }
}
