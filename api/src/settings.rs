//! Settings of the API role. Names carry their unit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Settings of `chancery api`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where people and programs connect: address and port.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Where workers connect: address and port. Keep it off public networks.
    #[schema(value_type = String)]
    pub internal_listen: SocketAddr,
    /// Base URL under which people reach `listen`, named in the API document.
    /// Empty: the address they came by.
    pub public_url: String,
    /// Directories from which a platform administrator may register model
    /// files by path. Empty: none.
    #[schema(value_type = Vec<String>)]
    pub model_import_dirs: Vec<PathBuf>,
    /// Largest model file, in bytes.
    pub max_model_file_bytes: u64,
    /// Largest body of an ordinary request, in bytes.
    pub max_body_bytes: usize,
    /// Connections open at once on each listener; more wait to be accepted.
    pub max_connections: usize,
    /// Requests in flight at once on one HTTP/2 connection.
    pub max_http2_streams: u32,
    /// How long a client may take to send the head of a request, and an HTTP/1
    /// connection may be idle, in seconds.
    pub header_timeout_secs: u64,
    /// How long a client may pause while it sends a body, in seconds.
    pub body_idle_timeout_secs: u64,
    /// How long an ordinary body may take in all, in seconds.
    pub body_timeout_secs: u64,
    /// How long an HTTP/2 connection may be idle, in seconds.
    pub idle_timeout_secs: u64,
    /// How long a client may take nothing of an answer, in seconds.
    pub write_timeout_secs: u64,
    /// How long requests in flight may go on after a stop was asked for, in seconds.
    pub drain_timeout_secs: u64,
    /// How long a session lasts, in seconds.
    pub session_ttl_secs: u64,
    /// How long a session lasts without being used, in seconds.
    pub session_idle_secs: u64,
    /// Requests a minute of one account or key, by this process.
    pub requests_per_minute: u32,
    /// How long a prompt waits for a replica while its endpoint has none, e.g. is
    /// scaled to zero, in seconds. Proxies and clients must wait as long.
    pub hold_secs: u64,
    /// Prompts of one endpoint that wait so at once, in this process.
    pub held_per_endpoint: u32,
    /// Prompts of one tenant that wait so at once, in this process.
    pub held_per_tenant: u32,
    /// Networks of proxies whose `X-Forwarded-For` is believed, e.g. `10.0.0.0/8`.
    #[schema(value_type = Vec<String>)]
    pub trusted_proxies: Vec<IpNet>,
    /// Take identity providers over plain http where they are on this machine
    /// itself (loopback). For trying things out and for tests.
    pub identity_plain_http_on_loopback: bool,
    /// How long a checked credential is remembered, in seconds; at most 60. A
    /// revocation ends it earlier.
    pub credential_cache_ttl_secs: u64,
    /// Credentials remembered at once.
    pub credential_cache_entries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            public_url: String::new(),
            model_import_dirs: Vec::new(),
            max_model_file_bytes: 64 << 30,
            max_body_bytes: 1 << 20,
            max_connections: 4096,
            max_http2_streams: 128,
            header_timeout_secs: 10,
            body_idle_timeout_secs: 20,
            body_timeout_secs: 30,
            idle_timeout_secs: 60,
            write_timeout_secs: 30,
            drain_timeout_secs: 30,
            session_ttl_secs: 12 * 3600,
            session_idle_secs: 3600,
            requests_per_minute: 6000,
            hold_secs: 120,
            held_per_endpoint: 100,
            held_per_tenant: 200,
            trusted_proxies: Vec::new(),
            identity_plain_http_on_loopback: false,
            credential_cache_ttl_secs: 30,
            credential_cache_entries: 10_000,
        }
    }
}

impl Settings {
    pub(crate) fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_secs)
    }

    pub(crate) fn credential_cache_ttl(&self) -> Duration {
        Duration::from_secs(self.credential_cache_ttl_secs.min(60))
    }
}
