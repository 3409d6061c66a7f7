//! `cargo xtask`: builds, runs, checks, tests and measures Chancery. People and
//! CI run the same commands; each installs what it needs and says what it does.

mod bench;
mod cache;
mod check;
mod deny;
mod generate;
mod keycloak;
mod kube;
mod kueue;
mod migrations;
mod model;
mod portal;
mod process;
mod progress;
mod project;
mod python;
mod soak;
mod sqlx;
mod steps;
mod test;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::project::Project;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, runs, checks, tests and measures Chancery"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build optimised and run everything on this machine
    Up(up::Arguments),
    /// Run the checks and every test, or one suite
    Test(test::Arguments),
    /// Check format, generated files, lints, docs, dependencies and the portal
    Check,
    /// Write the files that are generated from the code
    Generate(generate::Arguments),
    /// Measure, print a table, write target/bench/NAME.json
    Bench(bench::Arguments),
    /// Run the full form of a test that the suite runs short
    Soak(soak::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Project::find().and_then(|project| match arguments.command {
        Command::Up(arguments) => up::run(&project, &arguments),
        Command::Test(arguments) => test::run(&project, &arguments),
        Command::Check => check::run(&project),
        Command::Generate(arguments) => generate::run(&project, &arguments),
        Command::Bench(arguments) => bench::run(&project, &arguments),
        Command::Soak(arguments) => soak::run(&project, &arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
