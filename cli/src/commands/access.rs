//! `chancery access …`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use domain::PrincipalId;
use domain::restrictions::Restriction;
use domain::tenants::Slug;
use serde::Deserialize;
use serde_json::json;

use super::{Call, note};
use crate::args::Format;
use crate::client::Scope;
use crate::output;

/// What can be asked about access.
#[derive(Subcommand, Debug)]
pub enum AccessCommand {
    /// Say whether something is allowed, and which policies decide.
    Explain {
        /// Name of an operation of the API, e.g. `create_endpoint`.
        action: String,
        /// Of this account rather than one's own.
        #[arg(long, value_name = "ID")]
        account: Option<PrincipalId>,
    },
    /// What the ministry forbids itself.
    #[command(subcommand)]
    Restrictions(RestrictionsCommand),
}

/// `chancery access restrictions …`
#[derive(Subcommand, Debug)]
pub enum RestrictionsCommand {
    /// List them.
    List,
    /// Add one.
    Create {
        /// Short name.
        name: Slug,
        /// What it is for [default: the short name].
        #[arg(long)]
        description: Option<String>,
        /// File with one Cedar policy that forbids.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Take one away.
    Delete {
        /// Its short name.
        name: Slug,
    },
}

#[derive(Deserialize)]
struct Explanation {
    allowed: bool,
    decisions: Vec<Decision>,
}

#[derive(Deserialize)]
struct Decision {
    on: String,
    role: String,
    allowed: bool,
    policies: Vec<Policy>,
}

#[derive(Deserialize)]
struct Policy {
    id: String,
}

const RESTRICTIONS: &str = "api/v1/access/restrictions";

pub(super) async fn run(command: AccessCommand, at: &Call) -> Result<()> {
    match command {
        AccessCommand::Explain { action, account } => {
            let path = account.map_or_else(
                || "api/v1/access/explain".to_owned(),
                |account| format!("api/v1/accounts/{account}/access"),
            );
            let answer = at.client.get(Scope::Platform, &path, &[("action", action)]).await?;
            if at.format == Format::Json {
                return output::json(&answer);
            }
            let explained: Explanation = output::parse(answer)?;
            let mut text = String::from(if explained.allowed { "allowed\n" } else { "not allowed\n" });
            for decision in explained.decisions {
                let policies: Vec<String> = decision.policies.into_iter().map(|policy| policy.id).collect();
                let by =
                    if policies.is_empty() { "no policy permits it".to_owned() } else { policies.join(", ") };
                let verdict = if decision.allowed { "allowed" } else { "refused" };
                text.push_str(&format!("  {} as {}: {verdict}: {by}\n", decision.on, decision.role));
            }
            output::print(&text)
        }
        AccessCommand::Restrictions(RestrictionsCommand::List) => {
            let items = at.client.list(Scope::Tenant, RESTRICTIONS).await?;
            output::list(at.format, items, &["name", "description", "policy"], |r: &Restriction| {
                vec![r.name.to_string(), r.description.clone(), r.policy.replace('\n', " ")]
            })
        }
        AccessCommand::Restrictions(RestrictionsCommand::Create { name, description, file }) => {
            let policy = std::fs::read_to_string(&file)
                .with_context(|| format!("the policy in {} cannot be read", file.display()))?;
            let description = description.unwrap_or_else(|| name.to_string());
            let body = json!({ "name": name, "description": description, "policy": policy });
            let made = at.client.post(Scope::Tenant, RESTRICTIONS, &body).await?;
            output::object(at.format, made, |r: &Restriction| {
                vec![("name", r.name.to_string()), ("policy", r.policy.clone())]
            })
        }
        AccessCommand::Restrictions(RestrictionsCommand::Delete { name }) => {
            at.client.delete(Scope::Tenant, &format!("{RESTRICTIONS}/{name}")).await?;
            note(format_args!("{name} holds no longer."));
            Ok(())
        }
    }
}
