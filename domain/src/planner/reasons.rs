//! Why a workload waits, in words for the person who asked for it, with the
//! numbers that tell what would help.

use std::collections::BTreeSet;

use super::devices::{Barrier, Slot, is_shared};
use crate::accelerators::ResourceRequest;
use crate::placing::Ask;
use crate::quotas::{Level, NodeId, Resource, WhyNot};
use crate::tenants::Classification;

/// What stops a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub level: Option<Level>,
    pub text: String,
}

impl Reason {
    fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level: Some(level), text: text.into() }
    }
}

/// Several reasons, of one class each; the first is what stops it.
pub(super) fn all_of(reasons: impl IntoIterator<Item = Reason>) -> Reason {
    let mut reasons = reasons.into_iter();
    let first = reasons.next().unwrap_or_else(|| Reason::new(Level::Devices, "no device takes it"));
    let mut texts = vec![first.text];
    for reason in reasons {
        if !texts.contains(&reason.text) {
            texts.push(reason.text);
        }
    }
    Reason { level: first.level, text: texts.join("; ") }
}

/// Why a workload that was admitted in another class is not on this one, of which
/// devices would have done.
pub(super) fn passed_by_quota(class: &str) -> String {
    format!("no quota of class {class} was left for it, or only what others lend")
}

/// Why quota does not let a workload begin, in any of these classes, the first of
/// which it would rather have. Says what may be used rather than what is free
/// just now, so that it is said once and not with every change.
pub(super) fn of_quota(why: Option<&WhyNot>, classes: &[&str]) -> Reason {
    let Some(why) = why else {
        return Reason::new(Level::Priority, "others are before it in its tenant's queue");
    };
    let class =
        why.key.as_ref().map_or_else(|| classes.first().copied().unwrap_or_default(), |key| &*key.class);
    let asked = match why.key.as_ref().map(|key| key.resource) {
        Some(Resource::MemoryBytes) => bytes(rounded_up(why.asked.unsigned_abs())),
        _ => format!("{} milli-accelerators", why.asked),
    };
    let whose = match why.node {
        Some(NodeId::Project(_)) => "its project's limit",
        _ => "its tenant's quota",
    };
    let text = match why.level {
        Level::Quota if why.never && why.free == 0 => {
            format!("{whose} has nothing of class {class}, of which it asks for {asked}")
        }
        _ if why.never => {
            format!("it asks for {asked} of class {class}, which is more than {whose} can ever give it")
        }
        Level::Quota => format!("{whose} of class {class} has less left than the {asked} it asks for"),
        Level::BorrowingLimit => {
            format!("its tenant may not borrow as much of class {class} as it asks for: {asked}")
        }
        Level::Cohort => {
            format!("its tenant's cohort has less of class {class} left than it asks for: {asked}")
        }
        Level::FairShare => {
            format!(
                "others use what is left of class {class}, and its tenant's share is no smaller than theirs"
            )
        }
        Level::Priority => {
            format!("others use what is its tenant's of class {class}, and are no less important")
        }
        _ => why.detail.clone().unwrap_or_else(|| format!("it is stopped by {}", why.level.as_str())),
    };
    let others: Vec<&str> = classes.iter().copied().filter(|other| *other != class).collect();
    let text = match (&*others, why.key.is_some()) {
        ([], _) | (_, false) => text,
        (others, true) => format!("{text}; nor is quota left for it of class {}", others.join(" or ")),
    };
    Reason::new(why.level, text)
}

/// Others were told to leave for it.
pub(super) fn promised() -> Reason {
    Reason::new(Level::Quota, "room is being made for it: what is in its place was told to leave")
}

/// Why nothing takes `request` where `ask` lets it be, of the devices of its class,
/// on none of which it fits. `anybody` if there is any worker.
pub(super) fn of_devices(anybody: bool, slots: &[Slot<'_>], request: &ResourceRequest, ask: &Ask) -> Reason {
    let class = &request.class;
    if !anybody {
        return Reason::new(Level::Devices, "no worker has joined yet");
    }
    let all: Vec<&Slot<'_>> = slots.iter().collect();
    if all.is_empty() {
        return Reason::new(Level::Devices, format!("no worker has a device of class {class}"));
    }
    let open: Vec<&Slot<'_>> =
        all.iter().copied().filter(|s| !s.lost && !s.worker.cordoned && s.barrier(ask).is_none()).collect();
    let closed = closed(&all, ask);
    if open.is_empty() {
        // Where all are barred, those that came furthest say what would help.
        let barriers: Option<Vec<Barrier>> = all.iter().map(|slot| slot.barrier(ask)).collect();
        let level = match barriers.and_then(|barriers| barriers.into_iter().max()) {
            Some(Barrier::Zone) => Level::Zone,
            Some(Barrier::Pool) => Level::Pool,
            Some(Barrier::Clearance) => Level::Classification,
            None => Level::Devices,
        };
        return Reason::new(level, format!("no worker of class {class} takes work: {}", closed.join("; ")));
    }
    let roomy = |slot: &&Slot<'_>| slot.free_memory_bytes >= request.memory_bytes;
    let level = if open.iter().any(roomy) { Level::Devices } else { Level::Memory };
    let mut parts = vec![shortage(&open, request)];
    parts.extend(closed);
    Reason::new(level, parts.join("; "))
}

/// What is short on devices that are open.
fn shortage(open: &[&Slot<'_>], request: &ResourceRequest) -> String {
    let ResourceRequest { class, memory_bytes, milli, .. } = request;
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
        let others = s.device.memory_bytes.saturating_sub(s.device.usable_memory_bytes());
        let others = match others {
            0 => String::new(),
            n => format!(", where others use {}", bytes(n)),
        };
        return format!(
            "no worker of class {class} has {needs} free: the largest free is {} on {}{others}",
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
fn closed(all: &[&Slot<'_>], ask: &Ask) -> Vec<String> {
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
    let behind =
        |barrier| count(&|s: &Slot<'_>| !s.lost && !s.worker.cordoned && s.barrier(ask) == Some(barrier));
    let elsewhere = tell(behind(Barrier::Zone), &format!("outside of the zones {}", ask.zones.join(", ")));
    let pools = if is_shared(ask) {
        tell(behind(Barrier::Pool), "dedicated to others")
    } else {
        tell(behind(Barrier::Pool), &format!("outside of the pools {}", ask.pools.join(", ")))
    };
    let secrecy = Classification::ALL.into_iter().find(|level| level.rank() == ask.clearance);
    let secrecy = secrecy.unwrap_or_default().as_str();
    let uncleared = tell(behind(Barrier::Clearance), &format!("not cleared for {secrecy} work"));
    [cordoned, lost, elsewhere, pools, uncleared].into_iter().flatten().collect()
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
