//! `chancery endpoints …`

use anyhow::Result;
use clap::Subcommand;
use domain::endpoints::{Endpoint, MAX_REPLICAS};
use domain::tenants::Slug;
use serde_json::json;

use super::{Call, note, short};
use crate::client::Scope;
use crate::output;

/// What can be done with endpoints.
#[derive(Subcommand, Debug)]
pub enum EndpointsCommand {
    /// List the endpoints of the ministry.
    List,
    /// Show one, and why it is not ready.
    Get {
        /// Its name.
        name: Slug,
    },
    /// Let a model answer under a name.
    Create {
        /// The name that prompts use as `model`.
        name: Slug,
        /// The model.
        #[arg(long)]
        model: Slug,
        /// Its version, by digest [default: the newest].
        #[arg(long = "model-version", value_name = "DIGEST")]
        version: Option<String>,
        /// The project that owns it [default: the key's].
        #[arg(long, value_name = "SLUG")]
        project: Option<Slug>,
        /// How many copies run.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_REPLICAS)))]
        replicas: u32,
        /// Higher goes first, -1000 to 1000 [default: 100].
        #[arg(long, allow_negative_numbers = true)]
        priority: Option<i32>,
    },
    /// Change how many copies run.
    Scale {
        /// Its name.
        name: Slug,
        /// How many.
        #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_REPLICAS)))]
        replicas: u32,
    },
    /// Delete one; what runs is finished.
    Delete {
        /// Its name.
        name: Slug,
    },
}

pub(super) async fn run(command: EndpointsCommand, at: &Call) -> Result<()> {
    let path = |name: &Slug| format!("api/v1/endpoints/{name}");
    let answer = match command {
        EndpointsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/endpoints").await?;
            return output::list(at.format, items, &["endpoint", "model", "version", "ready", "note"], row);
        }
        EndpointsCommand::Get { name } => at.client.get(Scope::Tenant, &path(&name), &[]).await?,
        EndpointsCommand::Create { name, model, version, project, replicas, priority } => {
            let mut endpoint = json!({"name": name, "model": model, "replicas": replicas});
            if let Some(version) = version {
                endpoint["version"] = json!(version);
            }
            if let Some(project) = project {
                endpoint["project"] = json!(project);
            }
            if let Some(priority) = priority {
                endpoint["priority"] = json!(priority);
            }
            at.client.post(Scope::Tenant, "api/v1/endpoints", &endpoint).await?
        }
        EndpointsCommand::Scale { name, replicas } => {
            at.client.patch(Scope::Tenant, &path(&name), &json!({"replicas": replicas})).await?
        }
        EndpointsCommand::Delete { name } => {
            at.client.delete(Scope::Tenant, &path(&name)).await?;
            note(format_args!("Deleted {name}."));
            return Ok(());
        }
    };
    output::object(at.format, answer, fields)
}

fn row(endpoint: &Endpoint) -> Vec<String> {
    vec![
        endpoint.name.to_string(),
        endpoint.model.to_string(),
        short(endpoint.version_digest),
        ready(endpoint),
        endpoint.reason.clone().unwrap_or_default(),
    ]
}

fn fields(endpoint: &Endpoint) -> Vec<(&'static str, String)> {
    let resources = &endpoint.resources;
    let mut fields = vec![
        ("endpoint", endpoint.name.to_string()),
        ("model", endpoint.model.to_string()),
        ("version", endpoint.version_digest.to_string()),
        ("ready", ready(endpoint)),
        (
            "each",
            format!(
                "{} milli {}, {}",
                resources.milli,
                resources.class,
                output::bytes(resources.memory_bytes)
            ),
        ),
        ("created", output::moment(endpoint.created_at)),
    ];
    fields.extend(endpoint.reason.clone().map(|reason| ("note", reason)));
    fields
}

fn ready(endpoint: &Endpoint) -> String {
    format!("{} of {}", endpoint.ready_replicas, endpoint.replicas)
}
