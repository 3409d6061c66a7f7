//! `chancery audit …`

use anyhow::Result;
use clap::{Args, Subcommand};
use domain::audit::{AuditEvent, Verdict};
use serde_json::Value;

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// Events that are looked at for those that are wanted, newest first.
const MAX_LOOKED_AT: usize = 100_000;
/// Most events that are printed at once.
const MAX_PRINTED: u32 = 10_000;

/// What can be asked of the audit log.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// List events, newest first: of one's ministry, of the one that --tenant names, or of everyone.
    List(Filter),
}

/// Which events.
#[derive(Args, Debug)]
pub struct Filter {
    /// Most events to print.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PRINTED)))]
    limit: u32,
    /// Only this act: the name of an operation, e.g. create_endpoint.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only by this actor, e.g. principal:ID, key:ID or system.
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only on this object, e.g. endpoint:ID.
    #[arg(long, value_name = "OBJECT")]
    object: Option<String>,
    /// Only what was refused.
    #[arg(long)]
    denied: bool,
}

impl Filter {
    fn wants(&self, event: &Value) -> bool {
        let is = |field: &str, wanted: &Option<String>| wanted.as_ref().is_none_or(|w| event[field] == **w);
        is("action", &self.action)
            && is("actor", &self.actor)
            && is("object", &self.object)
            && (!self.denied || event["verdict"] == "denied")
    }
}

pub(super) async fn run(command: AuditCommand, at: &Call) -> Result<()> {
    let AuditCommand::List(filter) = command;
    let most = usize::try_from(filter.limit)?;
    let (items, looked_at) = at
        .client
        .list_some(Scope::Platform, "api/v1/audit", most, MAX_LOOKED_AT, |event| filter.wants(event))
        .await?;
    let all_seen = items.len() >= most || looked_at < MAX_LOOKED_AT;
    output::list(
        at.format,
        items,
        &["at", "actor", "action", "object", "verdict", "policy"],
        |e: &AuditEvent| {
            let verdict = match e.verdict {
                Verdict::Allowed => "allowed",
                Verdict::Denied => "denied",
            };
            vec![
                output::moment(e.at),
                e.actor.clone(),
                e.action.clone(),
                e.object.clone(),
                verdict.to_owned(),
                e.policy.clone().unwrap_or_default(),
            ]
        },
    )?;
    if !all_seen {
        note(format_args!("Looked at the newest {looked_at} events; there are older ones."));
    }
    Ok(())
}
