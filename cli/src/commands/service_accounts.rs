//! `chancery service-accounts …`

use anyhow::Result;
use clap::Subcommand;
use domain::principals::{Principal, Role};
use domain::tenants::Slug;
use serde_json::json;

use super::accounts::{fields, state};
use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with service accounts.
#[derive(Subcommand, Debug)]
pub enum ServiceAccountsCommand {
    /// List those of the ministry.
    List,
    /// Create one.
    Create {
        /// Short name, e.g. `passport-robot`.
        name: Slug,
        /// `developer`, `user` or `viewer` in the whole ministry; `member`: only what its projects give.
        #[arg(long, default_value = "member")]
        role: Role,
    },
    /// Show one.
    Show {
        /// Its short name.
        name: Slug,
    },
    /// Change its role.
    Update {
        /// Its short name.
        name: Slug,
        /// What it may do.
        #[arg(long)]
        role: Role,
    },
    /// Let none of its keys work, at once.
    Disable {
        /// Its short name.
        name: Slug,
    },
    /// Let its keys work again.
    Enable {
        /// Its short name.
        name: Slug,
    },
    /// Delete it and revoke its keys.
    Delete {
        /// Its short name.
        name: Slug,
    },
}

const PATH: &str = "api/v1/service-accounts";

pub(super) async fn run(command: ServiceAccountsCommand, at: &Call) -> Result<()> {
    let shown = match command {
        ServiceAccountsCommand::List => {
            let items = at.client.list(Scope::Tenant, PATH).await?;
            return output::list(at.format, items, &["name", "role", "state"], |account: &Principal| {
                vec![account.login.clone(), account.role.to_string(), state(account)]
            });
        }
        ServiceAccountsCommand::Delete { name } => {
            at.client.delete(Scope::Tenant, &format!("{PATH}/{name}")).await?;
            note(format_args!("Deleted {name}."));
            return Ok(());
        }
        ServiceAccountsCommand::Create { name, role } => {
            at.client.post(Scope::Tenant, PATH, &json!({ "name": name, "role": role })).await?
        }
        ServiceAccountsCommand::Show { name } => {
            at.client.get(Scope::Tenant, &format!("{PATH}/{name}"), &[]).await?
        }
        ServiceAccountsCommand::Update { name, role } => patch(at, &name, json!({ "role": role })).await?,
        ServiceAccountsCommand::Disable { name } => patch(at, &name, json!({ "disabled": true })).await?,
        ServiceAccountsCommand::Enable { name } => patch(at, &name, json!({ "disabled": false })).await?,
    };
    output::object(at.format, shown, fields)
}

async fn patch(at: &Call, name: &Slug, update: serde_json::Value) -> Result<serde_json::Value> {
    at.client.patch(Scope::Tenant, &format!("{PATH}/{name}"), &update).await
}
