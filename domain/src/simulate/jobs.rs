//! Traces in our own format: a CSV file, one line for each piece of work or for
//! several that are alike.

use super::csv::{self, CsvError, seconds};
use super::{MAX_WORK, Micros};
use crate::accelerators::ResourceRequest;
use crate::quotas::MAX_OPTIONS;
use crate::tenants::Slug;
use crate::workloads::{JOB_PRIORITY, PRIORITIES};

/// Columns that must be there.
pub const REQUIRED: [&str; 5] = ["arrival_secs", "tenant", "class", "milli", "duration_secs"];
/// Columns that may be there.
pub const OPTIONAL: [&str; 5] = ["project", "model", "memory_bytes", "priority", "count"];

/// Longest name of a class or a model.
const MAX_NAME: usize = 128;

/// Work of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where it is in its file.
    pub line: usize,
    /// When it arrives, in microseconds since the beginning.
    pub arrival_us: Micros,
    /// Whose it is.
    pub tenant: Slug,
    /// Of which project.
    pub project: Option<Slug>,
    /// What it has in memory; work of one model comes together.
    pub model: Option<String>,
    /// What each piece asks of one device.
    pub request: ResourceRequest,
    /// How long each runs, in microseconds; more than 0.
    pub duration_us: Micros,
    /// Higher goes first.
    pub priority: i32,
    /// How many pieces, each of which is placed by itself; at least 1.
    pub count: u32,
}

/// Whether one may be chosen of these.
fn is_a_choice(classes: &[String]) -> bool {
    let twice = classes.iter().enumerate().any(|(n, class)| classes[..n].contains(class));
    (1..=MAX_OPTIONS).contains(&classes.len()) && !twice
}

/// Reads a trace; its lines may be in any order.
pub fn read(text: &str) -> Result<Vec<Job>, CsvError> {
    let header = csv::header(text, &REQUIRED, &OPTIONAL, true)?;
    let mut jobs = Vec::new();
    let mut pieces = 0;
    for row in header.rows(text) {
        let row = row?;
        let name = "a short name of a-z, 0-9 and -, which begins with a letter";
        let secs = "seconds such as 90 or 0.5, at most a century";
        let text = |field: &str| (field.chars().count() <= MAX_NAME).then(|| field.to_owned());
        let priorities = format!("a number from {} to {}", PRIORITIES.start(), PRIORITIES.end());
        let class = |field: &str| Some(field).filter(|field| !field.is_empty()).and_then(text);
        let classes = |field: &str| field.split('|').map(class).collect::<Option<Vec<_>>>();
        let mut classes = row.value(
            "class",
            "an accelerator class, or several that will do with | between them, the preferred first",
            |field| classes(field).filter(|classes| is_a_choice(classes)),
        )?;
        let alternatives = classes.split_off(1);
        let request = ResourceRequest {
            class: classes.remove(0),
            alternatives,
            memory_bytes: row
                .optional("memory_bytes", "a whole number of bytes", |f| f.parse().ok())?
                .unwrap_or(0),
            milli: row.value(
                "milli",
                "thousandths of one device, a whole number from 1; several devices of one worker cannot be asked for",
                |f| f.parse().ok().filter(|milli| *milli > 0),
            )?,
        };
        let job = Job {
            line: row.line,
            arrival_us: row.value("arrival_secs", secs, seconds)?,
            tenant: row.value("tenant", name, |f| f.parse().ok())?,
            project: row.optional("project", name, |f| f.parse().ok())?,
            model: row.optional("model", "a name of at most 128 characters", text)?,
            request,
            duration_us: row.value("duration_secs", "seconds, more than 0, such as 90 or 0.5", |f| {
                seconds(f).filter(|us| *us > 0)
            })?,
            priority: row
                .optional("priority", &priorities, |f| f.parse().ok().filter(|p| PRIORITIES.contains(p)))?
                .unwrap_or(JOB_PRIORITY),
            count: row
                .optional("count", "a whole number from 1", |f| f.parse().ok().filter(|n| *n > 0))?
                .unwrap_or(1),
        };
        pieces += job.count as usize;
        if pieces > MAX_WORK {
            return Err(CsvError::TooMany { line: row.line, most: MAX_WORK, what: "pieces of work" });
        }
        jobs.push(job);
    }
    Ok(jobs)
}
