//! Logs on standard error, metrics on a port of their own.

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogSettings};

/// Upper bounds of histograms of seconds: from a cached answer to a long one.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What is logged, or what is wrong with the setting.
pub fn filter(settings: &LogSettings) -> Result<EnvFilter> {
    EnvFilter::try_new(&settings.level)
        .with_context(|| format!("log.level {:?} is not a level or a list of part=level", settings.level))
}

/// Starts to log. A process does this once.
pub fn log(settings: &LogSettings) -> Result<()> {
    let registry = tracing_subscriber::registry().with(filter(settings)?);
    // A log that cannot be written (a full disk, a closed pipe) must not end
    // or slow down what it is about.
    match settings.format {
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .with_writer(std::io::stderr)
                    .log_internal_errors(false),
            )
            .try_init(),
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr)
                    .log_internal_errors(false),
            )
            .try_init(),
    }
    .context("the log is already set up")
}

/// Starts to answer Prometheus. Called inside the executor.
pub fn metrics(listen: SocketAddr) -> Result<()> {
    PrometheusBuilder::new()
        .with_http_listener(listen)
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install)
        .with_context(|| format!("cannot answer Prometheus on {listen}: choose another address in [metrics]"))
}
