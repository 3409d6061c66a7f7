//! The loads of Kueue's performance test, as it describes them.

use domain::quotas::Amount;

#[derive(Clone, Debug, Default)]
pub struct Cohorts {
    pub count: u64,
    pub queues: Vec<Queues>,
}

#[derive(Clone, Debug, Default)]
pub struct Queues {
    pub count: u64,
    pub nominal: Amount,
    pub borrowing: Amount,
    pub reclaim: String,
    pub within: String,
    pub sets: Vec<Set>,
}

#[derive(Clone, Debug, Default)]
pub struct Set {
    pub count: u64,
    pub interval_ms: u64,
    pub class: String,
    pub runtime_ms: u64,
    pub priority: i32,
    pub request: Amount,
}

/// Reads what generators contain of YAML: lists of maps of numbers and words.
pub fn parse(text: &str) -> Vec<Cohorts> {
    let mut cohorts: Vec<Cohorts> = Vec::new();
    let mut within = "";
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let begins = line.starts_with("- ");
        let Some((key, value)) = line.trim_start_matches("- ").split_once(':') else { continue };
        let value = value.trim();
        let number = || value.parse().unwrap_or_else(|_| panic!("{key}: {value:?} is no number"));
        if value.is_empty() {
            within = ["cohorts", "queuesSets", "workloadsSets", "workloads"]
                .into_iter()
                .find(|k| *k == key)
                .unwrap_or_else(|| panic!("{key:?} is not known"));
            continue;
        }
        match (within, begins) {
            ("cohorts", true) => cohorts.push(Cohorts::default()),
            ("queuesSets", true) => cohorts.last_mut().expect("in a cohort").queues.push(Queues::default()),
            // A list of workloads ends where the next set begins.
            ("workloads", true) if key == "count" => within = "workloadsSets",
            _ => {}
        }
        let cohort = cohorts.last_mut().expect("in a cohort");
        if within == "cohorts" {
            if key == "count" {
                cohort.count = number();
            }
            continue;
        }
        let queues = cohort.queues.last_mut().expect("in a set of queues");
        if within == "workloadsSets" && begins {
            queues.sets.push(Set::default());
        }
        match (within, key) {
            ("queuesSets", "count") => queues.count = number(),
            ("queuesSets", "nominalQuota") => queues.nominal = number() as Amount,
            ("queuesSets", "borrowingLimit") => queues.borrowing = number() as Amount,
            ("queuesSets", "reclaimWithinCohort") => queues.reclaim = value.to_owned(),
            ("queuesSets", "withinClusterQueue") => queues.within = value.to_owned(),
            ("queuesSets", _) => {}
            (_, key) => {
                let set = queues.sets.last_mut().expect("in a set of workloads");
                match key {
                    "count" => set.count = number(),
                    "creationIntervalMs" => set.interval_ms = number(),
                    "className" => set.class = value.to_owned(),
                    "runtimeMs" => set.runtime_ms = number(),
                    "priority" => set.priority = number() as i32,
                    "request" => set.request = number() as Amount,
                    _ => panic!("{key:?} is not known"),
                }
            }
        }
    }
    cohorts
}
