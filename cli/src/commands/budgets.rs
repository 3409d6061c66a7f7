//! `chancery budgets …`

mod amounts;

use anyhow::Result;
use clap::Subcommand;
use domain::budgets::{BudgetLine, BudgetNode, BudgetUse};
use domain::quotas::NodeKind;
use domain::tenants::Slug;
use serde_json::json;

use super::{Call, note};
use crate::args::Format;
use crate::client::Scope;
use crate::output;

/// What can be done with budgets.
#[derive(Subcommand, Debug)]
pub enum BudgetsCommand {
    /// List who may spend what, and has spent it.
    List,
    /// Set all that a ministry (administrator) or a project may spend.
    Set {
        #[command(flatten)]
        whose: Whose,
        /// What may be spent: accelerator-hours of a class, or tokens, in a day or a
        /// month of UTC, e.g. `nvidia-h100-80g=1000h/month`, `cpu=90m/day`,
        /// `tokens=5000000/month`. Once for each.
        #[arg(long = "budget", value_name = "CLASS=HOURSh/PERIOD", value_parser = amounts::line, required = true)]
        budgets: Vec<BudgetLine>,
    },
    /// Take all budgets of a ministry (administrator) or a project away.
    Remove {
        #[command(flatten)]
        whose: Whose,
    },
}

/// Whose budgets.
#[derive(clap::Args, Debug)]
pub struct Whose {
    /// The ministry's, by its short name.
    #[arg(value_name = "MINISTRY", required_unless_present = "project", conflicts_with = "project")]
    slug: Option<Slug>,
    /// A project's, by its short name.
    #[arg(long)]
    project: Option<Slug>,
}

impl Whose {
    /// Where they are, and whose in words.
    fn path(&self) -> (Scope, String, String) {
        match (&self.project, &self.slug) {
            (Some(project), _) => {
                (Scope::Tenant, format!("api/v1/projects/{project}/budgets"), project.to_string())
            }
            (None, Some(slug)) => {
                (Scope::Platform, format!("api/v1/tenants/{slug}/budgets"), slug.to_string())
            }
            (None, None) => unreachable!("one of them is required"),
        }
    }
}

pub(super) async fn run(command: BudgetsCommand, at: &Call) -> Result<()> {
    match command {
        BudgetsCommand::List => list(at).await,
        BudgetsCommand::Set { whose, budgets } => {
            let (scope, path, _) = whose.path();
            let node = at.client.put(scope, &path, &json!({ "budgets": budgets })).await?;
            if at.format == Format::Json {
                return output::json(&node);
            }
            table(&[output::parse(node)?])
        }
        BudgetsCommand::Remove { whose } => {
            let (scope, path, name) = whose.path();
            at.client.delete(scope, &path).await?;
            note(format_args!("{name} has no budgets any more."));
            Ok(())
        }
    }
}

async fn list(at: &Call) -> Result<()> {
    let scope = if at.client.acts_for_a_tenant() { Scope::Tenant } else { Scope::Platform };
    let answer = at.client.get(scope, "api/v1/budgets", &[]).await?;
    if at.format == Format::Json {
        return output::json(&answer);
    }
    let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
    if nodes.is_empty() {
        note("No budgets are set: nothing limits what is spent. `chancery budgets set` sets some.");
        return Ok(());
    }
    table(&nodes.into_iter().map(output::parse).collect::<Result<Vec<BudgetNode>>>()?)
}

fn table(nodes: &[BudgetNode]) -> Result<()> {
    let rows = nodes.iter().flat_map(|node| {
        let whose = match node.kind {
            NodeKind::Project => format!("{}/{}", node.tenant, node.name),
            _ => node.name.to_string(),
        };
        node.budgets.iter().map(move |budget| row(&whose, budget))
    });
    let header = ["whose", "of", "limit", "spent", "reserved", "free", "period", "ends"];
    output::print(&output::table(&header, rows.collect()))
}

fn row(whose: &str, budget: &BudgetUse) -> Vec<String> {
    let amount = |n| amounts::shown(n, budget.counts);
    vec![
        whose.to_owned(),
        budget.class.clone().unwrap_or_else(|| "tokens".to_owned()),
        amount(budget.limit),
        amount(budget.spent),
        amount(budget.reserved),
        amount(budget.free),
        budget.period.as_str().to_owned(),
        output::moment(budget.period_ends),
    ]
}
