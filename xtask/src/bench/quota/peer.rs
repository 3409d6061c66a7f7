//! Kueue beside us: the figures of its runner's summary, and what they are by ours.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// How ratios begin: Kueue's figure divided by ours, and usage the other way, so
/// that more is better for us.
pub const RATIO: &str = "ratio_";
pub const ADMISSION_RATIO: &str = "ratio_mean_admission_";

/// A figure for each class of queues and of workloads: `class`, `key`, value.
type Entries<'a> = Vec<(&'a str, &'a str, f64)>;

/// By our names. Of several classes of queues, usage is that of all together.
pub fn figures(summary: &str) -> Result<BTreeMap<String, f64>> {
    let queues = entries(summary, "clusterQueueClasses");
    let sum = |key: &str| queues.iter().filter(|(_, found, _)| *found == key).map(|(.., value)| value).sum();
    let (used, average): (f64, f64) = (sum("cpuUsed"), sum("cpuAverageUsage"));
    let nominal: f64 = sum("nominalQuota");
    ensure!(average > 0.0 && nominal > 0.0, "Kueue's runner saw no queue in use:\n{summary}");
    let mut figures = BTreeMap::new();
    // The average is what was used by the milliseconds from its first to its
    // last event.
    figures.insert("wall_s".to_owned(), used / average / 1000.0);
    figures.insert("usage_pct".to_owned(), 100.0 * average / nominal);
    let mut evicted = 0.0;
    for (class, key, value) in entries(summary, "workloadClasses") {
        match key {
            "averageTimeToAdmissionMs" => {
                figures.insert(format!("mean_admission_s_{class}"), value / 1000.0);
            }
            "totalEvictions" => evicted += value,
            _ => {}
        }
    }
    figures.insert("evicted".to_owned(), evicted);
    Ok(figures)
}

pub fn ratios(ours: &BTreeMap<String, f64>, theirs: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut ratios = BTreeMap::new();
    for (name, theirs) in theirs {
        let Some(ours) = ours.get(name) else { continue };
        let ratio = match name.as_str() {
            "evicted" => continue,
            "usage_pct" => ours / theirs,
            _ => theirs / ours,
        };
        ratios.insert(format!("{RATIO}{name}"), ratio);
    }
    ratios
}

/// The numbers below a key of the summary, which is YAML of two levels of maps.
fn entries<'a>(summary: &'a str, section: &str) -> Entries<'a> {
    let mut within = false;
    let mut class = "";
    let mut entries = Vec::new();
    for line in summary.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, value)) = line.trim().split_once(':') else { continue };
        match (indent, value.trim()) {
            (0, _) => within = key == section,
            (_, "") => class = key,
            (_, value) if within => entries.extend(value.parse().ok().map(|value| (class, key, value))),
            _ => {}
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::{figures, ratios};

    const SUMMARY: &str = "\
clusterQueueClasses:
  cq:
    cpuAverageUsage: 330000
    cpuUsed: 125070000000
    firstEventTime: \"2026-11-25T15:00:00Z\"
    nominalQuota: 600000
droppedWorkloadEvents: 0
workloadClasses:
  large:
    averageTimeToAdmissionMs: 11000
    count: 1500
    totalEvictions: 3
  small:
    averageTimeToAdmissionMs: 228500
    totalEvictions: 4
";

    #[test]
    fn a_summary_is_read_by_our_names() {
        let Ok(found) = figures(SUMMARY) else { panic!("the summary is complete") };
        assert_eq!(found["wall_s"], 379.0);
        assert_eq!(found["usage_pct"], 55.0);
        assert_eq!(found["mean_admission_s_large"], 11.0);
        assert_eq!(found["mean_admission_s_small"], 228.5);
        assert_eq!(found["evicted"], 7.0);
        assert!(figures("droppedWorkloadEvents: 0").is_err());
    }

    #[test]
    fn ratios_are_better_when_larger() {
        let Ok(theirs) = figures(SUMMARY) else { panic!("the summary is complete") };
        let mut ours = theirs.clone();
        ours.insert("wall_s".to_owned(), 37.9);
        ours.insert("usage_pct".to_owned(), 88.0);
        let ratios = ratios(&ours, &theirs);
        assert_eq!((ratios["ratio_wall_s"], ratios["ratio_usage_pct"]), (10.0, 1.6));
    }
}
