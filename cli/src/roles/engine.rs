//! `chancery engine`: holds one model in memory and answers on a socket until
//! standard input closes. No executor: the engine has its own threads.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use engine::serve::ServeOptions;

use crate::args::EngineOptions;
use crate::config::Config;
use crate::telemetry;

/// Read by candle and by the products beneath it.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";

/// Runs an engine.
pub fn run(options: EngineOptions) -> Result<()> {
    if let Some(threads) = options.threads {
        ensure_threads(threads)?;
    }
    telemetry::log(&Config::load(None)?.log)?;
    let mut engine = engine::EngineOptions::default();
    engine.kv_bytes = options.kv_bytes.unwrap_or(engine.kv_bytes);
    engine.max_active = options.max_active.unwrap_or(engine.max_active);
    let options = ServeOptions {
        model: options.model,
        socket: options.socket,
        memory_bytes: options.memory_bytes,
        follow_parent: true,
        drain_timeout: engine::serve::DRAIN_TIMEOUT,
        engine,
    };
    Ok(engine::serve::run(&options)?)
}

/// The variable must be there before the process starts, so it starts again
/// if it is not.
fn ensure_threads(threads: usize) -> Result<()> {
    let wanted = threads.to_string();
    if std::env::var(THREADS_VARIABLE).is_ok_and(|set| set == wanted) {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(THREADS_VARIABLE, wanted).exec();
    Err(error).context("cannot start again with --threads")
}
