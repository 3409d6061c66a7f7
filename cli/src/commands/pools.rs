//! `chancery pools …`

use anyhow::Result;
use clap::Subcommand;
use domain::pools::Pool;
use domain::tenants::Slug;
use serde_json::json;

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with pools of workers that are dedicated to ministries.
#[derive(Subcommand, Debug)]
pub enum PoolsCommand {
    /// List every pool that is dedicated.
    List,
    /// Show one.
    Show {
        /// Its name.
        pool: Slug,
    },
    /// Place only work of these ministries on its workers, and theirs nowhere else.
    Dedicate {
        /// Its name, e.g. `defence`.
        pool: Slug,
        /// Ministries, with commas between them; without any, nothing is placed there.
        #[arg(long = "to", value_name = "TENANTS", value_delimiter = ',')]
        tenants: Vec<Slug>,
        /// For people.
        #[arg(long)]
        description: Option<String>,
    },
    /// Open it to everybody again.
    Open {
        /// Its name.
        pool: Slug,
    },
}

fn path(pool: &Slug) -> String {
    format!("api/v1/pools/{pool}")
}

pub(super) async fn run(command: PoolsCommand, at: &Call) -> Result<()> {
    let answer = match command {
        PoolsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/pools").await?;
            return output::list(at.format, items, &["pool", "tenants", "workers", "description"], row);
        }
        PoolsCommand::Show { pool } => at.client.get(Scope::Platform, &path(&pool), &[]).await?,
        PoolsCommand::Dedicate { pool, tenants, description } => {
            let body = json!({ "tenants": tenants, "description": description });
            at.client.put(Scope::Platform, &path(&pool), &body).await?
        }
        PoolsCommand::Open { pool } => {
            at.client.delete(Scope::Platform, &path(&pool)).await?;
            note(format_args!("Pool {pool} is open to everybody."));
            return Ok(());
        }
    };
    output::object(at.format, answer, |pool: &Pool| {
        vec![
            ("pool", pool.name.to_string()),
            ("tenants", tenants(pool)),
            ("workers", pool.workers.to_string()),
            ("description", pool.description.clone()),
            ("created", output::moment(pool.created_at)),
        ]
    })
}

fn row(pool: &Pool) -> Vec<String> {
    vec![pool.name.to_string(), tenants(pool), pool.workers.to_string(), pool.description.clone()]
}

fn tenants(pool: &Pool) -> String {
    if pool.tenants.is_empty() {
        return "nobody".to_owned();
    }
    pool.tenants.iter().map(Slug::to_string).collect::<Vec<_>>().join(", ")
}
