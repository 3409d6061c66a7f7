//! `chancery projects …`

use anyhow::Result;
use clap::Subcommand;
use domain::principals::Role;
use domain::projects::{Member, Project};
use domain::tenants::Slug;
use serde_json::{Map, Value, json};

use super::{Call, note};
use crate::client::{Scope, segment};
use crate::output;

/// What can be done with projects.
#[derive(Subcommand, Debug)]
pub enum ProjectsCommand {
    /// List the projects of the ministry.
    List,
    /// Show one.
    Show {
        /// Its short name.
        slug: Slug,
    },
    /// Create one.
    Create {
        /// Short name, e.g. `sandbox`.
        slug: Slug,
        /// Name for people [default: the short name].
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change what is named, and nothing else.
    Update {
        /// Its short name.
        slug: Slug,
        /// Name for people.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Delete one that has neither endpoints nor open jobs.
    Delete {
        /// Its short name.
        slug: Slug,
    },
    /// Who may do what in one.
    #[command(subcommand)]
    Members(MembersCommand),
}

/// What a project may have at once; `none` for no bound of its own.
#[derive(clap::Args, Debug)]
pub struct Limits {
    /// Most endpoints, or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    endpoints: Option<Limit>,
    /// Most API keys, or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    api_keys: Option<Limit>,
    /// Most jobs that have not ended, or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    open_jobs: Option<Limit>,
    /// Most requests a minute, or `none`.
    #[arg(long, value_name = "N", value_parser = limit)]
    requests_per_minute: Option<Limit>,
}

#[derive(Clone, Copy, Debug)]
struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse().map(|n| Limit(Some(n))).map_err(|_| "give a number, or none".to_owned())
}

impl Limits {
    fn named(&self) -> Map<String, Value> {
        [
            ("endpoints", self.endpoints),
            ("api_keys", self.api_keys),
            ("open_jobs", self.open_jobs),
            ("requests_per_minute", self.requests_per_minute),
        ]
        .into_iter()
        .filter_map(|(name, limit)| limit.map(|Limit(limit)| (name.to_owned(), json!(limit))))
        .collect()
    }
}

/// `chancery projects members …`
#[derive(Subcommand, Debug)]
pub enum MembersCommand {
    /// List the members of a project.
    List {
        /// The project.
        project: Slug,
    },
    /// Make an account a member, or give it another role.
    Add {
        /// The project.
        project: Slug,
        /// The account, by login or identifier.
        account: String,
        /// `developer`, `user` or `viewer`.
        #[arg(long, default_value = "developer")]
        role: Role,
    },
    /// Take an account out of a project.
    Remove {
        /// The project.
        project: Slug,
        /// The account, by login or identifier.
        account: String,
    },
}

pub(super) async fn run(command: ProjectsCommand, at: &Call) -> Result<()> {
    let path = |slug: &Slug| format!("api/v1/projects/{slug}");
    let answer = match command {
        ProjectsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/projects").await?;
            return output::list(at.format, items, &["project", "name", "created"], |project: &Project| {
                vec![project.slug.to_string(), project.name.clone(), output::moment(project.created_at)]
            });
        }
        ProjectsCommand::Show { slug } => at.client.get(Scope::Tenant, &path(&slug), &[]).await?,
        ProjectsCommand::Create { slug, name, limits } => {
            let name = name.unwrap_or_else(|| slug.to_string());
            let body = json!({"slug": slug, "name": name, "limits": limits.named()});
            at.client.post(Scope::Tenant, "api/v1/projects", &body).await?
        }
        ProjectsCommand::Update { slug, name, limits } => {
            let mut body = Map::from_iter([("limits".to_owned(), Value::Object(limits.named()))]);
            body.extend(name.map(|name| ("name".to_owned(), json!(name))));
            at.client.patch(Scope::Tenant, &path(&slug), &body).await?
        }
        ProjectsCommand::Delete { slug } => {
            at.client.delete(Scope::Tenant, &path(&slug)).await?;
            note(format_args!("Deleted {slug}."));
            return Ok(());
        }
        ProjectsCommand::Members(command) => return members(command, at).await,
    };
    output::object(at.format, answer, fields)
}

async fn members(command: MembersCommand, at: &Call) -> Result<()> {
    let path =
        |project: &Slug, account: &str| format!("api/v1/projects/{project}/members/{}", segment(account));
    match command {
        MembersCommand::List { project } => {
            let items = at.client.list(Scope::Tenant, &format!("api/v1/projects/{project}/members")).await?;
            output::list(at.format, items, &["login", "name", "role", "since"], |member: &Member| {
                vec![
                    member.login.clone(),
                    member.display_name.clone(),
                    member.role.as_str().to_owned(),
                    output::moment(member.created_at),
                ]
            })
        }
        MembersCommand::Add { project, account, role } => {
            let member =
                at.client.put(Scope::Tenant, &path(&project, &account), &json!({"role": role})).await?;
            output::object(at.format, member, |member: &Member| {
                vec![("login", member.login.clone()), ("role", member.role.as_str().to_owned())]
            })
        }
        MembersCommand::Remove { project, account } => {
            at.client.delete(Scope::Tenant, &path(&project, &account)).await?;
            note(format_args!("{account} is no member of {project} any more."));
            Ok(())
        }
    }
}

fn fields(project: &Project) -> Vec<(&'static str, String)> {
    let limit = |limit: Option<u32>| limit.map_or_else(|| "no bound".to_owned(), |n| n.to_string());
    vec![
        ("project", project.slug.to_string()),
        ("name", project.name.clone()),
        ("id", project.id.to_string()),
        ("endpoints", limit(project.limits.endpoints)),
        ("API keys", limit(project.limits.api_keys)),
        ("open jobs", limit(project.limits.open_jobs)),
        ("requests a minute", limit(project.limits.requests_per_minute)),
        ("created", output::moment(project.created_at)),
    ]
}
