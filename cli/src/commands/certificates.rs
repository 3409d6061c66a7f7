//! `chancery certificates …`: what proves that a ministry was deleted. Checking
//! one works offline.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use domain::certificates::Certificate;
use domain::deletions::{DeletionState, TenantDeletion};
use serde_json::json;

use super::{Call, note};
use crate::args::{Format, Global};
use crate::client::{Client, Scope, Settings};
use crate::output;

const DELETIONS: &str = "api/v1/tenant-deletions";

/// What can be done with certificates of deletion.
#[derive(Subcommand, Debug)]
pub enum CertificatesCommand {
    /// List the deletions of ministries, and which have their certificate (administrator).
    List,
    /// Get the certificate of a finished deletion (administrator).
    Get {
        /// Short name or identifier that the ministry had.
        #[arg(value_name = "TENANT")]
        name: String,
        /// Write it into this file instead of printing it.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Print the installation's public key; keep it elsewhere, to check certificates with.
    PublicKey,
    /// Check one against the installation's public key, without a network.
    Verify {
        /// The certificate.
        file: PathBuf,
        /// The public key, as `certificates public-key` prints it.
        #[arg(long, value_name = "HEX")]
        public_key: String,
    },
}

pub(super) async fn run(command: CertificatesCommand, global: &Global) -> Result<()> {
    // Needs neither server nor settings.
    if let CertificatesCommand::Verify { file, public_key } = &command {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        return show(&domain::certificates::verify(&text, public_key)?, global.output);
    }
    let at = Call { client: Client::new(Settings::find(global)?)?, format: global.output };
    match command {
        CertificatesCommand::List => {
            let items = at.client.list(Scope::Platform, DELETIONS).await?;
            let header = ["tenant", "id", "asked for", "state", "finished"];
            output::list(at.format, items, &header, |d: &TenantDeletion| {
                let state = match d.state {
                    DeletionState::Stopping => "stopping",
                    DeletionState::Erasing => "erasing",
                    DeletionState::Finished => "finished",
                };
                vec![
                    d.slug.clone(),
                    d.tenant_id.to_string(),
                    output::moment(d.requested_at),
                    state.to_owned(),
                    output::moment_or_dash(d.finished_at),
                ]
            })
        }
        CertificatesCommand::Get { name, to } => {
            let deletion = find(&at, &name).await?;
            let Some(signed) = deletion.certificate else {
                let why =
                    deletion.waits_for.map_or_else(String::new, |what| format!(": it waits for {what}"));
                bail!("the deletion of {name} is not finished{why}");
            };
            let Some(file) = to else { return output::print(&signed.text()) };
            std::fs::write(&file, signed.text() + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
            note(format_args!("The certificate is in {}.", file.display()));
            Ok(())
        }
        CertificatesCommand::PublicKey => {
            let installation = at.client.get(Scope::Platform, "api/v1/installation", &[]).await?;
            let key = installation["certificate_public_key"].as_str();
            let key = key.context("the API answered no public key: is it of another version?")?;
            match at.format {
                Format::Json => output::json(&json!({ "certificate_public_key": key })),
                Format::Table => output::print(key),
            }
        }
        CertificatesCommand::Verify { .. } => Ok(()),
    }
}

/// The one deletion of that identifier or short name. A short name is free
/// again after a deletion, so that it may have had several.
async fn find(at: &Call, tenant: &str) -> Result<TenantDeletion> {
    if tenant.parse::<domain::TenantId>().is_ok() {
        return output::parse(at.client.get(Scope::Platform, &format!("{DELETIONS}/{tenant}"), &[]).await?);
    }
    let items = at.client.list(Scope::Platform, DELETIONS).await?;
    let mut found = items.into_iter().filter(|item| item["slug"] == tenant);
    let Some(one) = found.next() else {
        bail!("no ministry of the name {tenant} was deleted; see `chancery certificates list`");
    };
    if found.next().is_some() {
        bail!(
            "several ministries had the name {tenant}: give the identifier, see `chancery certificates list`"
        );
    }
    output::parse(one)
}

fn show(certificate: &Certificate, format: Format) -> Result<()> {
    let item = serde_json::to_value(certificate).context("cannot be written as JSON")?;
    output::object(format, item, |c: &Certificate| {
        vec![
            ("valid", "yes".to_owned()),
            ("tenant", format!("{} ({})", c.slug, c.tenant_id)),
            ("asked for", format!("{} by {}", output::moment(c.requested_at), c.requested_by)),
            ("finished", output::moment(c.finished_at)),
            ("rows", c.rows.values().sum::<u64>().to_string()),
            ("objects", format!("{}, {}", c.objects, output::bytes(c.object_bytes))),
            ("kept", c.kept.iter().map(|kept| kept.what.as_str()).collect::<Vec<_>>().join(", ")),
        ]
    })
}
