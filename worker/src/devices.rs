//! What this machine has, as the worker reports it. Class `cpu` only: one
//! device, a thousand milli a core.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use domain::accelerators::{CPU_CLASS, DeviceReport, WHOLE_MILLI};
use domain::tenants::Slug;
use sysinfo::System;

use crate::Settings;

/// Part of the memory that engines may have; the rest is for the system, the
/// page cache and the worker.
const ENGINE_SHARE_PERCENT: u64 = 80;
/// More cores than any machine has, so that milli-cores fit their type.
const MAX_CORES: u32 = 4096;
/// Where control groups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Cores for engines.
pub fn cores(settings: &Settings) -> u32 {
    let found = || std::thread::available_parallelism().map_or(1, NonZero::get);
    settings.cores.unwrap_or_else(|| u32::try_from(found()).unwrap_or(MAX_CORES)).clamp(1, MAX_CORES)
}

/// The devices of this worker.
pub fn devices(settings: &Settings) -> Vec<DeviceReport> {
    vec![DeviceReport {
        ordinal: 0,
        class: CPU_CLASS.to_owned(),
        memory_bytes: settings.memory_bytes.unwrap_or_else(|| share(total_memory())),
        milli: WHOLE_MILLI * cores(settings),
    }]
}

/// The worker's name: as set, or made of the host's.
pub fn name(settings: &Settings) -> Slug {
    settings.name.clone().unwrap_or_else(|| slug_of(&System::host_name().unwrap_or_default()))
}

fn share(total: u64) -> u64 {
    total / 100 * ENGINE_SHARE_PERCENT
}

/// Memory of the machine, or what the control group allows if that is less.
fn total_memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let total = system.total_memory();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limits(&own)
        .iter()
        .filter_map(|(limit, _)| fs::read_to_string(limit).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .fold(total, u64::min)
}

/// Where the limits of the control group lie, and beside each what is used: its own
/// and those of all above it (version 2), or the one that version 1 shows.
pub(crate) fn limits(proc_self_cgroup: &str) -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(CGROUP_ROOT);
    let own = proc_self_cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let mut files: Vec<(PathBuf, PathBuf)> = Path::new(own.trim_start_matches('/'))
        .ancestors()
        .map(|group| root.join(group))
        .map(|group| (group.join("memory.max"), group.join("memory.current")))
        .collect();
    files.push((root.join("memory/memory.limit_in_bytes"), root.join("memory/memory.usage_in_bytes")));
    files
}

/// A short name from any host name: its first label, what does not fit
/// replaced.
fn slug_of(host: &str) -> Slug {
    let label: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(56)
        .collect();
    let label = label.trim_matches('-');
    let named = if label.starts_with(|c: char| c.is_ascii_lowercase()) {
        label.to_owned()
    } else {
        format!("worker-{label}")
    };
    named.trim_end_matches('-').parse().expect("at most 63 fitting characters, the first a letter")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn settings_win_over_what_the_machine_has() {
        let settings = Settings { cores: Some(3), memory_bytes: Some(5 << 30), ..Settings::default() };
        let devices = devices(&settings);
        assert_eq!(devices.len(), 1);
        assert_eq!((devices[0].milli, devices[0].memory_bytes), (3000, 5 << 30));
        assert_eq!((devices[0].ordinal, devices[0].class.as_str()), (0, "cpu"));
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let devices = devices(&Settings::default());
        assert!(devices[0].milli >= 1000);
        assert!(devices[0].memory_bytes > 64 << 20);
    }

    #[test]
    fn limits_of_every_group_above_count() {
        let files = limits("0::/system.slice/chancery.service\n");
        let text: Vec<_> = files.iter().map(|(limit, _)| limit.to_str().unwrap()).collect();
        assert_eq!(
            text,
            [
                "/sys/fs/cgroup/system.slice/chancery.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
    }

    #[test]
    fn host_names_become_short_names() {
        for (host, name) in [
            ("node-3.interior.example", "node-3"),
            ("GPU_01", "gpu-01"),
            ("10.0.0.7", "worker-10"),
            ("", "worker"),
            ("--", "worker"),
        ] {
            assert_eq!(slug_of(host).as_str(), name);
        }
    }

    proptest! {
        #[test]
        fn any_host_name_becomes_a_short_name(host in ".{0,300}") {
            slug_of(&host);
        }
    }
}
