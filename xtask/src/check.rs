//! `cargo xtask check`: all that can be said about the code without running it.

use anyhow::Result;

use crate::project::Project;
use crate::steps::{Outcome, Steps};
use crate::{deny, generate, migrations, portal, process};

/// What clippy is told; equal everywhere, so that its results are shared.
pub const CLIPPY: [&str; 4] = ["clippy", "--workspace", "--all-targets", "--locked"];
pub const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

pub fn run(project: &Project) -> Result<()> {
    let mut steps = Steps::default();
    all(project, &mut steps);
    steps.finish()
}

/// Every check, as steps.
pub fn all(project: &Project, steps: &mut Steps) {
    steps.run("format", || passed(process::run(project.cargo().args(["fmt", "--all", "--check"]))));
    steps.run("migrations", || passed(migrations::check(project)));
    steps.run("generated files", || passed(generate::check(project)));
    steps.run("clippy", || passed(process::run(project.cargo().args(CLIPPY).args(DENY_WARNINGS))));
    steps.run("docs", || {
        let mut doc = project.cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
        passed(process::run(&mut doc))
    });
    steps.run("dependencies", || passed(deny::check(project)));
    steps.run("portal", || portal::check(project));
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}
