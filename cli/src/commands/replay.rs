//! `chancery replay …`: makes a plan of the scheduler again from its record.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use domain::WorkloadId;
use domain::models::Sha256Digest;
use domain::planner::{Decision, PlanId, Replay, Snapshot};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::json;

use super::note;
use crate::args::{Format, Global};
use crate::client::{Client, Scope, Settings};
use crate::output;

/// Which plan, and where its record is.
#[derive(Args, Debug)]
pub struct ReplayOptions {
    /// The plan, from `chancery explain workload`, e.g. 12-3045. Of a file, its last unless given.
    #[arg(required_unless_present = "record")]
    plan: Option<PlanId>,
    /// Show only what it decided of this workload.
    #[arg(long, value_name = "ID")]
    workload: Option<WorkloadId>,
    /// Fail unless this is the SHA-256 of what it was made from, as the audit log and the explanation say.
    #[arg(long, value_name = "SHA256")]
    inputs: Option<Sha256Digest>,
    /// Keep the record in this file.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Read the record from this file, and ask no server.
    #[arg(long, value_name = "FILE", conflicts_with = "save")]
    record: Option<PathBuf>,
}

pub(super) async fn run(options: ReplayOptions, global: &Global) -> Result<()> {
    let replay = match (&options.record, options.plan) {
        (Some(file), plan) => from_file(file, plan)?,
        (None, Some(plan)) => from_server(plan, options.save.as_deref(), global).await?,
        (None, None) => bail!("name a plan, or a file with its record"),
    };
    let (Some(page), Some(inputs)) = (replay.last(), replay.digest()) else { bail!("the record is empty") };
    if let Some(plan) = options.plan {
        ensure!(
            page.plan == plan,
            "the record ends with plan {} and not with {plan}: it was cut off",
            page.plan
        );
    }
    if let Some(expected) = options.inputs {
        ensure!(inputs == expected, "plan {} was made from {inputs} and not from {expected}", page.plan);
    }
    let concerns = |decision: &&Decision| options.workload.is_none_or(|id| decision.workload() == Some(id));
    let decided: Vec<&Decision> = replay.decided().iter().filter(concerns).collect();
    if global.output == Format::Json {
        return output::json(&json!({
            "plan": page.plan, "version": page.version, "steps": replay.steps(), "inputs": inputs,
            "outcome": page.decided, "agrees": true, "decided": decided,
        }));
    }
    output::print(&format!(
        "Plan {} was made by version {} and is made again by {}: it agrees.\n  asked     {} times since the planner \
         began\n  inputs    {inputs}\n  outcome   {}, {} decisions",
        page.plan,
        page.version,
        env!("CARGO_PKG_VERSION"),
        replay.steps(),
        page.decided,
        replay.decided().len(),
    ))?;
    if decided.is_empty() {
        output::print(if options.workload.is_some() {
            "It decided nothing of that workload."
        } else {
            "It decided nothing."
        })?;
    }
    decided.into_iter().try_for_each(|decision| output::print(&told(decision, replay.facts())))
}

/// A decision in a line.
fn told(decision: &Decision, facts: Option<&Snapshot>) -> String {
    let worker = |id| match facts.and_then(|facts| facts.workers.get(id)) {
        Some(worker) => format!("{} ({id})", worker.name),
        None => id.to_string(),
    };
    match decision {
        Decision::DeclareLost { worker: id, seen_at } => {
            format!("- worker {} is lost: last heard {seen_at}", worker(id))
        }
        Decision::EndPlacement { placement, worker: id, .. } => {
            format!("- placement {placement} on {} ends with its worker", worker(id))
        }
        Decision::CreateWorkloads { owner, count, .. } => format!("- {count} workloads for {owner:?}"),
        Decision::EndWorkload { workload, .. } => format!("- workload {workload} is not wanted any more"),
        Decision::Drain { placement, why, .. } => {
            format!("- placement {placement} drains: {}", why.as_str().replace('_', " "))
        }
        Decision::Evict { placement, preemptor, rule, .. } => {
            format!("- placement {placement} leaves for workload {preemptor}: {}", rule.as_str())
        }
        Decision::Place { workload, worker: id, class, passed_over, holds, considered, cost, .. } => format!(
            "- workload {workload} goes to {}, device {} of class {class}{}\n    chosen from {} workers; rejected: {} lost, {} cordoned, {} \
             in other zones, {} in other pools, {} not cleared, {} short of memory, {} short of thousandths\n    cost {} millionths of a device: gaps {}, \
             stranding {}, groups {}, scarcity {}, opens {}",
            worker(id),
            holds.iter().map(|hold| hold.device_id.to_string()).collect::<Vec<_>>().join(", "),
            passed_over.iter().map(|p| format!("\n    not on {}: {}", p.class, p.why)).collect::<String>(),
            considered.fitting,
            considered.lost,
            considered.cordoned,
            considered.out_of_zone,
            considered.out_of_pool,
            considered.not_cleared,
            considered.short_of_memory,
            considered.short_of_milli,
            cost.total,
            cost.gaps,
            cost.stranding,
            cost.groups,
            cost.scarcity,
            cost.opens,
        ),
        Decision::Wait { workload, reason, .. } => format!("- workload {workload} waits: {reason}"),
    }
}

/// Plans again what the file says, up to a plan if one is named.
fn from_file(file: &Path, until: Option<PlanId>) -> Result<Replay> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut replay = Replay::default();
    for line in BufReader::new(opened).lines() {
        replay.read(&line.with_context(|| format!("cannot read {}", file.display()))?)?;
        if until.is_some() && replay.last().map(|page| page.plan) == until {
            break;
        }
    }
    Ok(replay)
}

async fn from_server(plan: PlanId, save: Option<&Path>, global: &Global) -> Result<Replay> {
    let client = Client::new(Settings::find(global)?)?;
    let path = format!("api/v1/plans/{plan}/record");
    let mut parts = client.stream(Scope::Platform, Method::GET, &path, None).await?.bytes_stream();
    let mut kept = match save {
        None => None,
        Some(file) => {
            let folder =
                file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let made = tempfile::NamedTempFile::new_in(folder);
            Some((BufWriter::new(made.with_context(|| format!("cannot write {}", file.display()))?), file))
        }
    };
    let (mut replay, mut rest) = (Replay::default(), Vec::new());
    while let Some(part) = parts.try_next().await.context("the record broke off")? {
        if let Some((out, file)) = &mut kept {
            out.write_all(&part).with_context(|| format!("cannot write {}", file.display()))?;
        }
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(piece);
            if rest.pop_if(|last| *last == b'\n').is_some() {
                let line = std::str::from_utf8(&rest).context("the record is no text")?;
                // A line takes as long as there is to plan.
                tokio::task::block_in_place(|| replay.read(line))?;
                rest.clear();
            }
        }
    }
    if let Some((out, file)) = kept {
        let cannot = || format!("cannot write {}", file.display());
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .with_context(cannot)?
            .persist(file)
            .with_context(cannot)?;
        note(format_args!("The record is in {}.", file.display()));
    }
    Ok(replay)
}
