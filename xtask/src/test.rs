//! `cargo xtask test`: the checks and every test, with all that they need.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Deserialize;

use crate::progress::Line;
use crate::project::Project;
use crate::steps::{Outcome, Steps};
use crate::{check, keycloak, portal, process, python, tools, up};

#[derive(clap::Args)]
pub struct Arguments {
    /// What to run
    #[arg(value_enum, default_value_t = Suite::All)]
    suite: Suite,
    /// Arguments for the test programs, such as a part of a test's name
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Suite {
    /// The checks and every test
    All,
    /// `cargo xtask check`
    Check,
    /// Tests inside the crates, and examples in documentation
    Unit,
    /// Tests across crates, with PostgreSQL, the model and processes
    It,
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    let mut steps = Steps::default();
    let mut environment = Environment::default();
    let prepared = steps.run("prepare", || {
        environment = prepare(project)?;
        Ok(Outcome::Passed)
    });
    // Everything is built in one go and with one set of features, so that the
    // checks and tests after it find it done.
    let built = prepared && arguments.suite != Suite::Check && steps.run("build", || build(project));
    if prepared && matches!(arguments.suite, Suite::All | Suite::Check) {
        check::all(project, &mut steps);
    }
    let mut tests = |name, targets: &[&str]| {
        steps.run(name, || {
            let mut command = project.cargo();
            command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(targets);
            environment.apply(&mut command);
            if !arguments.more.is_empty() {
                command.arg("--").args(&arguments.more);
            }
            process::run(&mut command)?;
            Ok(Outcome::Passed)
        });
    };
    match arguments.suite {
        _ if !built => {}
        Suite::All => tests("tests", &[]),
        Suite::Unit => {
            tests("unit tests", &["--lib", "--bins"]);
            tests("examples in docs", &["--doc"]);
        }
        Suite::It => tests("tests across crates", &["--test", "*"]),
        Suite::Check => {}
    }
    let result = steps.finish();
    project.cache.keep_below_limit(&packages(project)?)?;
    result
}

/// What the test programs are told through their environment.
#[derive(Default)]
struct Environment(Vec<(&'static str, std::ffi::OsString)>);

impl Environment {
    fn apply(&self, command: &mut Command) {
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
    }
}

fn prepare(project: &Project) -> Result<Environment> {
    let line = Line::start("toolchain");
    line.done(&tools::compilers()?);
    let line = Line::start("portal assets");
    let done = portal::ensure(project, &line)?;
    line.done(done);
    let postgres = up::ensure_postgres(project)?;
    let model = up::ensure_model(project)?;
    let line = Line::start("Python");
    line.says("environment with the official clients");
    let python = python::environment(project)?;
    line.done(&python.display().to_string());
    let line = Line::start("Keycloak");
    let keycloak = keycloak::ensure(project, &line)?;
    line.done(&keycloak.display().to_string());
    let value = |path: &Path| path.as_os_str().to_owned();
    Ok(Environment(vec![
        (postgres::BIN_VARIABLE, value(postgres.dir())),
        ("CHANCERY_TEST_MODEL", value(&model)),
        ("CHANCERY_TEST_PYTHON", value(&python)),
        ("CHANCERY_TEST_KEYCLOAK", value(&keycloak)),
        ("CHANCERY_BIN", value(&project.target("debug/chancery"))),
        // Tests run beside each other: threads of one engine that wait for each
        // other must not wait for another test's.
        ("RAYON_NUM_THREADS", "1".into()),
    ]))
}

fn build(project: &Project) -> Result<Outcome> {
    process::run(project.cargo().args(["build", "--workspace", "--all-targets", "--locked"]))?;
    Ok(Outcome::Passed)
}

/// The names of our crates.
fn packages(project: &Project) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let mut metadata = project.cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_str(&process::output(&mut metadata)?)?;
    Ok(metadata.packages.into_iter().map(|package| package.name).collect())
}
