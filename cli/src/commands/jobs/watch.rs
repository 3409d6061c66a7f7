//! Watching a job: a progress bar, and patience while the server restarts.

use std::time::{Duration, Instant};

use anyhow::Result;
use domain::JobId;
use domain::jobs::{Job, JobState};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
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
    shown: Option<Instant>,
    last_line: String,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} lines  {per_sec}  {eta} left  {msg}");
        bar.set_style(style.expect("a constant template"));
        Self { bar, shown: None, last_line: String::new() }
    }

    fn show(&mut self, job: &Job) {
        let counts = job.lines;
        let done = counts.completed + counts.failed;
        let what = words(job);
        if self.bar.length() != Some(counts.total) {
            self.bar.set_length(counts.total);
            // Rate and time left count from what was done before we looked.
            self.bar.set_position(done);
            self.bar.reset_eta();
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

/// What is worth saying beside the count.
fn words(job: &Job) -> String {
    let mut words = Vec::new();
    if job.lines.failed > 0 {
        words.push(format!("{} failed", job.lines.failed));
    }
    match job.state {
        JobState::InProgress => words.extend(waits(job)),
        JobState::Completed => {}
        state => words.push(state.as_str().to_owned()),
    }
    words.join(", ")
}

/// Why it waits and at which place, if it does.
pub fn waits(job: &Job) -> Option<String> {
    let reason = job.reason.as_ref()?;
    Some(match job.position {
        Some(position) if position > 1 => format!("{reason} (place {position})"),
        _ => reason.clone(),
    })
}
