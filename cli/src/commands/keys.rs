//! `chancery keys …`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use domain::keys::ApiKey;
use domain::tenants::Slug;
use domain::{KeyId, Timestamp};
use serde_json::json;

use super::{Call, note};
use crate::args::Format;
use crate::client::Scope;
use crate::{files, output};

/// What can be done with API keys.
#[derive(Subcommand, Debug)]
pub enum KeysCommand {
    /// List the keys of the ministry.
    List,
    /// Create one and print it; it is never shown again.
    Create {
        /// Name for people, e.g. "passport office".
        name: String,
        /// The project it is for.
        #[arg(long, value_name = "SLUG")]
        project: Slug,
        /// When it stops working, e.g. 2027-01-01T00:00:00Z [default: when revoked].
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
        /// Write it into this file, readable by you alone, instead of printing it.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Make one worthless, at once.
    Revoke {
        /// Its identifier, as `keys list` shows it.
        id: KeyId,
    },
}

pub(super) async fn run(command: KeysCommand, at: &Call) -> Result<()> {
    match command {
        KeysCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/api-keys").await?;
            output::list(at.format, items, &["id", "name", "key", "created", "last used", "state"], row)
        }
        KeysCommand::Create { name, project, expires_at, to } => {
            let mut key = json!({"name": name, "project": project});
            if let Some(at) = expires_at {
                key["expires_at"] = json!(at);
            }
            let made = at.client.post(Scope::Tenant, "api/v1/api-keys", &key).await?;
            let secret = made["secret"].as_str().context("the API answered a key without a secret")?;
            match (to, at.format) {
                (Some(file), _) => {
                    files::write_private(&file, &format!("{secret}\n"))?;
                    note(format_args!("The key is in {}; it is kept nowhere else.", file.display()));
                    Ok(())
                }
                (None, Format::Json) => output::json(&made),
                (None, Format::Table) => {
                    output::print(secret)?;
                    note("Keep it: it is not shown again.");
                    Ok(())
                }
            }
        }
        KeysCommand::Revoke { id } => {
            at.client.delete(Scope::Tenant, &format!("api/v1/api-keys/{id}")).await?;
            note(format_args!("Revoked {id}."));
            Ok(())
        }
    }
}

fn row(key: &ApiKey) -> Vec<String> {
    let state = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", output::moment(at)),
        (None, Some(at)) => format!("until {}", output::moment(at)),
        (None, None) => "valid".to_owned(),
    };
    vec![
        key.id.to_string(),
        key.name.clone(),
        format!("{}…", key.prefix),
        output::moment(key.created_at),
        output::moment_or_dash(key.last_used_at),
        state,
    ]
}
