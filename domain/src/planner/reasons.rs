//! Why a workload waits, in words for the person who asked for it, with the
//! numbers that tell what would help.

use std::collections::BTreeSet;

use super::candidates::{Fleet, Slot};
use crate::accelerators::ResourceRequest;

/// Why nothing takes `request` in these zones, of a fleet in which nothing does.
pub(super) fn explain(fleet: &Fleet<'_>, request: &ResourceRequest, zones: &[String]) -> String {
    let class = &request.class;
    if fleet.is_empty() {
        return "no worker has joined yet".to_owned();
    }
    let all: Vec<&Slot<'_>> = fleet.of_class(class).collect();
    if all.is_empty() {
        return format!("no worker has a device of class {class}");
    }
    let open: Vec<&Slot<'_>> =
        all.iter().copied().filter(|s| !s.lost && !s.worker.cordoned && s.is_in(zones)).collect();
    let closed = closed(&all, zones);
    if open.is_empty() {
        return format!("no worker of class {class} takes work: {}", closed.join("; "));
    }
    let mut parts = vec![shortage(&open, request)];
    parts.extend(closed);
    parts.join("; ")
}

/// What is short on devices that are open.
fn shortage(open: &[&Slot<'_>], request: &ResourceRequest) -> String {
    let ResourceRequest { class, memory_bytes, milli } = request;
    let needs = bytes(rounded_up(*memory_bytes));

    let large = |s: &&&Slot<'_>| s.device.memory_bytes >= *memory_bytes && s.device.milli >= *milli;
    if !open.iter().any(|s| large(&s))
        && let Some(s) = open.iter().rev().max_by_key(|s| (s.device.memory_bytes, s.device.milli))
    {
        return format!(
            "no device of class {class} is as large as {needs} and {milli} milli-accelerators: the largest has {} and {} on {}",
            bytes(s.device.memory_bytes),
            s.device.milli,
            s.worker.name
        );
    }
    let roomy = open.iter().rev().max_by_key(|s| s.free_memory_bytes);
    if let Some(s) = roomy
        && s.free_memory_bytes < *memory_bytes
    {
        return format!(
            "no worker of class {class} has {needs} free: the largest free is {} on {}",
            bytes(s.free_memory_bytes),
            s.worker.name
        );
    }
    let idle = open.iter().rev().max_by_key(|s| s.free_milli);
    if let Some(s) = idle
        && s.free_milli < *milli
    {
        return format!(
            "no worker of class {class} has {milli} milli-accelerators free: the most free is {} on {}",
            s.free_milli, s.worker.name
        );
    }
    let example = roomy.map_or_else(String::new, |s| {
        format!(
            ": {} has {} but {} milli-accelerators free",
            s.worker.name,
            bytes(s.free_memory_bytes),
            s.free_milli
        )
    });
    format!(
        "no device of class {class} has {needs} and {milli} milli-accelerators free at the same time{example}"
    )
}

/// How many workers are out, e.g. `2 workers are cordoned`.
fn closed(all: &[&Slot<'_>], zones: &[String]) -> Vec<String> {
    let count = |keep: &dyn Fn(&Slot<'_>) -> bool| {
        all.iter().filter(|s| keep(s)).map(|s| s.worker.id).collect::<BTreeSet<_>>().len()
    };
    let tell = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 worker is {what}")),
        n => Some(format!("{n} workers are {what}")),
    };
    let cordoned = tell(count(&|s| !s.lost && s.worker.cordoned), "cordoned");
    let lost = tell(count(&|s| s.lost), "lost");
    let elsewhere = count(&|s| !s.lost && !s.worker.cordoned && !s.is_in(zones));
    let elsewhere = tell(elsewhere, &format!("outside of the zones {}", zones.join(", ")));
    cordoned.into_iter().chain(lost).chain(elsewhere).collect()
}

/// To what [`bytes`] shows, so that a need never reads like what is free.
fn rounded_up(n: u64) -> u64 {
    let step = if n < 1_000_000_000 { 1_000_000 } else { 100_000_000 };
    n.div_ceil(step).saturating_mul(step)
}

/// Decimal, as memory is sold: `512 MB`, `2.1 GB`.
fn bytes(n: u64) -> String {
    const MB: u64 = 1_000_000;
    const GB: u64 = 1_000 * MB;
    match n {
        0 => "0 MB".to_owned(),
        1..MB => "less than 1 MB".to_owned(),
        MB..GB => format!("{} MB", n / MB),
        _ => format!("{}.{} GB", n / GB, n % GB / (GB / 10)),
    }
}
