//! `chancery models …`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use domain::models::{Model, ModelVersion};
use domain::tenants::Slug;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Call, short};
use crate::client::{Refused, Scope, segment, upload};
use crate::output;

/// What can be done with models.
#[derive(Subcommand, Debug)]
pub enum ModelsCommand {
    /// List the models that the ministry may use.
    List,
    /// Register a version, in the national catalogue or, with --tenant, for one ministry.
    Register {
        /// The model's name; it is created if it is new.
        name: Slug,
        /// A GGUF file on the server, below one of its api.model_import_dirs.
        #[arg(long, value_name = "FILE", required_unless_present = "upload", conflicts_with = "upload")]
        path: Option<PathBuf>,
        /// A GGUF file here, to be sent.
        #[arg(long, value_name = "FILE")]
        upload: Option<PathBuf>,
    },
    /// List the versions of a model.
    Versions {
        /// The model's name.
        name: Slug,
    },
}

pub(super) async fn run(command: ModelsCommand, at: &Call) -> Result<()> {
    match command {
        ModelsCommand::List => {
            let items = at.client.list(Scope::Tenant, "api/v1/models").await?;
            output::list(at.format, items, &["model", "from", "created"], |model: &Model| {
                let from = if model.tenant_id.is_none() { "catalogue" } else { "ministry" };
                vec![model.name.to_string(), from.to_owned(), output::moment(model.created_at)]
            })
        }
        ModelsCommand::Versions { name } => {
            let items = at.client.list(Scope::Tenant, &versions_path(&name)).await?;
            output::list(
                at.format,
                items,
                &["digest", "format", "size", "registered", "id"],
                |v: &ModelVersion| {
                    vec![
                        short(v.digest),
                        v.manifest.format.clone(),
                        output::bytes(v.manifest.bytes()),
                        output::moment(v.created_at),
                        v.id.to_string(),
                    ]
                },
            )
        }
        ModelsCommand::Register { name, path, upload } => {
            match at.client.post(Scope::Platform, "api/v1/models", &json!({"name": name})).await {
                Err(e) if !Refused::is(&e, StatusCode::CONFLICT) => return Err(e),
                _ => {}
            }
            let made = match (path, upload) {
                (Some(path), _) => {
                    at.client
                        .post_slow(Scope::Platform, &versions_path(&name), &json!({"path": path}))
                        .await?
                }
                (None, Some(file)) => send(at, &name, file).await?,
                (None, None) => anyhow::bail!("name a file with --path or --upload"),
            };
            output::object(at.format, made, |v: &ModelVersion| {
                vec![
                    ("model", v.model.to_string()),
                    ("digest", v.digest.to_string()),
                    ("size", output::bytes(v.manifest.bytes())),
                    ("id", v.id.to_string()),
                ]
            })
        }
    }
}

fn versions_path(model: &Slug) -> String {
    format!("api/v1/models/{model}/versions")
}

/// Streams a file; the server compares the digest with what arrived.
async fn send(at: &Call, model: &Slug, path: PathBuf) -> Result<Value> {
    let name =
        path.file_name().and_then(|name| name.to_str()).context("the file has no name in UTF-8")?.to_owned();
    let of = path.clone();
    let sha256 = tokio::task::spawn_blocking(move || upload::sha256(&of)).await.context("cannot hash")??;
    let (_, bytes) = upload::open(&path)?;
    let bar = upload::bytes_bar(bytes, "Sending");
    let to = format!("{}/upload?filename={}&sha256={sha256}", versions_path(model), segment(&name));
    // Opened for each try: one may end with a session that is not valid any more.
    upload::open(&path)?;
    let response = at
        .client
        .call(Scope::Platform, Method::POST, &to, |request| {
            bar.reset();
            match upload::open(&path) {
                Ok((file, bytes)) => {
                    request.header("content-length", bytes).body(upload::body(file, bar.clone()))
                }
                // Its size is wrong, so the server refuses it.
                Err(_) => request,
            }
        })
        .await?;
    bar.finish_and_clear();
    response.json().await.context("the answer broke off")
}
