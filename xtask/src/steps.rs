//! Named steps that all run, whatever the others say, and a summary of them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How a step ended, if it did not fail.
pub enum Outcome {
    Passed,
    /// Not applicable here, and why.
    Skipped(String),
}

/// What ran so far.
#[derive(Default)]
pub struct Steps {
    done: Vec<(&'static str, Duration, Result<Outcome, String>)>,
}

impl Steps {
    /// Runs one step; a failure is remembered and shown, not returned.
    pub fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<Outcome>) -> bool {
        println!("\n==> {name}");
        let started = Instant::now();
        let result = step().map_err(|error| format!("{error:#}"));
        let took = started.elapsed();
        match &result {
            Ok(Outcome::Passed) => println!("<== {name}: ok, {:.1} s", took.as_secs_f64()),
            Ok(Outcome::Skipped(why)) => println!("<== {name}: skipped, {why}"),
            Err(error) => println!("{error}\n<== {name}: FAILED, {:.1} s", took.as_secs_f64()),
        }
        let passed = result.is_ok();
        self.done.push((name, took, result));
        passed
    }

    /// Prints every step with its time; an error if any failed.
    pub fn finish(self) -> Result<()> {
        println!("\nSummary");
        for (name, took, result) in &self.done {
            let result = match result {
                Ok(Outcome::Passed) => "ok",
                Ok(Outcome::Skipped(_)) => "skipped",
                Err(_) => "FAILED",
            };
            println!("  {name:<20} {result:<8} {:>7.1} s", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("  {:<20} {:<8} {:>7.1} s", "together", "", total.as_secs_f64());
        let failed: Vec<_> =
            self.done.iter().filter(|(.., result)| result.is_err()).map(|(name, ..)| *name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
