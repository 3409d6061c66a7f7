//! What an operator sets, and what `run` is given beside.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use domain::Clock;
use domain::tenants::Slug;
use serde::{Deserialize, Serialize};

/// Settings of a worker.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Unique name of the worker. Default: the host's name.
    pub name: Option<Slug>,
    /// Pool that it joins.
    pub pool: Slug,
    /// Zone that it stands in.
    pub zone: Slug,
    /// Address of the inference listener; port 0 chooses a free one.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Base URL under which gateways reach the inference listener. Default:
    /// `http://` and the address it listens on.
    pub advertise_url: Option<String>,
    /// Base URL of the API's internal listener.
    pub api_url: String,
    /// Folder for the model cache and the engines' sockets; one worker each.
    #[schema(value_type = String)]
    pub data_dir: PathBuf,
    /// Memory for engines, in bytes. Default: 80 % of the machine's, or of the
    /// control group's limit if that is lower.
    pub memory_bytes: Option<u64>,
    /// Processor cores for engines. Default: all that this process may use.
    pub cores: Option<u32>,
    /// Size of the model cache, in bytes, above which files that no engine
    /// uses are removed, the longest unused first.
    pub cache_bytes: u64,
    /// Lines of a job that each placement runs at the same time.
    pub job_lines_at_once: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let name = |text: &str| text.parse::<Slug>().expect("a constant short name");
        Self {
            name: None,
            pool: name("default"),
            zone: name("default"),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise_url: None,
            api_url: "http://127.0.0.1:8081".to_owned(),
            data_dir: PathBuf::from(".chancery/worker"),
            memory_bytes: None,
            cores: None,
            cache_bytes: 100 << 30,
            job_lines_at_once: 4,
        }
    }
}

/// What the process around a worker gives it.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Where it reads the time.
    pub clock: Clock,
    /// Right to join.
    pub join_token: JoinToken,
    /// The program whose `engine` subcommand holds a model.
    pub program: PathBuf,
}

/// A join token, which no log shows.
#[derive(Clone)]
pub struct JoinToken(pub String);

impl From<String> for JoinToken {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_a_round_trip_and_refuse_unknown_keys() {
        let text = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap().api_url, "http://127.0.0.1:8081");
        assert!(serde_json::from_str::<Settings>(r#"{"nmae": "a"}"#).is_err());
    }
}
