//! Running other programs.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that are shown.
const TAIL_LINES: usize = 40;

/// Runs a program that shows its own output.
pub fn run(command: &mut Command) -> Result<()> {
    let name = name(command);
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs a program silently and returns its standard output; shows the end of
/// what it printed if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{name} failed ({}):\n{}", output.status, tail(&String::from_utf8_lossy(&text)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Does it run and succeed?
pub fn works(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// `cargo clippy`, `npm ci`: the program and its first argument.
fn name(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    match command.get_args().next().map(|argument| argument.to_string_lossy()) {
        Some(argument) if argument.len() < 20 && !argument.starts_with('-') => {
            format!("{program} {argument}")
        }
        _ => program.into_owned(),
    }
}
