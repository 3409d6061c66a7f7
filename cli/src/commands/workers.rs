//! `chancery workers …`

use anyhow::Result;
use clap::Subcommand;
use domain::accelerators::Device;
use domain::tenants::{Classification, Slug};
use domain::workers::Worker;
use serde_json::json;

use super::Call;
use crate::client::{Scope, segment};
use crate::output;

/// What can be done with workers.
#[derive(Subcommand, Debug)]
pub enum WorkersCommand {
    /// List every worker with its devices.
    List,
    /// Place nothing new on a worker.
    Cordon {
        /// Its name.
        worker: String,
    },
    /// Place work on it again.
    Uncordon {
        /// Its name.
        worker: String,
    },
    /// Say how secret the work may be that is placed on it. What is more secret leaves.
    Clear {
        /// Its name.
        worker: String,
        /// public, internal, confidential or secret.
        #[arg(long)]
        level: Classification,
    },
    /// Put a worker into a pool, whatever pool it names when it joins.
    Move {
        /// Its name.
        worker: String,
        /// The pool; left out, it is the worker's own choice again when it joins.
        #[arg(long)]
        pool: Option<Slug>,
    },
}

pub(super) async fn run(command: WorkersCommand, at: &Call) -> Result<()> {
    let (worker, change) = match command {
        WorkersCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/workers").await?;
            return output::list(
                at.format,
                items,
                &["worker", "pool", "zone", "cleared for", "state", "devices", "memory used", "last report"],
                row,
            );
        }
        WorkersCommand::Cordon { worker } => (worker, json!({"cordoned": true})),
        WorkersCommand::Uncordon { worker } => (worker, json!({"cordoned": false})),
        WorkersCommand::Clear { worker, level } => (worker, json!({"clearance": level})),
        WorkersCommand::Move { worker, pool } => (worker, json!({"pool": pool})),
    };
    let path = format!("api/v1/workers/{}", segment(&worker));
    let changed = at.client.patch(Scope::Platform, &path, &change).await?;
    output::object(at.format, changed, |worker: &Worker| {
        vec![
            ("worker", worker.name.to_string()),
            ("state", state(worker).to_owned()),
            ("pool", pool(worker)),
            ("cleared for", worker.clearance.as_str().to_owned()),
        ]
    })
}

fn row(worker: &Worker) -> Vec<String> {
    let classes: Vec<_> = worker.devices.iter().map(|d| format!("{} ({} milli)", d.class, d.milli)).collect();
    vec![
        worker.name.to_string(),
        pool(worker),
        worker.zone.to_string(),
        worker.clearance.as_str().to_owned(),
        state(worker).to_owned(),
        classes.join(", "),
        memory(worker),
        output::moment(worker.seen_at),
    ]
}

fn memory(worker: &Worker) -> String {
    let sum = |of: fn(&Device) -> u64| worker.devices.iter().map(of).sum::<u64>();
    let (used, all) = (sum(|d| d.used_memory_bytes), sum(|d| d.memory_bytes));
    match all - sum(Device::usable_memory_bytes) {
        0 => format!("{} of {}", output::bytes(used), output::bytes(all)),
        others => {
            format!("{} of {}, {} by others", output::bytes(used), output::bytes(all), output::bytes(others))
        }
    }
}

fn pool(worker: &Worker) -> String {
    if worker.dedicated { format!("{} (dedicated)", worker.pool) } else { worker.pool.to_string() }
}

fn state(worker: &Worker) -> &'static str {
    match (worker.live, worker.cordoned) {
        (false, _) => "lost",
        (true, true) => "cordoned",
        (true, false) => "live",
    }
}
