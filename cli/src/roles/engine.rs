//! `chancery engine`: holds one model in memory and answers on a socket until
//! standard input closes. No executor: the engine has its own threads.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use engine::serve::ServeOptions;

use crate::args::EngineOptions;
use crate::config::Config;
use crate::telemetry;

/// Runs an engine.
pub fn run(options: EngineOptions) -> Result<()> {
    ensure_environment(options.threads)?;
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

/// What the environment must say before the process starts, so it starts again
/// if it does not: how many threads compute, and that the allocator commits
/// memory when it is used, because the memory limit counts what is committed.
fn ensure_environment(threads: Option<usize>) -> Result<()> {
    let mut wanted = vec![("MIMALLOC_ARENA_EAGER_COMMIT", "0".to_owned())];
    wanted.extend(threads.map(|threads| ("RAYON_NUM_THREADS", threads.to_string())));
    if wanted.iter().all(|(name, value)| std::env::var(name).is_ok_and(|set| set == *value)) {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).envs(wanted).exec();
    Err(error).context("cannot start again with the engine's environment")
}
