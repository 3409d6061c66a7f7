//! The CSV files of the openb trace (Alibaba, *Beware of Fragmentation*, USENIX
//! ATC 2023): nodes and pods.

use super::csv::{self, CsvError};
use super::{Job, MAX_SECS, MAX_WORK, MAX_WORKERS, Machine, SECOND};
use crate::accelerators::{CPU_CLASS, DeviceReport, ResourceRequest, WHOLE_MILLI};
use crate::tenants::{Classification, Slug};
use crate::workers::MAX_DEVICES;
use crate::workloads::JOB_PRIORITY;

/// The class of every accelerator where no pod asks for a model.
pub const ANY_CLASS: &str = "gpu";
/// Zone, pool and group of the workers.
const PLACE: &str = "openb";

/// A node of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Model of its accelerators.
    pub model: String,
    /// Processor, thousandths of a core.
    pub cpu_milli: u64,
    /// Memory of the host.
    pub memory_mib: u64,
    /// Accelerators.
    pub devices: usize,
}

/// A pod of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it is in its file.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Processor, thousandths of a core.
    pub cpu_milli: u64,
    /// Memory of the host.
    pub memory_mib: u64,
    /// Accelerators.
    pub devices: u32,
    /// Thousandths of each.
    pub milli: u32,
    /// Acceptable models, sorted; empty for any.
    pub models: Vec<String>,
    /// Class of service, if the file has it.
    pub qos: Option<String>,
    /// When it was made, began and ended, in seconds, where the file says so.
    pub times: [Option<u64>; 3],
}

/// Reads nodes, sorted by name.
pub fn nodes(text: &str) -> Result<Vec<Node>, CsvError> {
    let header = csv::header(text, &["sn", "cpu_milli", "memory_mib", "gpu", "model"], &[], false)?;
    let mut nodes = Vec::new();
    for row in header.rows(text) {
        let row = row?;
        let number = |column| row.value(column, "a whole number below 2^32", small);
        let devices = format!("a whole number of accelerators, at most {MAX_DEVICES}");
        nodes.push(Node {
            name: row.value("sn", "the name of a node", nonempty)?,
            cpu_milli: number("cpu_milli")?,
            memory_mib: number("memory_mib")?,
            devices: row.value("gpu", &devices, |f| f.parse().ok().filter(|n| *n <= MAX_DEVICES))?,
            model: row.get("model").unwrap_or_default().to_owned(),
        });
        if nodes.len() > MAX_WORKERS {
            return Err(CsvError::TooMany { line: row.line, most: MAX_WORKERS, what: "nodes" });
        }
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// Reads pods, sorted by name.
pub fn pods(text: &str) -> Result<Vec<Pod>, CsvError> {
    let required = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"];
    let header = csv::header(text, &required, &[], false)?;
    let mut pods = Vec::new();
    for row in header.rows(text) {
        let row = row?;
        let number = |column| row.value(column, "a whole number below 2^32", small);
        let time = |column| {
            row.optional(column, "seconds, a whole number, at most a century", |f| {
                // Some lists write whole numbers with a decimal.
                f.strip_suffix(".0").unwrap_or(f).parse().ok().filter(|secs| *secs <= MAX_SECS)
            })
        };
        let mut models: Vec<String> =
            row.get("gpu_spec").unwrap_or_default().split('|').map(str::to_owned).collect();
        models.retain(|model| !model.is_empty());
        models.sort();
        pods.push(Pod {
            line: row.line,
            name: row.value("name", "the name of a pod", nonempty)?,
            cpu_milli: number("cpu_milli")?,
            memory_mib: number("memory_mib")?,
            devices: row.value("num_gpu", "a whole number of accelerators", |f| {
                f.parse().ok().filter(|n: &u32| *n as usize <= MAX_DEVICES)
            })?,
            milli: row.value("gpu_milli", "thousandths of an accelerator, 0 to 1000", |f| {
                f.parse().ok().filter(|milli| *milli <= WHOLE_MILLI)
            })?,
            models,
            qos: row.get("qos").map(str::to_owned),
            times: [time("creation_time")?, time("scheduled_time")?, time("deletion_time")?],
        });
        if pods.len() > MAX_WORK {
            return Err(CsvError::TooMany { line: row.line, most: MAX_WORK, what: "pods" });
        }
    }
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pods)
}

fn small(field: &str) -> Option<u64> {
    field.parse::<u32>().ok().map(u64::from)
}

fn nonempty(field: &str) -> Option<String> {
    (!field.is_empty()).then(|| field.to_owned())
}

/// Whether no pod asks for a model: then all accelerators are of one class.
fn is_one_class(pods: &[Pod]) -> bool {
    pods.iter().all(|pod| pod.models.is_empty())
}

fn class_of(model: &str) -> String {
    model.to_ascii_lowercase()
}

/// The nodes as workers. Each has its accelerators, and its processor and the
/// memory of its host as one device of class `cpu`. Memory of accelerators is in
/// no file and is not counted.
pub fn machines(nodes: &[Node], pods: &[Pod]) -> Vec<Machine> {
    let one = is_one_class(pods);
    let machine = |node: &Node| {
        let class = if one { ANY_CLASS.to_owned() } else { class_of(&node.model) };
        let cpu = DeviceReport {
            ordinal: 0,
            class: CPU_CLASS.to_owned(),
            memory_bytes: node.memory_mib << 20,
            milli: u32::try_from(node.cpu_milli).unwrap_or(u32::MAX),
        };
        let accelerator =
            |ordinal| DeviceReport { ordinal, class: class.clone(), memory_bytes: 0, milli: WHOLE_MILLI };
        let all = u32::try_from(node.devices).unwrap_or(u32::MAX);
        Machine {
            group: slug(PLACE),
            name: slug(&node.name),
            zone: slug(PLACE),
            pool: slug(PLACE),
            dedicated: false,
            clearance: Classification::default(),
            cordoned: false,
            at_us: 0,
            devices: (1..=all).map(accelerator).chain([cpu]).collect(),
        }
    };
    nodes.iter().map(machine).collect()
}

/// The pods as work, of a tenant for each class of service, at the times of the
/// trace: from its creation on it waits, and it runs from the time at which it
/// began until its end.
///
/// A pod that accepts several models asks for one of them, drawn by `seed` in
/// proportion to their devices. One of several accelerators asks for each by
/// itself, and one without for processor and memory. What pods with
/// accelerators need of the processor is not counted.
pub fn jobs(nodes: &[Node], pods: &[Pod], seed: u64) -> Vec<Job> {
    let one = is_one_class(pods);
    let last = pods.iter().flat_map(|pod| pod.times).flatten().max().unwrap_or(0);
    let job = |(index, pod): (u64, &Pod)| {
        let [made, began, ended] = pod.times;
        let arrival = made.or(began).unwrap_or(0);
        let began = began.unwrap_or(arrival);
        let secs = ended.unwrap_or(last).saturating_sub(began).max(1);
        let request = if pod.devices == 0 {
            ResourceRequest {
                class: CPU_CLASS.to_owned(),
                alternatives: Vec::new(),
                memory_bytes: pod.memory_mib << 20,
                milli: u32::try_from(pod.cpu_milli).unwrap_or(u32::MAX).max(1),
            }
        } else {
            let class = if one { ANY_CLASS.to_owned() } else { draw(nodes, &pod.models, seed, index) };
            ResourceRequest { class, alternatives: Vec::new(), memory_bytes: 0, milli: pod.milli.max(1) }
        };
        Job {
            line: pod.line,
            arrival_us: arrival * SECOND,
            tenant: slug(pod.qos.as_deref().unwrap_or(PLACE)),
            project: None,
            model: None,
            request,
            duration_us: secs * SECOND,
            priority: JOB_PRIORITY,
            count: pod.devices.max(1),
        }
    };
    (0..).zip(pods).map(job).collect()
}

/// One of the acceptable models, more often the more devices it has.
fn draw(nodes: &[Node], models: &[String], seed: u64, index: u64) -> String {
    let accepted = |node: &&Node| models.is_empty() || models.contains(&node.model);
    let total: u64 = nodes.iter().filter(accepted).map(|node| node.devices as u64).sum();
    let mut at = mix(seed ^ mix(index)) % total.max(1);
    for node in nodes.iter().filter(accepted) {
        if at < node.devices as u64 {
            return class_of(&node.model);
        }
        at -= node.devices as u64;
    }
    // No node has any: the planner will say so.
    class_of(models.first().map_or(ANY_CLASS, String::as_str))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A name of the trace as a short name of ours.
fn slug(name: &str) -> Slug {
    let text: String =
        name.chars().map(|c| c.to_ascii_lowercase()).filter(char::is_ascii_alphanumeric).collect();
    let text: String = text.chars().skip_while(char::is_ascii_digit).take(63).collect();
    let fallback = || "unnamed".parse().expect("it is a short name");
    // Names of nodes keep their hyphens where that is a short name already.
    name.to_ascii_lowercase().parse().or_else(|_| text.parse()).unwrap_or_else(|_| fallback())
}
