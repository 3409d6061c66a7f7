//! The sample ministry that the first run sets up through the REST API. Every
//! step looks first, so that a run that was cut off is completed by the next.

use anyhow::{Context, Result, bail};
use domain::accelerators::{CPU_CLASS, ResourceRequest, WHOLE_MILLI};
use domain::models::ModelVersion;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::console::Console;
use super::installation::Installation;
use crate::args::UpOptions;
use crate::client::{Client, Refused, Scope, upload};
use crate::files;
use crate::output;

/// The ministry.
pub const TENANT: &str = "interior";
const TENANT_NAME: &str = "Ministry of the Interior";
const PROJECT: &str = "sandbox";
const PROJECT_NAME: &str = "Sandbox";
/// Name of the model, and of the endpoint that serves it.
pub const MODEL: &str = "smollm2";
const KEY_NAME: &str = "sample";
/// File with the key, in the data folder.
pub const KEY_FILE: &str = "interior-key";

/// Where the endpoint is in the API.
pub fn endpoint_path() -> String {
    format!("api/v1/endpoints/{MODEL}")
}

/// Sets up what is missing; says whether there is an endpoint to wait for.
pub async fn ensure(
    client: &Client,
    installation: &Installation,
    options: &UpOptions,
    console: &Console,
) -> Result<bool> {
    if let Some(serves) = done_before(client, installation).await? {
        return Ok(serves);
    }
    if client.find(Scope::Platform, &format!("api/v1/tenants/{TENANT}")).await?.is_none() {
        let tenant = json!({"slug": TENANT, "name": TENANT_NAME});
        create(client, Scope::Platform, "api/v1/tenants", tenant).await?;
        console.say(format!("Created the {TENANT_NAME} ({TENANT})"));
    }
    let project = json!({"slug": PROJECT, "name": PROJECT_NAME});
    create(client, Scope::Tenant, "api/v1/projects", project).await?;
    let version = ensure_model(client, options, console).await?;
    let endpoint = json!({"name": MODEL, "model": MODEL, "project": PROJECT, "replicas": 1, "resources": resources(&version)});
    create(client, Scope::Tenant, "api/v1/endpoints", endpoint).await?;

    let key = json!({"name": KEY_NAME, "project": PROJECT});
    let answer =
        client.post(Scope::Tenant, "api/v1/api-keys", &key).await.context("the key cannot be made")?;
    let secret = answer["secret"].as_str().context("the API answered a key without a secret")?;
    // Last: while this file is missing, the next run completes this one.
    files::write_private(&installation.sample_key_file, &format!("{secret}\n"))?;
    console.say(format!("Made an API key for the project {PROJECT} of {TENANT}"));
    Ok(true)
}

/// If an earlier run did everything: whether its endpoint is there. Whoever
/// deleted that since did so on purpose.
async fn done_before(client: &Client, installation: &Installation) -> Result<Option<bool>> {
    if !installation.sample_key_file.exists() {
        return Ok(None);
    }
    match client.find(Scope::Tenant, &endpoint_path()).await {
        Ok(endpoint) => Ok(Some(endpoint.is_some())),
        Err(e) if Refused::is(&e, StatusCode::UNAUTHORIZED) => {
            // Revoked, or of another installation: worth nothing any more.
            std::fs::remove_file(&installation.sample_key_file).context("the old key cannot be removed")?;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Half of the cores, so that jobs and other endpoints find room beside it.
fn resources(version: &ModelVersion) -> ResourceRequest {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ResourceRequest {
        class: CPU_CLASS.to_owned(),
        alternatives: Vec::new(),
        memory_bytes: version.manifest.engine_memory_bytes(),
        milli: WHOLE_MILLI * u32::try_from(cores / 2).unwrap_or(1).max(1),
    }
}

async fn ensure_model(client: &Client, options: &UpOptions, console: &Console) -> Result<ModelVersion> {
    let path = format!("api/v1/models/{MODEL}/versions");
    if client.find(Scope::Platform, &format!("api/v1/models/{MODEL}")).await?.is_none() {
        create(client, Scope::Platform, "api/v1/models", json!({"name": MODEL})).await?;
    }
    if let Some(version) = client.list(Scope::Platform, &path).await?.into_iter().next() {
        return serde_json::from_value(version).context("the API answered a version that is none");
    }
    let Some(file) = &options.sample_model else {
        bail!("the sample model was never registered: name its GGUF file once more with --sample-model");
    };
    let file = std::fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (_, bytes) = upload::open(&file)?;
    console.say(format!("Registering the model {MODEL} ({})", output::bytes(bytes)));
    let version = client.post_slow(Scope::Platform, &path, &json!({"path": file})).await?;
    serde_json::from_value(version).context("the API answered a version that is none")
}

/// Creates, or finds that an earlier run did.
async fn create(client: &Client, scope: Scope, path: &str, what: Value) -> Result<()> {
    match client.post(scope, path, &what).await {
        Ok(_) => Ok(()),
        Err(e) if Refused::is(&e, StatusCode::CONFLICT) => Ok(()),
        Err(e) => Err(e),
    }
}
