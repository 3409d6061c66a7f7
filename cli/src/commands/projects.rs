//! `chancery projects …`

use anyhow::Result;
use clap::Subcommand;
use domain::projects::Project;
use domain::tenants::Slug;
use serde_json::json;

use super::Call;
use crate::client::Scope;
use crate::output;

/// What can be done with projects.
#[derive(Subcommand, Debug)]
pub enum ProjectsCommand {
    /// List the projects of the ministry.
    List,
    /// Create one.
    Create {
        /// Short name, e.g. `sandbox`.
        slug: Slug,
        /// Name for people [default: the short name].
        #[arg(long)]
        name: Option<String>,
    },
}

pub(super) async fn run(command: ProjectsCommand, at: &Call) -> Result<()> {
    match command {
        ProjectsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/projects").await?;
            output::list(at.format, items, &["project", "name", "created"], |project: &Project| {
                vec![project.slug.to_string(), project.name.clone(), output::moment(project.created_at)]
            })
        }
        ProjectsCommand::Create { slug, name } => {
            let name = name.unwrap_or_else(|| slug.to_string());
            let made = at
                .client
                .post(Scope::Tenant, "api/v1/projects", &json!({"slug": slug, "name": name}))
                .await?;
            output::object(at.format, made, |project: &Project| {
                vec![
                    ("project", project.slug.to_string()),
                    ("name", project.name.clone()),
                    ("id", project.id.to_string()),
                ]
            })
        }
    }
}
