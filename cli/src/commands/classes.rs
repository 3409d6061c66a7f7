//! `chancery classes …`

use anyhow::Result;
use clap::Subcommand;
use domain::accelerators::AcceleratorClass;
use domain::tenants::Slug;
use serde_json::json;

use super::{Call, note};
use crate::client::Scope;
use crate::output;

/// What can be done with accelerator classes.
#[derive(Subcommand, Debug)]
pub enum ClassesCommand {
    /// List every class.
    List,
    /// Make a class, or describe one (administrator).
    Set {
        /// Its name, e.g. `nvidia-h100-80g`.
        class: Slug,
        /// For people.
        #[arg(long)]
        description: String,
    },
    /// Delete a class that nothing names (administrator).
    Delete {
        /// Its name.
        class: Slug,
    },
}

fn path(class: &Slug) -> String {
    format!("api/v1/accelerator-classes/{class}")
}

pub(super) async fn run(command: ClassesCommand, at: &Call) -> Result<()> {
    match command {
        ClassesCommand::List => {
            let items = at.client.list(Scope::Platform, "api/v1/accelerator-classes").await?;
            output::list(at.format, items, &["class", "description"], |class: &AcceleratorClass| {
                vec![class.name.clone(), class.description.clone()]
            })
        }
        ClassesCommand::Set { class, description } => {
            let body = json!({ "description": description });
            let answer = at.client.put(Scope::Platform, &path(&class), &body).await?;
            output::object(at.format, answer, |class: &AcceleratorClass| {
                vec![("class", class.name.clone()), ("description", class.description.clone())]
            })
        }
        ClassesCommand::Delete { class } => {
            at.client.delete(Scope::Platform, &path(&class)).await?;
            note(format_args!("Class {class} is gone."));
            Ok(())
        }
    }
}
