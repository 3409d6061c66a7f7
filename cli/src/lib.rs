//! The program `chancery`: one binary with the roles of the system as
//! subcommands, `up` which runs them all on one machine, and the commands that
//! talk to a running system over REST.

pub mod args;
pub mod bootstrap;
pub mod client;
pub mod commands;
pub mod config;
pub mod errors;
pub mod files;
pub mod output;
pub mod roles;
pub mod simulate;
pub mod telemetry;
pub mod up;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use rand::TryRng;
use rand::rngs::SysRng;

use crate::args::{Args, Command, ConfigCommand};
use crate::config::Config;

/// Threads of a process that mostly waits.
const FEW_THREADS: usize = 2;
/// Threads for blocking calls: files, hashes. Each may keep a memory arena.
const BLOCKING_THREADS: usize = 16;

/// Runs the program; the only thing that `main` calls.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let verbose = args.global.verbose;
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", errors::describe(&error, verbose));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let Args { global, command } = args;
    let done = |()| ExitCode::SUCCESS;
    let client = match command {
        Command::Simulate(options) => return simulate::run(&options, global.output).map(done),
        Command::Openapi => return commands::openapi().map(done),
        Command::Config(ConfigCommand::Reference) => {
            return output::print(&config::reference::markdown()).map(done);
        }
        Command::Config(ConfigCommand::Show) => {
            let config = Config::load(global.config.as_deref())?;
            return output::print(&config.to_toml()?).map(done);
        }
        Command::Engine(options) => return roles::engine(options).map(done),
        Command::Up(options) => return runtime(FEW_THREADS)?.block_on(up::run(options, &global)),
        Command::Api => return roles::run(roles::Role::Api, &global).map(done),
        Command::Scheduler => return roles::run(roles::Role::Scheduler, &global).map(done),
        Command::Worker => return roles::run(roles::Role::Worker, &global).map(done),
        Command::BootstrapAdmin(options) => {
            return runtime(FEW_THREADS)?.block_on(bootstrap::run(options, &global)).map(done);
        }
        Command::Migrate => return roles::run(roles::Role::Migrate, &global).map(done),
        Command::Client(client) => client,
    };
    runtime(FEW_THREADS)?.block_on(commands::run(client, &global))
}

/// The executor of one process.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// Fresh random bytes from the operating system, for secrets.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).context("the operating system gives no random numbers")?;
    Ok(bytes)
}
