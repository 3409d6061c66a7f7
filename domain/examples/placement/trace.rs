//! The openb CSV files, and streams of pods drawn from them.

use std::error::Error;
use std::fs;

use domain::placing::{Ask, Device, Needs, Worker};

/// A whole device.
pub const WHOLE: u32 = 1000;

#[derive(Clone, Debug)]
pub struct Node {
    pub model: String,
    pub cpu_milli: u64,
    pub memory_mib: u64,
    pub devices: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    pub cpu_milli: u64,
    pub memory_mib: u64,
    pub devices: u32,
    pub milli: u32,
    /// Acceptable models; empty for any.
    pub models: Vec<String>,
}

impl Pod {
    /// Thousandths over all its devices.
    pub fn total_milli(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.milli)
    }

    pub fn is_fractional(&self) -> bool {
        self.devices == 1 && self.milli < WHOLE
    }

    pub fn ask(&self) -> Ask {
        let needs = Needs {
            devices: self.devices,
            milli: self.milli,
            memory_bytes: 0,
            cpu_milli: self.cpu_milli,
            host_memory_bytes: self.memory_mib << 20,
            classes: self.models.clone(),
        };
        Ask { needs, ..Ask::default() }
    }
}

impl Node {
    pub fn worker(&self) -> Worker {
        let device = Device { free_milli: WHOLE, milli: WHOLE, ..Device::default() };
        Worker {
            class: self.model.clone(),
            free_cpu_milli: self.cpu_milli,
            cpu_milli: self.cpu_milli,
            free_host_memory_bytes: self.memory_mib << 20,
            host_memory_bytes: self.memory_mib << 20,
            devices: vec![device; self.devices],
            ..Worker::default()
        }
    }
}

pub struct Trace {
    /// By name.
    pub nodes: Vec<Node>,
    /// By name.
    pub pods: Vec<Pod>,
}

impl Trace {
    pub fn read(nodes: &str, pods: &str) -> Result<Self, Box<dyn Error>> {
        let nodes = rows(nodes, ["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
        let pods = rows(pods, ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"])?;
        let node = |[_, cpu, memory, devices, model]: &[String; 5]| -> Result<Node, Box<dyn Error>> {
            Ok(Node {
                model: model.clone(),
                cpu_milli: cpu.parse()?,
                memory_mib: memory.parse()?,
                devices: devices.parse()?,
            })
        };
        let pod = |[_, cpu, memory, devices, milli, models]: &[String; 6]| -> Result<Pod, Box<dyn Error>> {
            let mut models: Vec<String> =
                models.split('|').filter(|model| !model.is_empty()).map(str::to_owned).collect();
            models.sort();
            Ok(Pod {
                cpu_milli: cpu.parse()?,
                memory_mib: memory.parse()?,
                devices: devices.parse()?,
                milli: milli.parse()?,
                models,
            })
        };
        Ok(Self {
            nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
            pods: pods.iter().map(pod).collect::<Result<_, _>>()?,
        })
    }

    /// The nodes in an order that depends on nothing but the seed.
    pub fn shuffled_nodes(&self, seed: u64) -> Vec<&Node> {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        Random::new(seed).shuffle(&mut nodes);
        nodes
    }

    /// What a pod asks for on average, in thousandths of a device.
    #[expect(clippy::cast_precision_loss, reason = "some million thousandths")]
    pub fn mean_pod_milli(&self) -> f64 {
        let asked: u64 = self.pods.iter().map(Pod::total_milli).sum();
        asked as f64 / self.pods.len() as f64
    }

    /// All devices, in thousandths.
    pub fn capacity_milli(&self) -> u64 {
        self.nodes.iter().map(|node| node.devices as u64 * u64::from(WHOLE)).sum()
    }
}

/// The named columns of a CSV file, sorted by the first.
fn rows<const N: usize>(path: &str, columns: [&str; N]) -> Result<Vec<[String; N]>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().ok_or("the file is empty")?.split(',').collect();
    let mut places = [0; N];
    for (place, column) in places.iter_mut().zip(columns) {
        let found = header.iter().position(|name| *name == column);
        *place = found.ok_or_else(|| format!("{path} has no column {column}"))?;
    }
    let mut rows: Vec<[String; N]> = lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            places.map(|place| fields.get(place).copied().unwrap_or_default().to_owned())
        })
        .collect();
    rows.sort();
    Ok(rows)
}

/// SplitMix64 (Steele, Lea, Flood, 2014): small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from((u128::from(self.next()) * n as u128) >> 64).expect("it is below a usize")
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Exponential, with mean 1.
    pub fn exponential(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let uniform = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -uniform.ln()
    }
}
