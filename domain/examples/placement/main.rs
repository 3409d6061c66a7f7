//! How much of a cluster the placement policy fills on an openb trace, beside
//! two others, and how fast. `cargo xtask bench placement` runs it and shows
//! what it prints: a JSON object with the values of each figure, one a seed.
//!
//! Arguments: NODES.csv PODS.csv FIRST_SEED LAST_SEED

mod growth;
mod rivals;
mod runs;
mod trace;

use std::collections::BTreeMap;
use std::error::Error;

use domain::placing::Weights;
use rivals::Policy;
use runs::{Knowledge, STEADY_LOADS_PCT, Trial};
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
        let known = trial.fill(Knowledge::Known, Weights::default());
        let learned = trial.fill(Knowledge::Learned, Weights::default());
        for (name, run) in [("allocated", &known), ("learned", &learned)] {
            for (arrived, allocated) in &run.allocated_pct {
                add(format!("{name}_pct_at_{arrived}"), *allocated);
            }
        }
        add("decisions_per_s".to_owned(), known.decisions_per_s);
        add("learning_decisions_per_s".to_owned(), learned.decisions_per_s);
        for (name, weights) in without_each() {
            for (arrived, allocated) in trial.fill(Knowledge::Known, weights).allocated_pct {
                add(format!("without_{name}_pct_at_{arrived}"), allocated);
            }
        }
        for load_pct in STEADY_LOADS_PCT {
            add(refused("chancery", load_pct), trial.steady(load_pct));
            for policy in Policy::ALL {
                add(refused(policy.name(), load_pct), trial.steady_by(policy, load_pct));
            }
        }
        for policy in Policy::ALL {
            for (arrived, allocated) in trial.fill_by(policy) {
                add(format!("{}_pct_at_{arrived}", policy.name()), allocated);
            }
        }
        for workers in growth::WORKERS {
            add(format!("us_per_decision_at_{workers}"), growth::us_per_decision(&trace, workers, seed));
        }
    }
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// At the first of the loads the figure has the plain name.
fn refused(policy: &str, load_pct: u32) -> String {
    if load_pct == STEADY_LOADS_PCT[0] {
        format!("refused_pct_steady_{policy}")
    } else {
        format!("refused_pct_steady_at_{load_pct}_{policy}")
    }
}

/// The weights with one of them left out, by the name of that one.
fn without_each() -> [(&'static str, Weights); 4] {
    let all = Weights::default();
    [
        ("gap", Weights { gap: 0.0, ..all }),
        ("opens", Weights { opens: 0.0, ..all }),
        ("scarcity", Weights { scarcity: 0.0, ..all }),
        // Steps too small to make anything equal.
        ("indifference", Weights { indifference: 1e-6, ..all }),
    ]
}
