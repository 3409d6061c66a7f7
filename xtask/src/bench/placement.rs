//! `placement`: how much of a cluster the placement policy fills on an openb
//! trace, beside other policies, and how fast it decides.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Bar, Figures, Samples};
use crate::process;
use crate::project::Project;

/// Percent of the accelerators that are allocated.
const BARS: [(&str, Bar); 5] = [
    ("allocated_pct_at_100", Bar::AtLeast(96.2)),
    ("allocated_pct_at_130", Bar::AtLeast(96.3)),
    ("learned_pct_at_100", Bar::AtLeast(96.0)),
    ("learned_pct_at_130", Bar::AtLeast(96.1)),
    ("decisions_per_s", Bar::AtLeast(100_000.0)),
];

/// First and last of the seeds.
#[derive(Clone, Copy)]
pub struct Seeds(u32, u32);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seeds = text.split_once("..").and_then(|(first, last)| {
            let seeds = Self(first.parse().ok()?, last.parse().ok()?);
            (seeds.0 <= seeds.1).then_some(seeds)
        });
        seeds.ok_or_else(|| format!("{text} is not FIRST..LAST: give e.g. 42..51, the last included"))
    }
}

/// `nodes` and `pods` are files of the trace.
pub fn run(project: &Project, nodes: &Path, pods: &Path, seeds: Seeds) -> Result<(u32, Figures)> {
    let Seeds(first, last) = seeds;
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--release", "--locked", "--package", "domain"]);
    command
        .args(["--example", "placement", "--"])
        .args([nodes, pods].map(|path| project.called_from.join(path)));
    let printed = process::output(command.args([first, last].map(|seed| seed.to_string())))?;
    let found: BTreeMap<String, Vec<f64>> =
        serde_json::from_str(&printed).context("the example prints figures")?;
    let mut figures = Figures::default();
    for (name, values) in found {
        let unit = if name.contains("_pct") {
            "%"
        } else if name.starts_with("us_") {
            "µs"
        } else {
            "1/s"
        };
        let bar = BARS.iter().find(|(with_bar, _)| *with_bar == name).map(|(_, bar)| *bar);
        let mut samples = Samples::default();
        values.into_iter().for_each(|value| samples.add(value));
        figures.add_mean(name, unit, &samples, bar);
    }
    Ok((last - first + 1, figures))
}

#[cfg(test)]
mod tests {
    use super::Seeds;

    #[test]
    fn seeds_are_a_range_with_its_end() {
        let Ok(Seeds(42, 51)) = "42..51".parse() else { panic!("42..51 is a range") };
        for text in ["42", "42..", "51..42", "a..b", "1..2..3"] {
            assert!(text.parse::<Seeds>().is_err(), "{text}");
        }
    }
}
