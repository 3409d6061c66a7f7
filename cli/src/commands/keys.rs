//! `chancery keys …`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use domain::keys::ApiKey;
use domain::principals::Role;
use domain::tenants::Slug;
use domain::{Clock, KeyId, Timestamp};
use serde_json::{Value, json};

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
        /// `developer`, `user` or `viewer`.
        #[arg(long, default_value = "developer")]
        role: Role,
        /// The service account it acts for.
        #[arg(long, value_name = "NAME")]
        service_account: Option<Slug>,
        /// An endpoint it may send prompts to; may be repeated [default: all of the project].
        #[arg(long = "endpoint", value_name = "NAME")]
        endpoints: Vec<Slug>,
        /// An operation, or group of them, it may use; may be repeated [default: all of its role].
        #[arg(long = "action", value_name = "NAME")]
        actions: Vec<String>,
        /// A network it may come from, e.g. 10.1.0.0/16; may be repeated [default: anywhere].
        #[arg(long = "network", value_name = "CIDR")]
        networks: Vec<String>,
        /// Write it into this file, readable by you alone, instead of printing it.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Show one.
    Show {
        /// Its identifier.
        id: KeyId,
    },
    /// Make a successor with the same bounds and print it; the old one ends after a while.
    Rotate {
        /// Its identifier.
        id: KeyId,
        /// How long the old one goes on to work, in seconds; 30 days at most.
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        overlap_secs: u64,
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
        KeysCommand::Create {
            name,
            project,
            expires_at,
            role,
            service_account,
            endpoints,
            actions,
            networks,
            to,
        } => {
            to.as_deref().map(files::ensure_writable).transpose()?;
            let mut key = json!({"name": name, "project": project, "role": role});
            for (field, given) in [
                ("endpoints", json!(endpoints)),
                ("actions", json!(actions)),
                ("networks", json!(networks)),
                ("service_account", json!(service_account)),
            ] {
                if !(given.is_null() || given == json!([])) {
                    key[field] = given;
                }
            }
            if let Some(at) = expires_at {
                key["expires_at"] = json!(at);
            }
            let made = at.client.post(Scope::Tenant, "api/v1/api-keys", &key).await?;
            show_secret(at, &made, to)
        }
        KeysCommand::Show { id } => {
            let key = at.client.get(Scope::Tenant, &format!("api/v1/api-keys/{id}"), &[]).await?;
            output::object(at.format, key, fields)
        }
        KeysCommand::Rotate { id, overlap_secs, to } => {
            to.as_deref().map(files::ensure_writable).transpose()?;
            let path = format!("api/v1/api-keys/{id}/rotate");
            let made = at.client.post(Scope::Tenant, &path, &json!({"overlap_secs": overlap_secs})).await?;
            show_secret(at, &made, to)
        }
        KeysCommand::Revoke { id } => {
            at.client.delete(Scope::Tenant, &format!("api/v1/api-keys/{id}")).await?;
            note(format_args!("Revoked {id}."));
            Ok(())
        }
    }
}

/// Prints a secret, or keeps it in a file.
fn show_secret(at: &Call, made: &Value, to: Option<PathBuf>) -> Result<()> {
    let secret = made["secret"].as_str().context("the API answered a key without a secret")?;
    match (to, at.format) {
        (Some(file), _) => {
            files::write_private(&file, &format!("{secret}\n"))
                .context("the key is made, but lost: revoke it, see `chancery keys list`")?;
            note(format_args!("The key is in {}; it is kept nowhere else.", file.display()));
            Ok(())
        }
        (None, Format::Json) => output::json(made),
        (None, Format::Table) => {
            output::print(secret)?;
            note("Keep it: it is not shown again.");
            Ok(())
        }
    }
}

fn fields(key: &ApiKey) -> Vec<(&'static str, String)> {
    fn list<T: ToString>(bound: Option<&[T]>) -> String {
        bound.map_or_else(
            || "any".to_owned(),
            |all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        )
    }
    vec![
        ("id", key.id.to_string()),
        ("name", key.name.clone()),
        ("project", key.project_id.to_string()),
        ("role", key.role.to_string()),
        ("endpoints", list(key.endpoints.as_deref())),
        ("actions", list(key.actions.as_deref())),
        ("networks", list(key.networks.as_deref())),
        ("last used", output::moment_or_dash(key.last_used_at)),
        ("state", state(key)),
    ]
}

fn state(key: &ApiKey) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", output::moment(at)),
        (None, Some(at)) if at <= Clock::system().now() => format!("ended {}", output::moment(at)),
        (None, Some(at)) => format!("until {}", output::moment(at)),
        (None, None) => "valid".to_owned(),
    }
}

fn row(key: &ApiKey) -> Vec<String> {
    vec![
        key.id.to_string(),
        key.name.clone(),
        format!("{}…", key.prefix),
        output::moment(key.created_at),
        output::moment_or_dash(key.last_used_at),
        state(key),
    ]
}
