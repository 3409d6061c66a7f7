//! A process and everything it started, by role: their memory, their arguments.

use std::collections::BTreeMap;
use std::fs;

/// Bytes in 10⁶, as the bars are given.
const MB: f64 = 1e6;

/// What our processes are called, by their subcommand.
const ROLES: [&str; 5] = ["up", "api", "scheduler", "worker", "engine"];

/// MB by role of `root` and its descendants: resident memory of our own
/// processes; of PostgreSQL's, which share most of theirs, the proportional sum.
pub fn by_role(root: u32) -> BTreeMap<String, f64> {
    let mut memory = BTreeMap::new();
    for pid in family(root) {
        let words = command_line(pid);
        let (role, kilobytes) = match role(&words) {
            Some("postgres") => ("postgres", field(pid, "smaps_rollup", "Pss:")),
            Some(role) => (role, field(pid, "status", "VmRSS:")),
            None => continue,
        };
        *memory.entry(role.to_owned()).or_default() += kilobytes.unwrap_or(0) as f64 * 1024.0 / MB;
    }
    memory
}

/// The command line of the descendant of `root` that is a `wanted`.
pub fn command_of(root: u32, wanted: &str) -> Option<Vec<String>> {
    family(root).into_iter().map(command_line).find(|words| role(words) == Some(wanted))
}

fn family(root: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) {
            parents.insert(pid, field(pid, "status", "PPid:").unwrap_or(0));
        }
    }
    parents.keys().copied().filter(|pid| descends(*pid, root, &parents)).collect()
}

fn command_line(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

fn role(words: &[String]) -> Option<&str> {
    let (program, arguments) = words.split_first()?;
    let program = program.rsplit('/').next()?;
    match program {
        "chancery" => arguments.iter().map(String::as_str).find(|word| ROLES.contains(word)),
        // Its children replace their command line by a title.
        _ if program == "postgres" || program.starts_with("postgres:") => Some("postgres"),
        _ => None,
    }
}

fn descends(pid: u32, root: u32, parents: &BTreeMap<u32, u32>) -> bool {
    std::iter::successors(Some(pid), |at| parents.get(at).copied().filter(|parent| *parent != 0))
        .any(|at| at == root)
}

/// A number in a file of `/proc`.
fn field(pid: u32, file: &str, name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
