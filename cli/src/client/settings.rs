//! Where the commands find the API and their credentials.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::args::Global;
use crate::config::{ClientSettings, Config};

/// What `up` writes beside its data, with a section `[client]`.
pub const CLIENT_FILE: &str = "client.toml";
/// Where it is looked for.
const HERE: &str = ".chancery/client.toml";
/// Where the API is unless something says otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Settings of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Base URL of the API.
    pub server: String,
    /// File with an API key.
    pub key_file: Option<PathBuf>,
    /// Whom to sign in as.
    pub login: Option<String>,
    /// File with that password.
    pub password_file: Option<PathBuf>,
    /// Code of the device of `login`, where it is asked for.
    pub one_time_code: Option<String>,
    /// Ministry to act for when signed in.
    pub tenant: Option<String>,
    /// Whether the command itself names it, so that the key is not used.
    pub tenant_named: bool,
}

impl Settings {
    /// Options and variables, then `[client]` of the configuration, then of
    /// `.chancery/client.toml` in this folder.
    pub fn find(global: &Global) -> Result<Self> {
        Self::find_in(global, Path::new(HERE))
    }

    fn find_in(global: &Global, here: &Path) -> Result<Self> {
        let none = ClientSettings::default();
        let configured = Config::load(global.config.as_deref())?.client;
        let here = if here.is_file() { Config::load(Some(here))?.client } else { none };
        let pick = |flag: &Option<String>, a: Option<String>, b: Option<String>| flag.clone().or(a).or(b);
        let pick_file =
            |flag: &Option<PathBuf>, a: Option<PathBuf>, b: Option<PathBuf>| flag.clone().or(a).or(b);
        Ok(Self {
            server: with_slash(
                pick(&global.server, configured.server, here.server)
                    .unwrap_or_else(|| DEFAULT_SERVER.to_owned()),
            ),
            key_file: pick_file(&global.key_file, configured.key_file, here.key_file),
            login: pick(&global.login, configured.login, here.login),
            password_file: pick_file(&global.password_file, configured.password_file, here.password_file),
            one_time_code: global.one_time_code.clone(),
            tenant: pick(&global.tenant, configured.tenant, here.tenant),
            tenant_named: global.tenant.is_some(),
        })
    }

    /// Exactly these, for `up` itself, which acts as the administrator.
    pub fn of_config(client: &ClientSettings) -> Self {
        Self {
            server: with_slash(client.server.clone().unwrap_or_else(|| DEFAULT_SERVER.to_owned())),
            key_file: client.key_file.clone(),
            login: client.login.clone(),
            password_file: client.password_file.clone(),
            one_time_code: None,
            tenant: client.tenant.clone(),
            tenant_named: false,
        }
    }

    /// Whether a session can be had.
    pub fn can_sign_in(&self) -> bool {
        self.login.is_some() && self.password_file.is_some()
    }
}

/// A base URL keeps its last segment only if it ends with a slash.
fn with_slash(mut url: String) -> String {
    if !url.ends_with('/') {
        url.push('/');
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_configuration_and_that_over_this_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (here, named) = (dir.path().join("client.toml"), dir.path().join("named.toml"));
        std::fs::write(
            &here,
            "[client]\nserver = \"http://here\"\nlogin = \"here\"\npassword_file = \"pw\"\ntenant = \"interior\"\n",
        )
        .unwrap();
        std::fs::write(&named, "[client]\nserver = \"http://named/base\"\nlogin = \"named\"\n").unwrap();
        let global = Global { config: Some(named), login: Some("option".to_owned()), ..Global::default() };
        let found = Settings::find_in(&global, &here).unwrap();
        assert_eq!(found.server, "http://named/base/");
        assert_eq!(found.login.as_deref(), Some("option"));
        assert_eq!(found.password_file, Some(dir.path().join("pw")));
        assert_eq!((found.tenant.as_deref(), found.tenant_named), (Some("interior"), false));
        assert!(found.can_sign_in());
    }
}
