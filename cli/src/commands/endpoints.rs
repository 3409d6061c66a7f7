//! `chancery endpoints …`

use anyhow::Result;
use clap::Subcommand;
use domain::autoscaling::Targets;
use domain::endpoints::{Endpoint, MAX_REPLICAS};
use domain::tenants::Slug;
use serde_json::{Value, json};

use super::resources::Resources;
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
        /// How many copies run [default: 1].
        #[arg(long, value_parser = copies())]
        replicas: Option<u32>,
        #[command(flatten)]
        scaling: Scaling,
        #[command(flatten)]
        resources: Resources,
        /// Higher goes first, -1000 to 1000 [default: 100].
        #[arg(long, allow_negative_numbers = true)]
        priority: Option<i32>,
    },
    /// Let a fixed number of copies run.
    Scale {
        /// Its name.
        name: Slug,
        /// How many.
        #[arg(value_parser = copies())]
        replicas: u32,
    },
    /// Let the autoscaler choose how many copies run, or change by what it does;
    /// what is left out stays.
    Set {
        /// Its name.
        name: Slug,
        #[command(flatten)]
        scaling: Scaling,
    },
    /// Delete one; what runs is finished.
    Delete {
        /// Its name.
        name: Slug,
    },
}

/// Between how many copies the autoscaler chooses, and by what.
#[derive(clap::Args, Debug)]
pub struct Scaling {
    /// The fewest copies; 0 lets the last go while nobody asks.
    #[arg(long, value_name = "N", value_parser = copies())]
    min: Option<u32>,
    /// The most copies.
    #[arg(long, value_name = "N", value_parser = copies())]
    max: Option<u32>,
    /// Requests that may wait for their first token, per copy [default: 2].
    #[arg(long, value_name = "N")]
    queued: Option<u32>,
    /// Tokens that may be in flight, per copy [default: 16384].
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// How long the first token may take, in milliseconds [default: 5000].
    #[arg(long, value_name = "MS")]
    first_token: Option<u32>,
    /// With --min 0: the last copy goes when nobody asked for so many seconds [default: 600].
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u32>,
}

impl Scaling {
    /// Adds what is given to a request's body.
    fn into_body(self, body: &mut Value) {
        let targets = [
            ("queued_per_replica", self.queued),
            ("tokens_per_replica", self.tokens),
            ("first_token_ms", self.first_token),
            ("idle_secs", self.idle),
        ];
        for (name, number) in [("min_replicas", self.min), ("max_replicas", self.max)] {
            if let Some(number) = number {
                body[name] = json!(number);
            }
        }
        for (name, number) in targets {
            if let Some(number) = number {
                body["scaling"][name] = json!(number);
            }
        }
    }
}

fn copies() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(MAX_REPLICAS))
}

pub(super) async fn run(command: EndpointsCommand, at: &Call) -> Result<()> {
    let path = |name: &Slug| format!("api/v1/endpoints/{name}");
    let answer = match command {
        EndpointsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/endpoints").await?;
            return output::list(at.format, items, &["endpoint", "model", "version", "ready", "note"], row);
        }
        EndpointsCommand::Get { name } => at.client.get(Scope::Tenant, &path(&name), &[]).await?,
        EndpointsCommand::Create {
            name,
            model,
            version,
            project,
            replicas,
            scaling,
            resources,
            priority,
        } => {
            let mut endpoint = json!({"name": name, "model": model});
            if let Some(replicas) = replicas {
                endpoint["replicas"] = json!(replicas);
            }
            scaling.into_body(&mut endpoint);
            resources.into_body(&mut endpoint);
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
        EndpointsCommand::Set { name, scaling } => {
            let mut change = json!({});
            scaling.into_body(&mut change);
            at.client.patch(Scope::Tenant, &path(&name), &change).await?
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
        endpoint.reason.clone().or_else(|| endpoint.scaling_reason.clone()).unwrap_or_default(),
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
                resources.classes().collect::<Vec<_>>().join(" or "),
                output::bytes(resources.memory_bytes)
            ),
        ),
        ("created", output::moment(endpoint.created_at)),
    ];
    if let Some(range) = endpoint.range() {
        let Targets { queued_per_replica, tokens_per_replica, first_token_ms, idle_secs } = endpoint.scaling;
        let mut follows = format!(
            "{queued_per_replica} waiting or {tokens_per_replica} tokens in flight per copy, first token in {first_token_ms} ms"
        );
        if range.min == 0 {
            follows = format!("{follows}; the last goes after {idle_secs} s without requests");
        }
        fields.push(("follows", follows));
        fields.extend(endpoint.scaling_reason.clone().map(|why| ("because", why)));
    }
    fields.extend(endpoint.reason.clone().map(|reason| ("note", reason)));
    fields
}

fn ready(endpoint: &Endpoint) -> String {
    let ready = format!("{} of {}", endpoint.ready_replicas, endpoint.replicas);
    match endpoint.range() {
        Some(range) => format!("{ready} ({} to {})", range.min, range.max),
        None => ready,
    }
}
