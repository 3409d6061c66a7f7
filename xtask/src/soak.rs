//! `cargo xtask soak NAME`: the full form of a test that the suite runs short.

use std::time::Instant;

use anyhow::Result;

use crate::project::Project;
use crate::{process, up};

/// Operations of the full form.
const OPERATIONS: u64 = 1_000_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// What to run
    #[arg(value_enum)]
    name: Name,
    /// How many operations
    #[arg(long, default_value_t = OPERATIONS)]
    operations: u64,
    /// The seed of a run to repeat [default: a new one, printed]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Two tenants on two connections, with operations abandoned and connections ended
    Isolation,
}

impl Name {
    /// The test, whose length and seed the environment decides.
    fn test(self) -> &'static str {
        match self {
            Self::Isolation => "isolation::interleaved_operations_stay_with_their_tenant",
        }
    }
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let postgres = up::ensure_postgres(project)?;
    let mut command = project.cargo();
    command.args(["test", "--locked", "--package", "tests", "--test", "it", "--"]);
    command.args(["--exact", arguments.name.test(), "--nocapture"]);
    command.env(postgres::BIN_VARIABLE, postgres.dir());
    command.env("CHANCERY_SOAK_OPERATIONS", arguments.operations.to_string());
    if let Some(seed) = arguments.seed {
        command.env("CHANCERY_SOAK_SEED", seed.to_string());
    }
    let started = Instant::now();
    process::run(&mut command)?;
    println!("soaked for {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
