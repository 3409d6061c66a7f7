//! Memory that is there for engines: what the machine, or the control group that
//! this runs in, has free, and what the engines hold already. What others use of
//! either is not placed on.

use std::fs;
use std::path::Path;

use domain::workers::DeviceMemory;
use sysinfo::System;

use crate::devices::limits;

/// What is measured of the one device of class `cpu`; nothing where the system does
/// not tell.
pub fn measure() -> Vec<DeviceMemory> {
    let mut system = System::new();
    system.refresh_memory();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = limits(&own).into_iter().filter_map(|(limit, usage)| group_free(&limit, &usage)).min();
    let free = match (system.available_memory(), group) {
        (0, None) => return Vec::new(),
        (0, Some(free)) => free,
        (machine, free) => machine.min(free.unwrap_or(u64::MAX)),
    };
    let engines = children().iter().filter_map(|pid| held(*pid)).fold(0, u64::saturating_add);
    vec![DeviceMemory { ordinal: 0, available_bytes: free.saturating_add(engines) }]
}

/// What a control group lets be used still, cached files aside; none if it has no limit.
fn group_free(limit: &Path, usage: &Path) -> Option<u64> {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let stat = fs::read_to_string(usage.with_file_name("memory.stat")).unwrap_or_default();
    let cached = ["inactive_file", "active_file"].iter().filter_map(|name| field(&stat, name)).sum::<u64>();
    Some(limit.saturating_sub(number(usage)?.saturating_sub(cached)))
}

/// Processes that this one started: its engines.
fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let listed = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    listed
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Memory of a process that its end would free: not its files, which count as free
/// while they are mapped.
fn held(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = ["RssAnon:", "RssShmem:"].iter().filter_map(|name| field(&status, name)).sum::<u64>();
    Some(kib * 1024)
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_for_engines() {
        let measured = measure();
        assert_eq!(measured.len(), 1);
        assert!(measured[0].available_bytes > 16 << 20, "{measured:?}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tengine\nRssAnon:\t     208 kB\nRssFile:\t    1820 kB\n";
        assert_eq!(
            (field(status, "RssAnon:"), field(status, "Rss"), field(status, "Name:")),
            (Some(208), None, None)
        );
        assert!(held(std::process::id()).is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn a_child_is_counted_while_it_runs() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let found = children().contains(&child.id());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert!(found, "what this process starts is its own");
    }

    #[test]
    fn a_group_without_a_limit_lets_everything_be_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let (limit, usage) = (folder.path().join("memory.max"), folder.path().join("memory.current"));
        let write =
            |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it is written");
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(group_free(&limit, &usage), None);
        write("memory.max", "1000\n");
        write("memory.stat", "anon 200\nactive_file 100\ninactive_file 300\n");
        assert_eq!(group_free(&limit, &usage), Some(700), "cached files make room");
    }
}
