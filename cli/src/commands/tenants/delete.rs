//! `chancery tenants export` and `chancery tenants delete`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use domain::certificates;
use domain::deletions::{DeletionState, TenantDeletion};
use domain::models::Sha256Digest;
use domain::tenants::Slug;
use futures_util::TryStreamExt;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::{Call, note};
use super::{path, set_status};
use crate::client::{Refused, Scope};
use crate::{files, output};

/// Time between two looks at how far a deletion is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Writes the archive; returns its digest. What broke off is not kept.
pub(super) async fn export(at: &Call, slug: &Slug, file: &Path) -> Result<Sha256Digest> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}", file.display());
    let mut out = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    let from = format!("{}/export", path(slug));
    let response = at
        .client
        .stream(Scope::Platform, Method::GET, &from, None)
        .await
        .map_err(|e| only_while_suspended(e, slug))?;
    let mut parts = response.bytes_stream();
    let (mut digest, mut tail, mut bytes) = (Sha256::new(), [0xff; 1024], 0_u64);
    while let Some(part) = parts.try_next().await.context("the archive broke off")? {
        out.write_all(&part).with_context(cannot)?;
        digest.update(&part);
        bytes += part.len() as u64;
        let kept = part.len().min(tail.len());
        tail.rotate_left(kept);
        let from = tail.len() - kept;
        tail[from..].copy_from_slice(&part[part.len() - kept..]);
    }
    ensure!(bytes > 0 && tail.iter().all(|b| *b == 0), "the archive broke off; nothing was kept");
    out.as_file().sync_all().with_context(cannot)?;
    out.persist(file).with_context(cannot)?;
    Ok(Sha256Digest(digest.finalize().into()))
}

/// Says what helps the platform's administrators where they may not export.
fn only_while_suspended(error: anyhow::Error, slug: &Slug) -> anyhow::Error {
    if !Refused::is(&error, StatusCode::FORBIDDEN) {
        return error;
    }
    let sentence = format!(
        "{error}; the platform's administrators may while it is suspended: `chancery tenants suspend {slug}`"
    );
    error.context(sentence)
}

/// The digest of an archive as it lies on the disk.
fn digest_of(file: &Path) -> Result<Sha256Digest> {
    let mut content = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = std::io::Read::read(&mut content, &mut buffer)
            .with_context(|| format!("cannot read {}", file.display()))?;
        if read == 0 {
            return Ok(Sha256Digest(digest.finalize().into()));
        }
        digest.update(&buffer[..read]);
    }
}

pub(super) async fn run(
    at: &Call,
    slug: &Slug,
    archive: Option<&Path>,
    certificate: Option<PathBuf>,
    yes: bool,
) -> Result<()> {
    if !yes {
        confirm(slug)?;
    }
    // A deletion that is under way already is only watched.
    let tenant = at.client.get(Scope::Platform, &path(slug), &[]).await?;
    ensure!(
        tenant["delete_protection"] != true,
        "{slug} is protected from deletion: `chancery tenants update {slug} --delete-protection false` first"
    );
    let file = certificate.unwrap_or_else(|| format!("{slug}-deletion.json").into());
    for file in archive.into_iter().chain([file.as_path()]) {
        files::ensure_writable(file)?;
    }
    if tenant["status"] != "deleting" {
        set_status(at, slug, "suspended").await?;
    }
    let mut query = String::new();
    if let Some(archive) = archive {
        let digest = export(at, slug, archive).await?;
        ensure!(
            digest_of(archive)? == digest,
            "{} is not what was received; nothing is deleted",
            archive.display()
        );
        note(format_args!("Exported to {}, SHA-256 {digest}.", archive.display()));
        query = format!("?export_sha256={digest}");
    }
    let answer =
        at.client.call(Scope::Platform, Method::DELETE, &format!("{}{query}", path(slug)), |r| r).await?;
    let mut deletion: TenantDeletion = output::parse(answer.json::<Value>().await?)?;
    let mut told = String::new();
    while deletion.state != DeletionState::Finished {
        let progress = match &deletion.waits_for {
            Some(waits_for) => format!("Waiting for {waits_for}"),
            None => format!(
                "Erased {} rows and {} objects",
                deletion.rows.values().sum::<u64>(),
                deletion.objects
            ),
        };
        if progress != told {
            note(&progress);
            told = progress;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        let path = format!("api/v1/tenant-deletions/{}", deletion.tenant_id);
        deletion = output::parse(at.client.get(Scope::Platform, &path, &[]).await?)?;
    }
    let Some(signed) = deletion.certificate else { bail!("the deletion ended without a certificate") };
    let installation = at.client.get(Scope::Platform, "api/v1/installation", &[]).await?;
    let public_key = installation["certificate_public_key"].as_str().unwrap_or_default();
    certificates::verify(&signed.text(), public_key)?;
    std::fs::write(&file, signed.text() + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    note(format_args!("Deleted {slug}. The certificate is in {}.", file.display()));
    Ok(())
}

fn confirm(slug: &Slug) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("deleting {slug} cannot be undone; say --yes if it is meant");
    }
    note(format_args!("Everything of {slug} will be erased for good. Type its short name to go on:"));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("no answer can be read")?;
    ensure!(line.trim() == slug.as_str(), "nothing was deleted");
    Ok(())
}
