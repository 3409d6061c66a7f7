//! Watching a job: a progress bar, and patience while the server restarts.

use std::time::{Duration, Instant};

use anyhow::Result;
use domain::JobId;
use domain::jobs::{Job, JobState};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::fetch;
use crate::client::{failure, upload};
use crate::commands::{Call, note};
use crate::output;

/// How often the job is asked for.
const POLL: Duration = Duration::from_millis(500);
/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long the server may be away.
const AWAY_LIMIT: Duration = Duration::from_secs(600);

/// The job when it is over, `None` after Ctrl-C.
pub async fn until_final(at: &Call, id: JobId) -> Result<Option<Value>> {
    tokio::select! {
        job = watch(at, id) => job.map(Some),
        _ = tokio::signal::ctrl_c() => Ok(None),
    }
}

async fn watch(at: &Call, id: JobId) -> Result<Value> {
    let mut progress = Progress::new();
    let mut away: Option<Instant> = None;
    loop {
        match fetch(at, id).await {
            Ok(raw) => {
                if away.take().is_some() {
                    progress.say("The server is back");
                }
                let job: Job = output::parse(raw.clone())?;
                progress.show(&job);
                if job.state.is_final() {
                    progress.end();
                    return Ok(raw);
                }
            }
            Err(error) if failure::is_passing(&error) => {
                let since = *away.get_or_insert_with(|| {
                    progress.say(&format!("{error}; waiting for it, the job is kept"));
                    Instant::now()
                });
                if since.elapsed() > AWAY_LIMIT {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A bar on a terminal, now and then a line elsewhere.
struct Progress {
    bar: ProgressBar,
    /// When we began to look, and the lines that were done then.
    first: Option<(Instant, u64)>,
    shown: Option<Instant>,
    last_line: String,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} lines  {msg}");
        bar.set_style(style.expect("a constant template"));
        Self { bar, first: None, shown: None, last_line: String::new() }
    }

    fn show(&mut self, job: &Job) {
        let counts = job.lines;
        let done = counts.completed + counts.failed;
        let (since, before) = *self.first.get_or_insert_with(|| (Instant::now(), done));
        let mut what = words(job);
        if !job.state.is_final() {
            what.extend(pace(done - before.min(done), counts.total - done, since.elapsed()));
        }
        let what = what.join(", ");
        if self.bar.length() != Some(counts.total) {
            self.bar.set_length(counts.total);
            self.bar.set_draw_target(upload::target());
        }
        self.bar.set_position(done);
        self.bar.set_message(what.clone());
        self.bar.tick();
        if self.bar.is_hidden() && self.shown.is_none_or(|at| at.elapsed() > LINE_EVERY) {
            let line = format!("{done}/{} lines  {what}", counts.total).trim_end().to_owned();
            if line != self.last_line {
                note(&line);
                self.last_line = line;
            }
            self.shown = Some(Instant::now());
        }
    }

    fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            note(line);
        } else {
            self.bar.println(line);
        }
    }

    fn end(&self) {
        self.bar.abandon();
    }
}

/// Lines a second and the time left, over all that was seen: results come in
/// chunks, so the last moments tell little.
fn pace(seen: u64, left: u64, elapsed: Duration) -> Option<String> {
    if seen == 0 || elapsed < Duration::from_secs(1) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let rate = seen as f64 / elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let left = Duration::from_secs_f64(left as f64 / rate);
    let rate =
        if rate < 1.0 { format!("{:.1} lines/min", rate * 60.0) } else { format!("{rate:.1} lines/s") };
    Some(format!("{rate}, {} left", HumanDuration(left)))
}

/// What is worth saying beside the count.
fn words(job: &Job) -> Vec<String> {
    let mut words = Vec::new();
    if job.lines.failed > 0 {
        words.push(format!("{} failed", job.lines.failed));
    }
    match job.state {
        JobState::InProgress => words.extend(waits(job)),
        JobState::Completed => {}
        state => words.push(state.as_str().to_owned()),
    }
    words
}

/// Why it waits and at which place, if it does.
pub fn waits(job: &Job) -> Option<String> {
    let reason = job.reason.as_ref()?;
    Some(match job.position {
        Some(position) if position > 1 => format!("{reason} (place {position})"),
        _ => reason.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_over_all_that_was_seen() {
        assert_eq!(pace(0, 9, Duration::from_secs(9)), None);
        assert_eq!(pace(8, 12, Duration::from_secs(120)).unwrap(), "4.0 lines/min, 3 minutes left");
        assert_eq!(pace(40, 40, Duration::from_secs(20)).unwrap(), "2.0 lines/s, 20 seconds left");
    }
}
