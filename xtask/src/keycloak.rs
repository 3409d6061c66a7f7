//! Keycloak, the identity provider that tests sign in with: kept in the cache,
//! ready to start in seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::progress::Line;
use crate::project::Project;
use crate::{process, tools};

const VERSION: &str = "26.4.7";
const ARTIFACT: &str = "org.keycloak:keycloak-quarkus-dist";
const SHA256: &str = "dd9834c023460be856f731423d86228c23b5d002194a2064642bec0cc6573eaa";

/// The archive, and what Maven itself gets to fetch it.
const DOWNLOAD_BYTES: u64 = 168_000_000;

/// The plugin that copies an artifact out of a repository.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";

/// Oldest Java that this Keycloak runs on.
const OLDEST_JAVA: u32 = 17;

/// The administrator of the prepared database. `tests/src/keycloak.rs` signs in
/// as it, to a server that only this machine reaches.
const ADMIN: &str = "admin";

/// What Keycloak's own programs may take of the memory.
const HEAP: &str = "-Xms64m -Xmx512m";

/// Changes when the steps below do, so that an older installation is not used.
const RECIPE: u32 = 1;

/// Its folder: unpacked, built for the database that tests use, with that
/// database's first contents in `data`.
pub fn ensure(project: &Project, line: &Line) -> Result<PathBuf> {
    // It runs on this Java at every start, also when it is in the cache.
    ensure_java(line)?;
    let dir = project.cache.tools().join(format!("keycloak-{VERSION}-{RECIPE}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let download = project.cache.tools().join(format!("keycloak-download-{}", std::process::id()));
    fs::create_dir_all(&download).with_context(|| format!("cannot create {}", download.display()))?;
    let made = make(line, &download, &dir);
    // A leftover only costs space, the result counts.
    let _ = fs::remove_dir_all(&download);
    made.context("Keycloak could not be installed")?;
    Ok(dir)
}

/// Makes everything beside `dir` and renames, so that what is there is whole.
fn make(line: &Line, download: &Path, dir: &Path) -> Result<()> {
    line.says("fetching Keycloak (159 MB)");
    ensure_maven(line)?;
    let archive = fetch(line, download)?;
    let found = tools::sha256(&archive)?;
    if found != SHA256 {
        bail!("{ARTIFACT} {VERSION} is another file than we know: its sha256 is {found}, not {SHA256}");
    }
    line.says("unpacking");
    process::output(
        Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(&archive).arg(download),
    )?;
    let unpacked = download.join(format!("keycloak-{VERSION}"));
    line.says("building it for its file database");
    process::output(program(&unpacked).args(["build", "--db=dev-file"]))?;
    line.says("preparing its database");
    process::output(
        program(&unpacked)
            .args(["bootstrap-admin", "user", "--optimized", "--no-prompt", "--username", ADMIN])
            .args(["--password:env", "ADMIN_PASSWORD"])
            .env("ADMIN_PASSWORD", ADMIN),
    )?;
    if let Err(error) = fs::rename(&unpacked, dir)
        && !dir.is_dir()
    {
        return Err(error).with_context(|| format!("cannot write {}", dir.display()));
    }
    Ok(())
}

/// Into a repository of its own: what it takes is seen, and nothing stays.
fn fetch(line: &Line, download: &Path) -> Result<PathBuf> {
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--quiet", COPY, "-Dmdep.useBaseVersion=true"]);
    maven.arg(format!("-Dartifact={ARTIFACT}:{VERSION}:zip"));
    maven.arg(format!("-DoutputDirectory={}", download.display()));
    maven.arg(format!("-Dmaven.repo.local={}", download.join("repository").display()));
    line.download(maven.current_dir(download), download, 2 * DOWNLOAD_BYTES)?;
    Ok(download.join(format!("keycloak-quarkus-dist-{VERSION}.zip")))
}

fn program(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg(dir.join("bin/kc.sh")).env("JAVA_OPTS_KC_HEAP", HEAP);
    command
}

fn ensure_java(line: &Line) -> Result<()> {
    if tools::java().is_err() && geteuid().is_root() {
        // The check below says what is missing.
        let _ = apt_install(line, "default-jre-headless");
    }
    let found = tools::java()?;
    if found < OLDEST_JAVA {
        bail!("Java {found} is too old for Keycloak: install version {OLDEST_JAVA} or newer");
    }
    Ok(())
}

fn ensure_maven(line: &Line) -> Result<()> {
    if tools::maven().is_err() && geteuid().is_root() {
        let _ = apt_install(line, "maven");
    }
    tools::maven()
}

fn apt_install(line: &Line, package: &str) -> Result<()> {
    line.says(&format!("installing {package} with apt-get"));
    let install = || {
        process::output(
            Command::new("apt-get")
                .args(["install", "--yes", "--no-install-recommends", package])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // A new machine or container has no package lists yet.
    if install().is_err() {
        process::output(Command::new("apt-get").arg("update"))?;
        install()?;
    }
    Ok(())
}
