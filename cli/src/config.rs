//! Configuration: embedded defaults, then a TOML file, then variables
//! `CHANCERY_SECTION__KEY`. A key that means nothing is refused. Secrets come
//! from files that settings named `*_file` point to, never from here.

pub mod reference;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use domain::keys::Pepper;
use figment::Figment;
use figment::providers::{Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::files;

/// What every variable starts with.
const PREFIX: &str = "CHANCERY_";
/// What separates section and key in a variable. Variables without it are
/// options of the command line, or belong to others (Kubernetes sets
/// `CHANCERY_API_PORT` beside a service of that name).
const NESTING: &str = "__";

/// Every setting.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The database, for the API, the scheduler and `migrate`.
    pub database: DatabaseSettings,
    /// Content of files and models, for the API and the scheduler.
    pub objects: ObjectsSettings,
    /// Secrets of the installation.
    pub secrets: SecretsSettings,
    /// The API.
    pub api: api::Settings,
    /// The scheduler.
    pub scheduler: scheduler::Settings,
    /// The worker.
    pub worker: worker::Settings,
    /// Commands that talk to the API. Paths are relative to this file.
    pub client: ClientSettings,
    /// What processes write on standard error.
    pub log: LogSettings,
    /// Where processes answer Prometheus, at `/metrics`.
    pub metrics: MetricsSettings,
}

/// The database.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// File with the URL that processes connect to, as `chancery_app`:
    /// `postgres://chancery_app:PASSWORD@HOST:PORT/DATABASE`.
    #[schema(value_type = Option<String>)]
    pub url_file: Option<PathBuf>,
    /// File with the URL that `migrate` connects to, as `chancery_owner`.
    #[schema(value_type = Option<String>)]
    pub owner_url_file: Option<PathBuf>,
    /// Most connections of one process.
    pub connections: u32,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self { url_file: None, owner_url_file: None, connections: 16 }
    }
}

/// Where content is kept.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectsSettings {
    /// Folder of the object store, shared by every API and scheduler.
    #[schema(value_type = String)]
    pub dir: PathBuf,
}

impl Default for ObjectsSettings {
    fn default() -> Self {
        Self { dir: "/var/lib/chancery/objects".into() }
    }
}

/// Secrets of the installation, each in a file of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretsSettings {
    /// File with the key of all hashes of credentials: 64 hexadecimal digits.
    /// Every API needs the same; whoever changes it makes every key and
    /// session worthless.
    #[schema(value_type = Option<String>)]
    pub pepper_file: Option<PathBuf>,
    /// File with the token that workers join with; the API and workers need
    /// the same. `chj_…`.
    #[schema(value_type = Option<String>)]
    pub join_token_file: Option<PathBuf>,
}

/// Commands that talk to the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSettings {
    /// Base URL of the API.
    pub server: Option<String>,
    /// File with the API key of a project.
    #[schema(value_type = Option<String>)]
    pub key_file: Option<PathBuf>,
    /// Whom to sign in as.
    pub login: Option<String>,
    /// File with the password of `login`.
    #[schema(value_type = Option<String>)]
    pub password_file: Option<PathBuf>,
    /// The ministry to act for when signed in as an administrator.
    pub tenant: Option<String>,
}

/// What processes write on standard error.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug` or `trace`; or one for each part, e.g.
    /// `info,scheduler=debug`.
    pub level: String,
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where processes answer Prometheus.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Address of the API's metrics.
    #[schema(value_type = String)]
    pub api_listen: SocketAddr,
    /// Address of the scheduler's metrics.
    #[schema(value_type = String)]
    pub scheduler_listen: SocketAddr,
    /// Address of the worker's metrics.
    #[schema(value_type = String)]
    pub worker_listen: SocketAddr,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { api_listen: on(9464), scheduler_listen: on(9465), worker_listen: on(9466) }
    }
}

impl Config {
    /// Defaults, this file, the variables of this process.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let variables = std::env::vars().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        Self::load_with(file, &variables)
    }

    /// The same with these variables.
    pub fn load_with(file: Option<&Path>, variables: &BTreeMap<String, String>) -> Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            // figment passes over a file that is not there.
            std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?;
            figment = figment.merge(Toml::file_exact(file));
        }
        for (name, value) in variables {
            let Some((section, key)) =
                name.strip_prefix(PREFIX).and_then(|rest| rest.to_lowercase().split_once(NESTING).map(own))
            else {
                continue;
            };
            // Read by figment's own rules: numbers, booleans, lists, else text.
            let value: figment::value::Value = value.parse().map_err(|_| anyhow!("{name} cannot be read"))?;
            let path = format!("{section}.{}", key.replace(NESTING, "."));
            figment = figment.merge(Serialized::default(&path, value));
        }
        let mut config: Self = figment.extract().map_err(|e| explain(&e, file))?;
        if let Some(dir) = file.and_then(Path::parent) {
            for path in [&mut config.client.key_file, &mut config.client.password_file].into_iter().flatten()
            {
                *path = dir.join(&*path);
            }
        }
        Ok(config)
    }

    /// As a file that [`Config::load`] reads.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("the settings cannot be written as TOML")
    }
}

impl DatabaseSettings {
    /// The URL for processes.
    pub fn url(&self) -> Result<String> {
        secret(self.url_file.as_deref(), "database.url_file", "the URL of the database")
    }

    /// The URL for migrations.
    pub fn owner_url(&self) -> Result<String> {
        secret(self.owner_url_file.as_deref(), "database.owner_url_file", "the URL of the database's owner")
    }
}

impl SecretsSettings {
    /// The key of all hashes of credentials.
    pub fn pepper(&self) -> Result<Pepper> {
        let text = secret(self.pepper_file.as_deref(), "secrets.pepper_file", "the pepper")?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| {
            anyhow!(
                "the file of secrets.pepper_file must hold 64 hexadecimal digits: restore it from a backup"
            )
        })?;
        Ok(Pepper::new(bytes))
    }

    /// The token that workers join with.
    pub fn join_token(&self) -> Result<String> {
        secret(self.join_token_file.as_deref(), "secrets.join_token_file", "the join token")
    }
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

fn secret(file: Option<&Path>, key: &str, what: &str) -> Result<String> {
    let file = file.with_context(|| {
        format!(
            "{key} is not set: name the file that holds {what}, in the configuration or as {}",
            variable(key)
        )
    })?;
    files::read_secret(file).map_err(|e| {
        let sentence = format!("{key}: {e}");
        e.context(sentence)
    })
}

/// The variable that sets `section.key`.
pub(crate) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', NESTING))
}

/// One sentence that names the key and what is wrong with it.
fn explain(error: &figment::Error, file: Option<&Path>) -> anyhow::Error {
    use figment::error::Kind;
    let first = error.clone().into_iter().next().unwrap_or_else(|| error.clone());
    let source = first.metadata.as_ref().and_then(|m| m.source.as_ref());
    let from_file = matches!(source, Some(figment::Source::File(_)));
    let mut path = first.path.clone();
    let problem = match &first.kind {
        Kind::UnknownField(field, expected) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            format!("there is no such setting; there are: {}", expected.join(", "))
        }
        Kind::Message(message) => message.clone(),
        other => other.to_string(),
    };
    let key = path.join(".");
    let place = match (from_file, file) {
        (true, Some(file)) if key.is_empty() => file.display().to_string(),
        (true, Some(file)) => format!("{key} in {}", file.display()),
        _ => format!("{key} (variable {})", variable(&key)),
    };
    anyhow!("{place}: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chancery.toml");
        std::fs::write(&path, text).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load_with(Some(&path), &variables)
    }

    #[test]
    fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
        let text = "[database]\nconnections = 5\n[log]\nlevel = \"warn\"\n";
        let config = load(text, &[("CHANCERY_DATABASE__CONNECTIONS", "7")]).unwrap();
        assert_eq!(config.database.connections, 7);
        assert_eq!(config.log.level, "warn");
        assert_eq!(config.metrics.api_listen.port(), 9464);
        let config = load("", &[("CHANCERY_API__LISTEN", "0.0.0.0:80")]).unwrap();
        assert_eq!(config.api.listen.port(), 80);
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let error = load("[database]\nconections = 5\n", &[]).unwrap_err().to_string();
        assert!(error.contains("database.conections in"), "{error}");
        assert!(error.contains("connections"), "{error}");
        let error = load("[databse]\n", &[]).unwrap_err().to_string();
        assert!(error.contains("databse in"), "{error}");
        let error = load("", &[("CHANCERY_API__LISTN", "1")]).unwrap_err().to_string();
        assert!(error.contains("CHANCERY_API__LISTN"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_and_its_key_named() {
        let error = load("[database]\nconnections = \"many\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains("database.connections in"), "{error}");
        let error = load("[database\n", &[]).unwrap_err().to_string();
        assert!(error.contains("chancery.toml"), "{error}");
    }

    #[test]
    fn variables_of_others_are_passed_over() {
        assert!(load("", &[("CHANCERY_API_PORT", "tcp://10.0.0.1:80"), ("CHANCERY_SERVER", "x")]).is_ok());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chancery.toml");
        let mut config = Config::default();
        config.database.connections = 3;
        config.client.key_file = Some("/keys/interior".into());
        std::fs::write(&path, config.to_toml().unwrap()).unwrap();
        let read = Config::load_with(Some(&path), &BTreeMap::new()).unwrap();
        assert_eq!(read.to_toml().unwrap(), config.to_toml().unwrap());
    }

    #[test]
    fn paths_of_the_client_are_relative_to_the_file() {
        let config = load("[client]\nkey_file = \"key\"\npassword_file = \"/abs\"\n", &[]).unwrap();
        let key = config.client.key_file.unwrap();
        assert!(key.is_absolute() && key.ends_with("key"));
        assert_eq!(config.client.password_file.unwrap(), Path::new("/abs"));
    }

    #[test]
    fn a_secret_that_is_not_set_is_named_with_its_variable() {
        let error = Config::default().database.url().unwrap_err().to_string();
        assert!(error.contains("CHANCERY_DATABASE__URL_FILE"), "{error}");
    }
}
