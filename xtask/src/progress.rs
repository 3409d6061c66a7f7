//! What somebody who waits sees: a line for each thing that is being made
//! ready, moving where there is a terminal.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cache::disk_usage;
use crate::process::tail;

const REDRAW: Duration = Duration::from_millis(100);

/// Faster than this is not worth telling how long it took.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// One thing being made ready.
pub struct Line {
    name: &'static str,
    started: Instant,
    bar: ProgressBar,
}

impl Line {
    pub fn start(name: &'static str) -> Self {
        let style = ProgressStyle::with_template("{prefix:<14}{spinner} {wide_msg} {elapsed}")
            .expect("a valid template");
        let bar = ProgressBar::new_spinner().with_style(style).with_prefix(name);
        bar.enable_steady_tick(REDRAW);
        Self { name, started: Instant::now(), bar }
    }

    /// What is being done now.
    pub fn says(&self, message: &str) {
        self.bar.set_message(message.to_owned());
        if self.bar.is_hidden() {
            println!("{:<14}{message}", self.name);
        }
    }

    /// Gives the terminal to a program that draws its own progress.
    pub fn hand_over(&self) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// Done: one line stays.
    pub fn done(self, result: &str) {
        self.bar.finish_and_clear();
        let took = self.started.elapsed();
        if took < WORTH_TELLING {
            println!("{:<14}{result}", self.name);
        } else {
            println!("{:<14}{result} ({})", self.name, HumanDuration(took));
        }
    }

    /// Runs a program that writes about `total` bytes below `dir`.
    pub fn download(&self, command: &mut Command, dir: &Path, total: u64) -> Result<()> {
        let style =
            ProgressStyle::with_template("{prefix:<14}{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
                .expect("a valid template");
        self.bar.set_length(total);
        self.bar.set_style(style);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        while running(&mut child)? {
            self.bar.set_position(disk_usage(dir).min(total));
            thread::sleep(REDRAW);
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", tail(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat())));
        }
        Ok(())
    }
}

fn running(child: &mut Child) -> Result<bool> {
    Ok(child.try_wait()?.is_none())
}
