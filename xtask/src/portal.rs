//! The portal's assets: built when their sources have changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress::Line;
use crate::project::Project;
use crate::steps::Outcome;
use crate::{process, tools};

/// Folders that are not sources.
const NOT_SOURCES: [&str; 2] = ["node_modules", "dist"];

/// Makes `portal/dist` that of the sources, and says what was done.
pub fn ensure(project: &Project, line: &Line) -> Result<&'static str> {
    let portal = project.path("portal");
    if !portal.join("package.json").is_file() {
        return Ok("none in this version");
    }
    let (stamp, digest) = (project.target("portal.sha256"), digest(&portal, |_| true)?);
    if portal.join("dist").is_dir() && fs::read_to_string(&stamp).is_ok_and(|built| built == digest) {
        return Ok("up to date");
    }
    install(project, line)?;
    line.says("building");
    process::output(npm(&portal).args(["run", "build"]))?;
    write(&stamp, &digest)?;
    Ok("built")
}

/// Lint and type check, if the portal has them.
pub fn check(project: &Project) -> Result<Outcome> {
    let portal = project.path("portal");
    let Ok(package) = fs::read_to_string(portal.join("package.json")) else {
        return Ok(Outcome::Skipped("there is no portal/package.json".to_owned()));
    };
    let package: serde_json::Value =
        serde_json::from_str(&package).context("portal/package.json is not JSON")?;
    if package["scripts"]["check"].is_null() {
        return Ok(Outcome::Skipped("portal/package.json has no script `check`".to_owned()));
    }
    let line = Line::start("portal");
    install(project, &line)?;
    line.hand_over();
    process::run(npm(&portal).args(["run", "check"]))?;
    Ok(Outcome::Passed)
}

/// The packages that the lock file names.
fn install(project: &Project, line: &Line) -> Result<()> {
    tools::node()?;
    let portal = project.path("portal");
    let stamp = project.target("portal-packages.sha256");
    let digest = digest(&portal, |name| name == "package.json" || name == "package-lock.json")?;
    if portal.join("node_modules").is_dir() && fs::read_to_string(&stamp).is_ok_and(|have| have == digest) {
        return Ok(());
    }
    line.says("installing its packages");
    process::output(npm(&portal).args(["ci", "--no-audit", "--no-fund"]))?;
    write(&stamp, &digest)
}

fn npm(portal: &Path) -> Command {
    let mut command = Command::new("npm");
    command.current_dir(portal).env("npm_config_update_notifier", "false");
    command
}

/// Of names and contents of those sources that `wanted` names.
fn digest(portal: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let mut files = Vec::new();
    list(portal, &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        let name = path.strip_prefix(portal)?.to_string_lossy().into_owned();
        if wanted(&name) {
            let contents = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hasher.update(format!("{name}\0{}\0", contents.len()));
            hasher.update(contents);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            files.push(entry.path());
        } else if !NOT_SOURCES.iter().any(|other| name == *other) {
            list(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}
