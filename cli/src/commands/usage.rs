//! `chancery usage`

use anyhow::Result;
use domain::usage::UsageSummary;

use super::Call;
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
}

pub(super) async fn run(options: UsageOptions, at: &Call) -> Result<()> {
    let query: Vec<_> =
        [("from", options.from), ("to", options.to)].into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
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
