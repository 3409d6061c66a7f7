//! Programs that must be on the machine, each with what to install if not.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Oldest Node.js that builds the portal.
const OLDEST_NODE: u32 = 20;

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

fn version(program: &str, argument: &str) -> Result<String> {
    let output = process::output(Command::new(program).arg(argument))?;
    Ok(output.lines().next().unwrap_or_default().trim().to_owned())
}
