//! `chancery files …`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use domain::FileId;
use domain::files::File;
use domain::tenants::Slug;
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::{Call, note};
use crate::client::{Scope, upload};
use crate::output;

/// What can be done with files.
#[derive(Subcommand, Debug)]
pub enum FilesCommand {
    /// List the files of the ministry.
    List,
    /// Send a file of requests as it is; `jobs create` does this by itself.
    Upload {
        /// JSON Lines as the batch API takes them.
        file: PathBuf,
        /// The project that it belongs to [default: the key's, or the only one].
        #[arg(long, value_name = "SLUG")]
        project: Option<Slug>,
    },
    /// Write the content of a file to standard output, or to --to.
    Download {
        /// Its identifier.
        id: FileId,
        /// Where to write it.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Delete one.
    Delete {
        /// Its identifier.
        id: FileId,
    },
}

pub(super) async fn run(command: FilesCommand, at: &Call) -> Result<()> {
    match command {
        FilesCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/files").await?;
            output::list(at.format, items, &["id", "name", "purpose", "size", "stored"], |file: &File| {
                vec![
                    file.id.to_string(),
                    file.filename.clone(),
                    file.purpose.as_str().to_owned(),
                    output::bytes(file.bytes),
                    output::moment(file.created_at),
                ]
            })
        }
        FilesCommand::Upload { file, project } => {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("input.jsonl").to_owned();
            let stored = send(at, &file, &name, project.as_ref()).await?;
            output::object(at.format, stored, |file: &File| {
                vec![("id", file.id.to_string()), ("size", output::bytes(file.bytes))]
            })
        }
        FilesCommand::Download { id, to } => match to {
            Some(to) => {
                let bytes = download(at, id, &to).await?;
                note(format_args!("{} in {}", output::bytes(bytes), to.display()));
                Ok(())
            }
            None => print(at, id).await,
        },
        FilesCommand::Delete { id } => {
            at.client.delete(Scope::Tenant, &format!("api/v1/files/{id}")).await?;
            note(format_args!("Deleted {id}."));
            Ok(())
        }
    }
}

/// Uploads the input of a job, with a progress bar.
pub(super) async fn send(at: &Call, path: &Path, filename: &str, project: Option<&Slug>) -> Result<Value> {
    let to = project.map_or_else(|| "api/v1/files".to_owned(), |slug| format!("api/v1/files?project={slug}"));
    let (_, bytes) = upload::open(path)?;
    let bar = upload::bytes_bar(bytes, "Sending");
    let response = at
        .client
        .call(Scope::Tenant, Method::POST, &to, |request| {
            bar.reset();
            let Ok((file, bytes)) = upload::open(path) else { return request };
            let part = reqwest::multipart::Part::stream_with_length(upload::body(file, bar.clone()), bytes)
                .file_name(filename.to_owned());
            request.multipart(reqwest::multipart::Form::new().text("purpose", "batch").part("file", part))
        })
        .await?;
    bar.finish_and_clear();
    response.json().await.context("the answer broke off")
}

/// The content of a file into a new one, in one step; its size.
pub(super) async fn download(at: &Call, id: FileId, to: &Path) -> Result<u64> {
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside =
        tempfile::NamedTempFile::new_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
    let file = beside.reopen().with_context(|| format!("cannot write {}", to.display()))?;
    let bytes = copy(at, id, tokio::fs::File::from_std(file), &to.display().to_string()).await?;
    beside.persist(to).map_err(|e| e.error).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(bytes)
}

/// The content of a file to standard output.
pub(super) async fn print(at: &Call, id: FileId) -> Result<()> {
    match copy(at, id, tokio::io::stdout(), "standard output").await {
        Err(e) if output::reader_left(&e) => Ok(()),
        result => result.map(drop),
    }
}

async fn copy(at: &Call, id: FileId, mut out: impl tokio::io::AsyncWrite + Unpin, name: &str) -> Result<u64> {
    let path = format!("api/v1/files/{id}/content");
    let mut parts = at.client.stream(Scope::Tenant, Method::GET, &path, None).await?.bytes_stream();
    let mut bytes = 0;
    while let Some(part) = parts.try_next().await.context("the answer broke off")? {
        out.write_all(&part).await.with_context(|| format!("cannot write {name}"))?;
        bytes += part.len() as u64;
    }
    out.flush().await.with_context(|| format!("cannot write {name}"))?;
    Ok(bytes)
}
