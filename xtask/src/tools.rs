//! Programs that must be on the machine, each with what to install if not.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process;
use crate::project::Project;

const READ_BYTES: usize = 1 << 20;

/// Oldest Node.js that builds the portal.
const OLDEST_NODE: u32 = 20;

/// Oldest Python for the packages that tests use.
const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// Rust is there, since this runs; some crates compile C.
pub fn compilers() -> Result<String> {
    let rustc = version("rustc", "--version").context("Rust is not complete: install it with rustup")?;
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("?").to_owned();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    version(&compiler, "--version").context(
        "a C compiler is missing: install one (Debian, Ubuntu: `apt-get install gcc libc6-dev`; Fedora: `dnf install gcc`)",
    )?;
    Ok(format!("Rust {rustc}, C compiler"))
}

pub fn node() -> Result<()> {
    let hint = "Node.js 20 or newer with npm is missing: install it \
                (Debian 13, Ubuntu 25.04 or newer: `apt-get install nodejs npm`; Fedora: `dnf install nodejs`)";
    let found = version("node", "--version").context(hint)?;
    version("npm", "--version").context(hint)?;
    let major: u32 =
        found.trim_start_matches('v').split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if major < OLDEST_NODE {
        bail!("Node.js {found} is too old: install version {OLDEST_NODE} or newer");
    }
    Ok(())
}

pub fn python() -> Result<()> {
    version("python3", "--version")
        .context("Python 3 is missing: install it (Debian, Ubuntu: `apt-get install python3 python3-venv python3-pip`; Fedora: `dnf install python3 python3-pip`)")?;
    Ok(())
}

/// The Python that the packages of `xtask/requirements.txt` need.
pub fn python_for_tests() -> Result<()> {
    python()?;
    let is_new = format!("import sys; sys.exit(sys.version_info < {OLDEST_PYTHON:?})");
    if !process::works(Command::new("python3").args(["-c", &is_new])) {
        let found = version("python3", "--version")?;
        let (major, minor) = OLDEST_PYTHON;
        bail!("{found} is too old for the tests: install version {major}.{minor} or newer as python3");
    }
    Ok(())
}

/// The major version of the machine's Java.
pub fn java() -> Result<u32> {
    let hint = "Java is missing, Keycloak runs on it: install it \
                (Debian, Ubuntu: `apt-get install default-jre-headless`; Fedora: `dnf install java-latest-openjdk-headless`)";
    // It says its version on standard error.
    let output = Command::new("java").arg("-version").output().context(hint)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let major =
        text.split('"').nth(1).and_then(|version| version.split(['.', '-', '+']).next()?.parse().ok());
    major.with_context(|| format!("{hint}; `java -version` says: {}", text.trim()))
}

pub fn maven() -> Result<()> {
    version("mvn", "--version")
        .context("Maven is missing, Keycloak is fetched with it: install it (Debian, Ubuntu: `apt-get install maven`; Fedora: `dnf install maven`)")?;
    Ok(())
}

/// Oldest Go that reads the modules of `xtask/go/`; it fetches a newer one if a
/// module asks for it.
const OLDEST_GO: (u32, u32) = (1, 21);

pub fn go() -> Result<()> {
    let hint =
        "Go is missing, peers of benchmarks are built with it: install it (https://go.dev/doc/install)";
    let found = version("go", "version").context(hint)?;
    let parts: Vec<u32> = found
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))
        .map(|rest| rest.split('.').filter_map(|part| part.parse().ok()).collect())
        .unwrap_or_default();
    if (1, parts.first().copied().unwrap_or(0)) < OLDEST_GO {
        bail!("{found} is too old: install version {}.{} or newer", OLDEST_GO.0, OLDEST_GO.1);
    }
    Ok(())
}

/// A folder of the cache that is made once: beside its place, and renamed when it
/// is whole.
pub fn ensure_dir(project: &Project, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = project.cache.tools().join(name);
    if dir.is_dir() {
        return Ok(dir);
    }
    let beside = project.cache.tools().join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&beside).with_context(|| format!("cannot create {}", beside.display()))?;
    let made = make(&beside).and_then(|()| match fs::rename(&beside, &dir) {
        Err(error) if !dir.is_dir() => Err(error).with_context(|| format!("cannot write {}", dir.display())),
        _ => Ok(()),
    });
    // A leftover only costs space, the result counts.
    let _ = fs::remove_dir_all(&beside);
    made.with_context(|| format!("{name} could not be made"))?;
    Ok(dir)
}

/// The digest of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let (mut file, mut hasher, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; READ_BYTES]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

fn version(program: &str, argument: &str) -> Result<String> {
    let output = process::output(Command::new(program).arg(argument))?;
    Ok(output.lines().next().unwrap_or_default().trim().to_owned())
}
