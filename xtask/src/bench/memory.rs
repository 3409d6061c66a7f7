//! Memory of a process and everything it started, by role.

use std::collections::BTreeMap;
use std::fs;

/// Bytes in 10⁶, as the bars are given.
const MB: f64 = 1e6;

/// MB by role of `root` and its descendants: resident memory of our own
/// processes; of PostgreSQL's, which share most of theirs, the proportional
/// sum. The role of ours is their first argument.
pub fn by_role(root: u32) -> BTreeMap<String, f64> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) {
            parents.insert(pid, field(pid, "status", "PPid:").unwrap_or(0));
        }
    }
    let mut memory = BTreeMap::new();
    for pid in parents.keys().copied().filter(|pid| descends(*pid, root, &parents)) {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split('\0');
        let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let (role, kilobytes) = match program {
            "chancery" => (words.next().unwrap_or_default(), field(pid, "status", "VmRSS:")),
            program if program.starts_with("postgres") => ("postgres", field(pid, "smaps_rollup", "Pss:")),
            _ => continue,
        };
        *memory.entry(role.to_owned()).or_default() += kilobytes.unwrap_or(0) as f64 * 1024.0 / MB;
    }
    memory
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
