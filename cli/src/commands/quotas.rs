//! `chancery quotas …`

mod amounts;
mod tree;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use domain::quotas::{
    BorrowWhilePreempting, Fungibility, Policies, QuotaLine, QuotaNode, Reclaim, Strategy, WithinTenant,
};
use domain::tenants::Slug;
use serde_json::{Value, json};

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with quotas.
#[derive(Subcommand, Debug)]
pub enum QuotasCommand {
    /// Draw the tree: who may use what of each accelerator class, and does.
    Tree,
    /// Make a cohort, or set all of what one is (administrator).
    SetCohort {
        /// Its name.
        cohort: Slug,
        /// The cohort that it is in.
        #[arg(long)]
        parent: Option<Slug>,
        #[command(flatten)]
        lines: Lines,
        #[command(flatten)]
        weight: Weight,
    },
    /// Set all of what a ministry may use (administrator).
    SetTenant {
        /// Its short name.
        #[arg(value_name = "TENANT")]
        slug: Slug,
        /// The cohort in which it lends and borrows [default: none].
        #[arg(long)]
        cohort: Option<Slug>,
        #[command(flatten)]
        lines: Lines,
        #[command(flatten)]
        weight: Weight,
        #[command(flatten)]
        policies: PolicyOptions,
    },
    /// Limit a project to a part of its ministry's quota.
    SetProject {
        /// Its short name.
        project: Slug,
        #[command(flatten)]
        lines: Lines,
    },
    /// Delete a cohort that nothing is in (administrator).
    RemoveCohort {
        /// Its name.
        cohort: Slug,
    },
    /// Take a ministry out of the tree: devices alone bind it (administrator).
    RemoveTenant {
        /// Its short name.
        #[arg(value_name = "TENANT")]
        slug: Slug,
    },
    /// Bind a project by its ministry's quota alone.
    RemoveProject {
        /// Its short name.
        project: Slug,
    },
}

/// Quotas of a node.
#[derive(clap::Args, Debug)]
pub struct Lines {
    /// Accelerators of a class, and how many of them may be lent and borrowed,
    /// e.g. `nvidia-h100-80g=8`, `cpu=2.5,lend=1,borrow=0`; of memory
    /// `nvidia-h100-80g/memory=640GB`. Once for each class; 0 allows borrowing.
    #[arg(long = "quota", value_name = "CLASS=N[,lend=N][,borrow=N]", value_parser = amounts::line)]
    quotas: Vec<QuotaLine>,
}

/// What a node gets of what is lent.
#[derive(clap::Args, Debug)]
pub struct Weight {
    /// Its share of what others lend, against that of its neighbours.
    #[arg(long = "weight", value_name = "N", default_value = "1", value_parser = amounts::weight)]
    weight_milli: u32,
}

/// What a ministry may do to get room.
#[derive(clap::Args, Debug)]
pub struct PolicyOptions {
    /// Which of its own work its work may make leave.
    #[arg(long, value_enum, default_value = "never")]
    within: Within,
    /// Whose work it may make leave to have its own quota back.
    #[arg(long, value_enum, default_value = "any")]
    reclaim: From,
    /// Its work may make less important work leave even to borrow.
    #[arg(long)]
    preempt_to_borrow: bool,
    /// With `--preempt-to-borrow`: only work of at most this priority.
    #[arg(long, value_name = "PRIORITY", requires = "preempt_to_borrow", allow_negative_numbers = true)]
    preempt_up_to: Option<i32>,
    /// Work that does not fit keeps what is behind it waiting.
    #[arg(long)]
    strict: bool,
    /// Make others leave its own quota before borrowing.
    #[arg(long)]
    reclaim_first: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Within {
    Never,
    LowerPriority,
    LowerOrNewerEqualPriority,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Never,
    LowerPriority,
    Any,
}

impl PolicyOptions {
    fn policies(&self) -> Policies {
        let borrow = BorrowWhilePreempting::LowerPriority { max_priority: self.preempt_up_to };
        Policies {
            within: match self.within {
                Within::Never => WithinTenant::Never,
                Within::LowerPriority => WithinTenant::LowerPriority,
                Within::LowerOrNewerEqualPriority => WithinTenant::LowerOrNewerEqualPriority,
            },
            reclaim: match self.reclaim {
                From::Never => Reclaim::Never,
                From::LowerPriority => Reclaim::LowerPriority,
                From::Any => Reclaim::Any,
            },
            borrow: if self.preempt_to_borrow { borrow } else { BorrowWhilePreempting::Never },
            strategy: if self.strict { Strategy::StrictFifo } else { Strategy::BestEffortFifo },
            fungibility: if self.reclaim_first {
                Fungibility::PreemptFirst
            } else {
                Fungibility::BorrowFirst
            },
        }
    }
}

pub(super) async fn run(command: QuotasCommand, at: &Call) -> Result<()> {
    let cohort = |name: &Slug| format!("api/v1/cohorts/{name}");
    let tenant = |slug: &Slug| format!("api/v1/tenants/{slug}/quota");
    let project = |slug: &Slug| format!("api/v1/projects/{slug}/quota");
    let (scope, path, body) = match command {
        QuotasCommand::Tree => return tree::draw(at).await,
        QuotasCommand::SetCohort { cohort: name, parent, lines, weight } => (
            Scope::Platform,
            cohort(&name),
            json!({ "parent": parent, "weight_milli": weight.weight_milli, "quotas": lines.quotas }),
        ),
        QuotasCommand::SetTenant { slug, cohort, lines, weight, policies } => (
            Scope::Platform,
            tenant(&slug),
            json!({
                "cohort": cohort, "weight_milli": weight.weight_milli, "policies": policies.policies(),
                "quotas": lines.quotas,
            }),
        ),
        QuotasCommand::SetProject { project: slug, lines } => {
            (Scope::Tenant, project(&slug), json!({ "quotas": lines.quotas }))
        }
        QuotasCommand::RemoveCohort { cohort: name } => {
            return remove(at, Scope::Platform, &cohort(&name), &name).await;
        }
        QuotasCommand::RemoveTenant { slug } => {
            return remove(at, Scope::Platform, &tenant(&slug), &slug).await;
        }
        QuotasCommand::RemoveProject { project: slug } => {
            return remove(at, Scope::Tenant, &project(&slug), &slug).await;
        }
    };
    shown(at, at.client.put(scope, &path, &body).await?)
}

async fn remove(at: &Call, scope: Scope, path: &str, name: &Slug) -> Result<()> {
    at.client.delete(scope, path).await?;
    note(format_args!("{name} is out of the quota tree."));
    Ok(())
}

fn shown(at: &Call, node: Value) -> Result<()> {
    output::object(at.format, node, |node: &QuotaNode| {
        let quotas: Vec<_> = node.quotas.iter().map(amounts::in_short).collect();
        let quotas = if quotas.is_empty() { "none".to_owned() } else { quotas.join("; ") };
        vec![
            (node.kind.as_str(), node.name.to_string()),
            ("weight", amounts::thousandths(node.weight_milli.into())),
            ("quota", quotas),
        ]
    })
}
