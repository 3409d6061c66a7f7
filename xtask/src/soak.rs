//! `cargo xtask soak NAME`: the full form of a test that the suite runs short.

use std::time::Instant;

use anyhow::Result;

use crate::project::Project;
use crate::{process, up};

#[derive(clap::Args)]
pub struct Arguments {
    /// What to run
    #[arg(value_enum)]
    name: Name,
    /// How many operations, things to make, or schedules [default: 1,000,000, 10,000 and 1,000,000]
    #[arg(long, visible_alias = "schedules")]
    operations: Option<u64>,
    /// The seed of a run of `isolation` to repeat [default: a new one, printed], or of the one schedule of
    /// `scheduler` to show
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Two tenants on two connections, with operations abandoned and connections ended
    Isolation,
    /// Each thing asked for twenty times at once, while the API is killed and connections end
    Idempotency,
    /// Schedules of the control loop in virtual time: who leads pauses, workers fall silent, messages are lost
    Scheduler,
}

impl Name {
    /// Its package, and the test, whose length and seed the environment decides.
    fn test(self) -> (&'static str, &'static str) {
        match self {
            Self::Isolation => ("tests", "isolation::interleaved_operations_stay_with_their_tenant"),
            Self::Idempotency => {
                ("tests", "idempotency::what_is_sent_twenty_times_is_made_once_whatever_breaks")
            }
            Self::Scheduler => ("domain", "control_loop::soak::the_control_loop_holds_whatever_breaks"),
        }
    }

    /// The variable that sets its length, and the full form's.
    fn length(self) -> (&'static str, u64) {
        match self {
            Self::Isolation | Self::Scheduler => ("CHANCERY_SOAK_OPERATIONS", 1_000_000),
            Self::Idempotency => ("CHANCERY_TEST_IDEMPOTENT_THINGS", 10_000),
        }
    }
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let mut command = project.cargo();
    let (package, test) = arguments.name.test();
    command.args(["test", "--locked", "--package", package, "--test", "it"]);
    if let Name::Scheduler = arguments.name {
        command.arg("--release");
    } else {
        let postgres = up::ensure_postgres(project)?;
        process::run(project.cargo().args(["build", "--locked", "--package", "chancery"]))?;
        command.env(postgres::BIN_VARIABLE, postgres.dir());
        command.env("CHANCERY_BIN", project.target("debug/chancery"));
    }
    command.args(["--", "--exact", test, "--nocapture"]);
    let (variable, full) = arguments.name.length();
    command.env(variable, arguments.operations.unwrap_or(full).to_string());
    if let Some(seed) = arguments.seed {
        command.env("CHANCERY_SOAK_SEED", seed.to_string());
    }
    let started = Instant::now();
    process::run(&mut command)?;
    println!("soaked for {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
