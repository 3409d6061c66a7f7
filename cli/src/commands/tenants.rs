//! `chancery tenants …`

use anyhow::Result;
use clap::Subcommand;
use domain::tenants::{Slug, Tenant};
use serde_json::json;

use super::Call;
use crate::client::Scope;
use crate::output;

/// What can be done with ministries.
#[derive(Subcommand, Debug)]
pub enum TenantsCommand {
    /// List every ministry.
    List,
    /// Create one.
    Create {
        /// Short name, e.g. `interior`.
        slug: Slug,
        /// Name for people, e.g. "Ministry of the Interior" [default: the short name].
        #[arg(long)]
        name: Option<String>,
    },
}

pub(super) async fn run(command: TenantsCommand, at: &Call) -> Result<()> {
    match command {
        TenantsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/tenants").await?;
            output::list(at.format, items, &["tenant", "name", "created"], |tenant: &Tenant| {
                vec![tenant.slug.to_string(), tenant.name.clone(), output::moment(tenant.created_at)]
            })
        }
        TenantsCommand::Create { slug, name } => {
            let name = name.unwrap_or_else(|| slug.to_string());
            let made = at
                .client
                .post(Scope::Platform, "api/v1/tenants", &json!({"slug": slug, "name": name}))
                .await?;
            output::object(at.format, made, |tenant: &Tenant| {
                vec![
                    ("tenant", tenant.slug.to_string()),
                    ("name", tenant.name.clone()),
                    ("id", tenant.id.to_string()),
                ]
            })
        }
    }
}
