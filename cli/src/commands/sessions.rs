//! `chancery sessions …`

use anyhow::Result;
use clap::Subcommand;
use domain::sessions::Session;
use uuid::Uuid;

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with one's sessions.
#[derive(Subcommand, Debug)]
pub enum SessionsCommand {
    /// List the open ones.
    List,
    /// End one, or all others.
    Revoke {
        /// Its identifier, as `sessions list` shows it.
        #[arg(required_unless_present = "others")]
        id: Option<Uuid>,
        /// All but the one of this program.
        #[arg(long, conflicts_with = "id")]
        others: bool,
    },
}

pub(super) async fn run(command: SessionsCommand, at: &Call) -> Result<()> {
    match command {
        SessionsCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/sessions").await?;
            output::list(at.format, items, &["id", "opened", "last used", "from", "with"], |s: &Session| {
                let this = if s.current { " (this one)" } else { "" };
                vec![
                    s.id.to_string(),
                    output::moment(s.created_at),
                    output::moment(s.last_seen_at),
                    s.address.clone().unwrap_or_default(),
                    format!("{}{this}", s.user_agent.as_deref().unwrap_or_default()),
                ]
            })
        }
        SessionsCommand::Revoke { id, .. } => {
            let path = id.map_or_else(|| "api/v1/sessions".to_owned(), |id| format!("api/v1/sessions/{id}"));
            at.client.delete(Scope::Platform, &path).await?;
            note("Ended.");
            Ok(())
        }
    }
}
