//! `chancery workloads …` and `chancery explain …`

use anyhow::Result;
use clap::Subcommand;
use domain::WorkloadId;
use domain::explanations::WorkloadExplanation;
use domain::workloads::{Workload, WorkloadOwner};

use super::Call;
use crate::client::Scope;
use crate::output;

/// What can be done with workloads.
#[derive(Subcommand, Debug)]
pub enum WorkloadsCommand {
    /// List replicas of endpoints and shares of jobs that are not over.
    List {
        /// Only those that wait.
        #[arg(long)]
        waiting: bool,
    },
}

/// What can be explained.
#[derive(Subcommand, Debug)]
pub enum ExplainCommand {
    /// Why a workload is where it is, or why it waits and what would help.
    Workload {
        /// Its identifier, from `chancery workloads list`.
        id: WorkloadId,
    },
}

pub(super) async fn run(command: WorkloadsCommand, at: &Call) -> Result<()> {
    let WorkloadsCommand::List { waiting } = command;
    let path = if waiting { "api/v1/workloads?waiting=true" } else { "api/v1/workloads" };
    let items = at.client.list(Scope::Tenant, path).await?;
    output::list(
        at.format,
        items,
        &["workload", "of", "class", "milli", "priority", "state", "why it waits"],
        |workload: &Workload| {
            let owner = match workload.owner {
                WorkloadOwner::Endpoint(id) => format!("endpoint {id}"),
                WorkloadOwner::Job(id) => format!("job {id}"),
            };
            vec![
                workload.id.to_string(),
                owner,
                workload.resources.classes().collect::<Vec<_>>().join(" or "),
                workload.resources.milli.to_string(),
                workload.priority.to_string(),
                workload.state.as_str().to_owned(),
                workload.reason.clone().unwrap_or_default(),
            ]
        },
    )
}

pub(super) async fn explain(command: ExplainCommand, at: &Call) -> Result<()> {
    let ExplainCommand::Workload { id } = command;
    let answer = at.client.get(Scope::Tenant, &format!("api/v1/workloads/{id}/explanation"), &[]).await?;
    if at.format == crate::args::Format::Json {
        return output::json(&answer);
    }
    let explanation: WorkloadExplanation = output::parse(answer)?;
    output::print(&explanation.text)
}
