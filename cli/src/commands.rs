//! The commands that talk to a running system. One file per resource, as in
//! every other crate.

mod access;
mod accounts;
mod audit;
mod budgets;
mod certificates;
mod chat;
mod classes;
mod endpoints;
mod files;
mod identity_providers;
mod jobs;
mod keys;
mod models;
mod one_time_code;
mod pools;
mod projects;
mod quotas;
mod replay;
mod resources;
mod service_accounts;
mod sessions;
mod tenants;
mod usage;
mod workers;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::args::{Format, Global};
use crate::client::{Client, Settings};
use crate::output;

/// Commands that speak REST.
#[derive(Subcommand, Debug)]
pub enum ClientCommand {
    /// Ministries (administrator).
    #[command(subcommand)]
    Tenants(tenants::TenantsCommand),
    /// Certificates of deleted ministries.
    #[command(subcommand)]
    Certificates(certificates::CertificatesCommand),
    /// Projects of a ministry.
    #[command(subcommand)]
    Projects(projects::ProjectsCommand),
    /// Quotas: who may use how many accelerators.
    #[command(subcommand)]
    Quotas(quotas::QuotasCommand),
    /// Budgets: who may spend how much in a day or a month.
    #[command(subcommand)]
    Budgets(budgets::BudgetsCommand),
    /// Accounts of people (administrator).
    #[command(subcommand)]
    Accounts(accounts::AccountsCommand),
    /// Identity providers that people sign in with.
    #[command(subcommand)]
    IdentityProviders(identity_providers::IdentityProvidersCommand),
    /// One's own sessions.
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// One's own one-time codes: a second proof at sign-in.
    #[command(subcommand)]
    OneTimeCode(one_time_code::OneTimeCodeCommand),
    /// Service accounts: a ministry's programs.
    #[command(subcommand)]
    ServiceAccounts(service_accounts::ServiceAccountsCommand),
    /// Who may do what, and why.
    #[command(subcommand)]
    Access(access::AccessCommand),
    /// The audit log: who did what, and what was refused.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// API keys of projects.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Models and their versions.
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Endpoints: models that answer.
    #[command(subcommand)]
    Endpoints(endpoints::EndpointsCommand),
    /// Workers and their devices (administrator).
    #[command(subcommand)]
    Workers(workers::WorkersCommand),
    /// Accelerator classes: kinds of devices.
    #[command(subcommand)]
    Classes(classes::ClassesCommand),
    /// Pools of workers that are dedicated to ministries (administrator).
    #[command(subcommand)]
    Pools(pools::PoolsCommand),
    /// Workloads: what is to run for endpoints and jobs.
    #[command(subcommand)]
    Workloads(workloads::WorkloadsCommand),
    /// Why something is as it is.
    #[command(subcommand)]
    Explain(workloads::ExplainCommand),
    /// Make a plan of the scheduler again from its record, to see that it agrees.
    Replay(replay::ReplayOptions),
    /// Ask a model, once or in a conversation.
    Chat(chat::ChatOptions),
    /// Jobs: many prompts from a file.
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Files: inputs and results of jobs.
    #[command(subcommand)]
    Files(files::FilesCommand),
    /// What was used, by day, project and model.
    Usage(usage::UsageOptions),
}

/// What every command is given.
struct Call {
    client: Client,
    format: Format,
}

/// Runs one command.
pub async fn run(command: ClientCommand, global: &Global) -> Result<ExitCode> {
    let command = match command {
        // Some need no server.
        ClientCommand::Certificates(command) => {
            certificates::run(command, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        ClientCommand::Replay(options) => {
            replay::run(options, global).await?;
            return Ok(ExitCode::SUCCESS);
        }
        command => command,
    };
    let at = Call { client: Client::new(Settings::find(global)?)?, format: global.output };
    match command {
        ClientCommand::Tenants(command) => tenants::run(command, &at).await?,
        ClientCommand::Certificates(command) => certificates::run(command, global).await?,
        ClientCommand::Replay(options) => replay::run(options, global).await?,
        ClientCommand::Projects(command) => projects::run(command, &at).await?,
        ClientCommand::Quotas(command) => quotas::run(command, &at).await?,
        ClientCommand::Budgets(command) => budgets::run(command, &at).await?,
        ClientCommand::Accounts(command) => accounts::run(command, &at).await?,
        ClientCommand::IdentityProviders(command) => identity_providers::run(command, &at).await?,
        ClientCommand::Sessions(command) => sessions::run(command, &at).await?,
        ClientCommand::OneTimeCode(command) => one_time_code::run(command, &at).await?,
        ClientCommand::ServiceAccounts(command) => service_accounts::run(command, &at).await?,
        ClientCommand::Access(command) => access::run(command, &at).await?,
        ClientCommand::Audit(command) => audit::run(command, &at).await?,
        ClientCommand::Keys(command) => keys::run(command, &at).await?,
        ClientCommand::Models(command) => models::run(command, &at).await?,
        ClientCommand::Endpoints(command) => endpoints::run(command, &at).await?,
        ClientCommand::Workers(command) => workers::run(command, &at).await?,
        ClientCommand::Classes(command) => classes::run(command, &at).await?,
        ClientCommand::Pools(command) => pools::run(command, &at).await?,
        ClientCommand::Workloads(command) => workloads::run(command, &at).await?,
        ClientCommand::Explain(command) => workloads::explain(command, &at).await?,
        ClientCommand::Chat(options) => chat::run(options, &at).await?,
        ClientCommand::Jobs(command) => return jobs::run(command, &at).await,
        ClientCommand::Files(command) => files::run(command, &at).await?,
        ClientCommand::Usage(options) => usage::run(options, &at).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `chancery openapi`
pub fn openapi() -> Result<()> {
    output::print(&api::openapi().to_pretty_json().context("the document cannot be written as JSON")?)
}

/// Says something beside what was asked for.
fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// The first characters of a digest, enough to recognise it.
fn short(digest: domain::models::Sha256Digest) -> String {
    digest.to_string().chars().take(12).collect()
}
