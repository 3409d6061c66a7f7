//! `prompt`: what the way through gateway, ledger and worker adds to a bare
//! engine. The same prompts go to both by turns, so that whatever else the
//! machine does meets both.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::client::Timing;
use super::memory;
use super::system::{DataDir, System};
use super::{Figures, Samples};
use crate::up::Inputs;

const RUNS: u32 = 20;
const WARM_UP_RUNS: u32 = 2;

const MODEL: &str = "smollm2";
const MAX_TOKENS: u32 = 64;
const PROMPTS: [&str; 5] = [
    "Name three rivers.",
    "Explain in two sentences what a court of audit does.",
    "Write a short letter that asks a neighbour to turn down the music.",
    "What is the difference between a bill and a law?",
    "List the steps to renew a passport.",
];

const ENGINE_START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub fn run(inputs: &Inputs, runs: Option<u32>) -> Result<(u32, Figures)> {
    let runs = runs.unwrap_or(RUNS);
    let data_dir = DataDir::new()?;
    let system = System::start(inputs, &data_dir.path())?;
    let engine = Engine::start(&system, &data_dir.path().with_extension("engine"))?;
    let mut samples: [Samples; 8] = Default::default();
    let [path_first, engine_first, path_rate, engine_rate, added_first, first_ratio, rate_ratio, added_total] =
        &mut samples;
    for run in 0..WARM_UP_RUNS + runs {
        let prompt = PROMPTS[run as usize % PROMPTS.len()];
        // Who goes first changes, since the second finds caches warm.
        let (path, bare) = if run % 2 == 0 {
            let path = system.client.chat(MODEL, prompt, MAX_TOKENS)?;
            (path, engine.chat(prompt, MAX_TOKENS)?)
        } else {
            let bare = engine.chat(prompt, MAX_TOKENS)?;
            (system.client.chat(MODEL, prompt, MAX_TOKENS)?, bare)
        };
        if path.tokens != bare.tokens {
            bail!(
                "the path answered {prompt:?} with {} tokens, the engine with {}",
                path.tokens,
                bare.tokens
            );
        }
        if run < WARM_UP_RUNS {
            continue;
        }
        path_first.add(millis(path.first));
        engine_first.add(millis(bare.first));
        path_rate.add(path.tokens_per_second());
        engine_rate.add(bare.tokens_per_second());
        added_first.add(millis(path.first) - millis(bare.first));
        first_ratio.add(millis(path.first) / millis(bare.first));
        rate_ratio.add(path.tokens_per_second() / bare.tokens_per_second());
        added_total.add(millis(path.total) - millis(bare.total));
    }
    drop(engine);
    system.stop()?;
    let mut figures = Figures::default();
    figures.add("path_first_token", "ms", path_first, None);
    figures.add("engine_first_token", "ms", engine_first, None);
    figures.add("added_first_token", "ms", added_first, None);
    figures.add("first_token_ratio", "ratio", first_ratio, None);
    figures.add("path_tokens_per_second", "tokens/s", path_rate, None);
    figures.add("engine_tokens_per_second", "tokens/s", engine_rate, None);
    figures.add("tokens_per_second_ratio", "ratio", rate_ratio, None);
    figures.add("added_total", "ms", added_total, None);
    Ok((runs, figures))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `chancery engine`, spoken to as a worker does: a line of JSON for the
/// request, lines of events for the answer.
struct Engine {
    child: Child,
    socket: PathBuf,
}

impl Engine {
    /// Another engine like the one that `system` runs.
    fn start(system: &System, socket: &Path) -> Result<Self> {
        let words = memory::command_of(system.pid(), "engine").context("the system runs no engine")?;
        let (program, arguments) = words.split_first().context("a process has a name")?;
        let at = arguments.iter().position(|word| word == "--socket").context("an engine has a socket")?;
        let log = fs::File::create(socket.with_extension("engine-log"))?;
        let mut command = Command::new(program);
        command.args(&arguments[..=at]).arg(socket).args(&arguments[at + 2..]);
        // It ends when its standard input closes.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let mut engine = Self { child, socket: socket.to_path_buf() };
        let started = Instant::now();
        while UnixStream::connect(&engine.socket).is_err() {
            if engine.child.try_wait()?.is_some() || started.elapsed() > ENGINE_START_LIMIT {
                bail!("`chancery engine` does not listen on {}", engine.socket.display());
            }
            thread::sleep(POLL);
        }
        Ok(engine)
    }

    fn chat(&self, prompt: &str, max_tokens: u32) -> Result<Timing> {
        let request = json!({
            "id": "00000000-0000-7000-8000-000000000000",
            "input": {"chat": [{"role": "user", "content": prompt}]},
            "max_tokens": max_tokens,
            "sampling": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": null},
            "stop": [],
            "priority": "interactive",
        });
        let started = Instant::now();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut first = None;
        for line in BufReader::new(stream).lines() {
            let event: Value = serde_json::from_str(&line.context("the engine broke off")?)?;
            match event["event"].as_str() {
                Some("text") if event["text"].as_str().is_some_and(|text| !text.is_empty()) => {
                    first.get_or_insert_with(|| started.elapsed());
                }
                Some("finished") => {
                    let tokens =
                        event["counts"]["completion_tokens"].as_u64().context("the engine counts tokens")?;
                    return Ok(Timing {
                        first: first.context("the answer has no text")?,
                        total: started.elapsed(),
                        tokens: tokens.try_into()?,
                    });
                }
                Some("failed") => bail!("the engine failed: {}", event["message"]),
                _ => {}
            }
        }
        bail!("the engine closed the connection before the end")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
