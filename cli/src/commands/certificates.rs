//! `chancery certificates …`: works offline.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::args::Format;
use crate::output;

/// What can be done with certificates of deletion.
#[derive(Subcommand, Debug)]
pub enum CertificatesCommand {
    /// Check one against the installation's public key.
    Verify {
        /// The certificate.
        file: PathBuf,
        /// The public key, as `GET /api/v1/installation` shows it.
        #[arg(long, value_name = "HEX")]
        public_key: String,
    },
}

pub(super) fn run(command: CertificatesCommand, format: Format) -> Result<()> {
    let CertificatesCommand::Verify { file, public_key } = command;
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificate = domain::certificates::verify(&text, &public_key)?;
    let item = serde_json::to_value(&certificate).context("cannot be written as JSON")?;
    output::object(format, item, |c: &domain::certificates::Certificate| {
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
