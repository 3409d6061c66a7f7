//! The files of a simulation, and their digests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use domain::simulate::{ClusterSpec, Job, Machine, Scenario, WhatIfSpec, jobs, openb};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::SimulateOptions;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// A file that was read.
pub struct Read {
    /// What it is to the simulation.
    pub role: &'static str,
    /// Its name, without the folder.
    pub name: String,
    /// Digest of its content.
    pub sha256: String,
}

/// What is played, on what.
pub struct Inputs {
    pub files: Vec<Read>,
    pub jobs: Vec<Job>,
    pub cluster: ClusterSpec,
    pub machines: Vec<Machine>,
    pub changes: Vec<(String, WhatIfSpec)>,
    /// Pods of several accelerators.
    pub split: usize,
}

impl Inputs {
    pub fn read(options: &SimulateOptions) -> Result<Self> {
        let mut new = Self {
            files: Vec::new(),
            jobs: Vec::new(),
            cluster: ClusterSpec::default(),
            machines: Vec::new(),
            changes: Vec::new(),
            split: 0,
        };
        if let Some(path) = &options.trace {
            let text = new.text("trace", path)?;
            new.jobs = at(path, jobs::read(&text))?;
        }
        if let (Some(nodes), Some(pods)) = (&options.openb_nodes, &options.openb_pods) {
            let pods_text = new.text("trace", pods)?;
            let nodes_text = new.text("nodes", nodes)?;
            let (nodes, pods) = (at(nodes, openb::nodes(&nodes_text))?, at(pods, openb::pods(&pods_text))?);
            new.machines = openb::machines(&nodes, &pods);
            new.jobs = openb::jobs(&nodes, &pods, options.seed);
            new.split = pods.iter().filter(|pod| pod.devices > 1).count();
        }
        if let Some(path) = &options.cluster {
            new.cluster = new.toml("cluster", path)?;
        }
        for path in &options.what_if {
            let change: WhatIfSpec = new.toml("what-if", path)?;
            if change.name == "base" || new.changes.iter().any(|(_, other)| other.name == change.name) {
                bail!("{}: the name {:?} is taken: give each change its own", path.display(), change.name);
            }
            new.changes.push((path.display().to_string(), change));
        }
        Ok(new)
    }

    /// The name of the file with the work.
    pub fn trace_name(&self) -> &str {
        self.files.first().map_or("the trace", |file| &file.name)
    }

    /// The fleet, checked.
    pub fn scenario(&self, change: Option<(&String, &WhatIfSpec)>) -> Result<Scenario> {
        let whose = || match change {
            Some((file, _)) => file.clone(),
            None => self
                .files
                .iter()
                .find(|file| file.role == "cluster")
                .map_or_else(|| self.trace_name().to_owned(), |file| file.name.clone()),
        };
        Scenario::new(&self.cluster, self.machines.clone(), change.map(|(_, spec)| spec), &self.jobs)
            .map_err(|error| anyhow!("{}: {error}", whose()))
    }

    fn text(&mut self, role: &'static str, path: &Path) -> Result<String> {
        let cannot = || format!("cannot read {}", path.display());
        if fs::metadata(path).with_context(cannot)?.len() > MAX_FILE_BYTES {
            bail!("{} is larger than {} MiB: split it", path.display(), MAX_FILE_BYTES >> 20);
        }
        let bytes = fs::read(path).with_context(cannot)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.files.push(Read { role, name, sha256: hex::encode(Sha256::digest(&bytes)) });
        String::from_utf8(bytes).map_err(|_| anyhow!("{} is not text in UTF-8", path.display()))
    }

    fn toml<T: DeserializeOwned>(&mut self, role: &'static str, path: &Path) -> Result<T> {
        let text = self.text(role, path)?;
        toml::from_str(&text).map_err(|error| anyhow!("{}: {}", path.display(), error.to_string().trim_end()))
    }
}

fn at<T>(path: &Path, read: Result<T, domain::simulate::CsvError>) -> Result<T> {
    read.map_err(|error| anyhow!("{} {error}", path.display()))
}
