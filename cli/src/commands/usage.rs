//! `chancery usage`

use anyhow::Result;
use domain::tenants::Slug;
use domain::usage::{AcceleratorDay, TokenDay, UsageSummary};
use serde_json::Value;

use super::Call;
use crate::args::Format;
use crate::client::Scope;
use crate::output;

/// Which days.
#[derive(clap::Args, Debug)]
pub struct UsageOptions {
    /// First day, e.g. 2026-01-01 (UTC).
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// Last day.
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// Day by day: hours of accelerators by class, and tokens by project; of all
    /// ministries for an administrator of the platform.
    #[arg(long)]
    history: bool,
    /// Only of this project.
    #[arg(long)]
    project: Option<Slug>,
}

pub(super) async fn run(options: UsageOptions, at: &Call) -> Result<()> {
    let project = options.project.map(|slug| slug.to_string());
    let query: Vec<_> = [("from", options.from), ("to", options.to), ("project", project)]
        .into_iter()
        .filter_map(|(k, v)| Some((k, v?)))
        .collect();
    if options.history {
        return history(at, &query).await;
    }
    let items = at.client.items(Scope::Tenant, "api/v1/usage", &query).await?;
    let header =
        ["day", "project", "model", "requests", "prompt tokens", "completion tokens", "accelerator s"];
    output::list(at.format, items, &header, |row: &UsageSummary| {
        vec![
            row.day.clone(),
            row.project_id.to_string(),
            row.model.clone(),
            row.requests.to_string(),
            row.prompt_tokens.to_string(),
            row.completion_tokens.to_string(),
            format!("{}.{:03}", row.accelerator_ms / 1000, row.accelerator_ms % 1000),
        ]
    })
}

async fn history(at: &Call, query: &[(&str, String)]) -> Result<()> {
    let scope = if at.client.acts_for_a_tenant() { Scope::Tenant } else { Scope::Platform };
    let mut answer = at.client.get(scope, "api/v1/usage/history", query).await?;
    if at.format == Format::Json {
        return output::json(&answer);
    }
    let mut part = |name: &str| match answer[name].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let (accelerators, tokens) = (part("accelerators"), part("tokens"));
    output::list(
        at.format,
        accelerators,
        &["day", "ministry", "project", "class", "accelerator hours"],
        |row: &AcceleratorDay| {
            vec![
                row.day.clone(),
                row.tenant.to_string(),
                row.project.to_string(),
                row.class.clone(),
                hours(row.accelerator_seconds),
            ]
        },
    )?;
    output::print("\n")?;
    output::list(
        at.format,
        tokens,
        &["day", "ministry", "project", "requests", "prompt tokens", "completion tokens"],
        |row: &TokenDay| {
            vec![
                row.day.clone(),
                row.tenant.to_string(),
                row.project.to_string(),
                row.requests.to_string(),
                row.prompt_tokens.to_string(),
                row.completion_tokens.to_string(),
            ]
        },
    )
}

/// Hours with three decimals.
fn hours(seconds: u64) -> String {
    format!("{}.{:03}", seconds / 3600, seconds % 3600 * 1000 / 3600)
}
