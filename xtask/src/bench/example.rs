//! Benchmarks that are programs of their own, `tests/examples/*_bench.rs`, and
//! print a JSON object with each figure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use postgres::Binaries;

use crate::process;
use crate::project::Project;

/// A benchmark's program.
pub struct Example {
    program: PathBuf,
    binaries: PathBuf,
}

impl Example {
    /// Builds it with optimisation.
    pub fn build(project: &Project, binaries: &Binaries, name: &str) -> Result<Self> {
        let example = ["build", "--quiet", "--release", "--locked", "--package", "tests", "--example", name];
        process::run(project.cargo().args(example))?;
        let program = project.target("release").join("examples").join(name);
        Ok(Self { program, binaries: binaries.dir().to_owned() })
    }

    /// Runs it, with PostgreSQL.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env(postgres::BIN_VARIABLE, &self.binaries);
        command
    }
}

/// What a benchmark's program printed. What it says of its progress, and why it
/// failed, is shown.
pub fn figures(command: &mut Command) -> Result<BTreeMap<String, f64>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed ({})", output.status);
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(printed.trim()).with_context(|| format!("{program} printed no figures: {printed}"))
}
