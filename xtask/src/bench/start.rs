//! `start`: how soon a prompt can be answered, on a new folder and on a used
//! one, and what each process keeps in memory when nobody asks.

use std::collections::BTreeMap;

use anyhow::Result;

use super::memory;
use super::system::{DataDir, System};
use super::{Bar, Figures, Samples};
use crate::up::Inputs;

const RUNS: u32 = 3;

const MODEL: &str = "smollm2";
const PROMPT: &str = "Name three rivers.";
const MAX_TOKENS: u32 = 16;

/// Seconds within which a used folder is ready.
const WARM_START_BAR: Bar = Bar::AtMost(10.0);

/// MB of each process that holds no model.
const MEMORY_BAR: Bar = Bar::AtMost(60.0);

/// Roles of processes, their figures, and what they should reach.
const ROLES: [(&str, &str, Option<Bar>); 6] = [
    ("up", "memory_up", None),
    ("api", "memory_api", Some(MEMORY_BAR)),
    ("scheduler", "memory_scheduler", Some(MEMORY_BAR)),
    ("worker", "memory_worker", Some(MEMORY_BAR)),
    ("engine", "memory_engine", None),
    ("postgres", "memory_postgres", None),
];

pub fn run(inputs: &Inputs, runs: Option<u32>) -> Result<(u32, Figures)> {
    let runs = runs.unwrap_or(RUNS);
    let (mut cold, mut warm, mut first, mut stop) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let mut resting: BTreeMap<String, Samples> = BTreeMap::new();
    for run in 1..=runs {
        println!("run {run} of {runs}");
        let data_dir = DataDir::new()?;
        let system = System::start(inputs, &data_dir.path())?;
        cold.add(system.start_took.as_secs_f64());
        first.add(system.client.chat(MODEL, PROMPT, MAX_TOKENS)?.first.as_secs_f64() * 1000.0);
        stop.add(system.stop()?.as_secs_f64());

        let system = System::start(inputs, &data_dir.path())?;
        warm.add(system.start_took.as_secs_f64());
        for (role, megabytes) in memory::by_role(system.pid()) {
            resting.entry(role).or_default().add(megabytes);
        }
        stop.add(system.stop()?.as_secs_f64());
    }
    let mut figures = Figures::default();
    figures.add("cold_start", "s", &cold, None);
    figures.add("warm_start", "s", &warm, Some(WARM_START_BAR));
    figures.add("cold_first_token", "ms", &first, None);
    figures.add("stop", "s", &stop, None);
    for (role, name, bar) in ROLES {
        if let Some(samples) = resting.get(role) {
            figures.add(name, "MB", samples, bar);
        }
    }
    Ok((runs, figures))
}
