//! `cargo xtask generate`: files made from the code, which are committed so that
//! they can be read and reviewed, and so that building needs no database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::Project;
use crate::{migrations, process, sqlx};

/// A file and the arguments with which `chancery` prints it.
const PRINTED: [(&str, &[&str]); 2] =
    [("docs/openapi.json", &["openapi"]), ("docs/CONFIGURATION.md", &["config", "reference"])];

#[derive(clap::Args)]
pub struct Arguments {
    /// Change nothing, fail with the difference if a file is not up to date
    #[arg(long)]
    check: bool,
}

/// What to do with a file that differs.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Write,
    Check,
}

pub fn run(project: &Project, arguments: &Arguments) -> Result<()> {
    if arguments.check {
        return check(project);
    }
    migrations::list(project)?;
    all(project, Mode::Write)
}

/// Fails if a generated file is not what would be generated.
pub fn check(project: &Project) -> Result<()> {
    all(project, Mode::Check)
}

fn all(project: &Project, mode: Mode) -> Result<()> {
    let new = project.target("generated");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    let queries = new.join("sqlx");
    fs::create_dir_all(&queries).with_context(|| format!("cannot create {}", queries.display()))?;
    let mut outdated = Vec::new();

    sqlx::describe_queries(project, &queries, mode == Mode::Check)?;
    settle(project, &queries, ".sqlx", mode, &mut outdated)?;

    // With the same packages as the tests, so that it is built once.
    process::run(project.cargo().args(["build", "--workspace", "--all-targets", "--locked", "--quiet"]))?;
    for (file, arguments) in PRINTED {
        let mut text = process::output(project.command(project.target("debug/chancery")).args(arguments))?;
        text.truncate(text.trim_end().len());
        text.push('\n');
        let path = new.join(Path::new(file).file_name().context("a file has a name")?);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        settle(project, &path, file, mode, &mut outdated)?;
    }
    if !outdated.is_empty() {
        bail!("not up to date: {}; run `cargo xtask generate` and commit the result", outdated.join(", "));
    }
    Ok(())
}

/// Compares what was generated with what is in the clone, and shows or replaces
/// the latter.
fn settle(
    project: &Project,
    new: &Path,
    file: &'static str,
    mode: Mode,
    outdated: &mut Vec<&str>,
) -> Result<()> {
    let present = project.path(file);
    if !present.exists() && mode == Mode::Check {
        println!("{file} does not exist");
        outdated.push(file);
        return Ok(());
    }
    // 0: equal. Whatever git may be configured to do, this is plain text.
    let mut diff = Command::new("git");
    diff.args(["--no-pager", "diff", "--no-index", "--no-ext-diff", "--stat", "--patch", "--"])
        .arg(&present)
        .arg(new);
    let shown = diff.output().context("git is missing: install it")?;
    if shown.status.success() {
        println!("{file} is up to date");
    } else if mode == Mode::Check {
        print!("{}", String::from_utf8_lossy(&shown.stdout));
        outdated.push(file);
    } else {
        replace(new, &present)?;
        println!("{file} written");
    }
    Ok(())
}

fn replace(new: &Path, present: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if new.is_file() {
            return fs::copy(new, present).map(drop);
        }
        fs::create_dir_all(present)?;
        let listed = |dir: &Path| -> std::io::Result<Vec<PathBuf>> {
            fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
        };
        for old in listed(present)? {
            fs::remove_file(old)?;
        }
        for file in listed(new)? {
            fs::copy(&file, present.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", present.display()))
}
