//! How much of a cluster the placement policy fills on an openb trace, beside
//! two others, and how fast. `cargo xtask bench placement` runs it and shows
//! what it prints: a JSON object with the values of each figure, one a seed.
//!
//! Arguments: NODES.csv PODS.csv FIRST_SEED LAST_SEED

mod rivals;
mod runs;
mod trace;

use std::collections::BTreeMap;
use std::error::Error;

use rivals::Policy;
use runs::{Knowledge, Trial};
use trace::Trace;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, pods, first, last] = arguments.as_slice() else {
        return Err("give NODES.csv PODS.csv FIRST_SEED LAST_SEED".into());
    };
    let trace = Trace::read(nodes, pods)?;
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |name: String, value: f64| figures.entry(name).or_default().push(value);
    for seed in first.parse::<u64>()?..=last.parse::<u64>()? {
        let trial = Trial::new(&trace, seed);
        let known = trial.fill(Knowledge::Known);
        let learned = trial.fill(Knowledge::Learned);
        for (name, run) in [("allocated", &known), ("learned", &learned)] {
            for (arrived, allocated) in &run.allocated_pct {
                add(format!("{name}_pct_at_{arrived}"), *allocated);
            }
        }
        add("decisions_per_s".to_owned(), known.decisions_per_s);
        add("learning_decisions_per_s".to_owned(), learned.decisions_per_s);
        add("refused_pct_steady_chancery".to_owned(), trial.steady());
        for policy in Policy::ALL {
            for (arrived, allocated) in trial.fill_by(policy) {
                add(format!("{}_pct_at_{arrived}", policy.name()), allocated);
            }
            add(format!("refused_pct_steady_{}", policy.name()), trial.steady_by(policy));
        }
    }
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
