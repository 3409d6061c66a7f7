//! The roles as child processes of this same program: logs to files, restarts
//! with back-off, and an orderly stop. A child ends by itself when its standard
//! input closes, which it does when this process ends, however that happens.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::installation::Installation;
use crate::errors::NO_SPACE;
use crate::roles::Role;

/// Pauses between restarts: from, up to.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A child that ran this long had started well.
const STEADY: Duration = Duration::from_secs(10);
/// Starts in a row that fail before it is given up.
const MAX_FAILED_STARTS: u32 = 5;
/// An orderly stop drains requests, which takes at most half a minute.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// A log beyond this size starts anew; the former one is kept beside.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// How often sizes of logs are looked at.
const LOG_POLL: Duration = Duration::from_secs(10);
/// Lines of a log that are shown when a child is given up, and where they are.
const SHOWN_LINES: usize = 5;
const TAIL_BYTES: u64 = 8 << 10;

/// The running children.
pub struct Children {
    /// In the order of their start.
    tasks: Vec<(CancellationToken, JoinHandle<()>)>,
    failure: watch::Receiver<Option<String>>,
}

/// One child and what it takes to start it.
struct Supervised {
    role: Role,
    program: PathBuf,
    settings: PathBuf,
    lock: PathBuf,
    log: PathBuf,
    console: Console,
}

impl Children {
    /// Starts every role.
    pub fn start(installation: &Installation, console: &Console) -> Result<Self> {
        let program = this_program()?;
        let (failed, failure) = watch::channel(None);
        let tasks = installation.roles.iter().map(|(role, lock, log)| {
            let child = Supervised {
                role: *role,
                program: program.clone(),
                settings: installation.settings_file.clone(),
                lock: lock.clone(),
                log: log.clone(),
                console: console.clone(),
            };
            let stop = CancellationToken::new();
            (stop.clone(), tokio::spawn(child.supervise(stop, failed.clone())))
        });
        Ok(Self { tasks: tasks.collect(), failure })
    }

    /// Waits for the first child that cannot be kept running.
    pub async fn failure(&self) -> anyhow::Error {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => anyhow!("{}", why.as_deref().unwrap_or_default()),
            Err(_) => anyhow!("nothing runs any more"),
        }
    }

    /// The result of `work`, unless a child is given up meanwhile.
    pub async fn unless_failed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            error = self.failure() => Err(error),
            result = work => result,
        }
    }

    /// Stops the last started first, so that each can still reach what it needs.
    pub async fn stop(self) {
        for (stop, task) in self.tasks.into_iter().rev() {
            stop.cancel();
            // A task that panicked has dropped, and so killed, its child.
            let _ = task.await;
        }
    }
}

impl Supervised {
    async fn supervise(self, stop: CancellationToken, failed: watch::Sender<Option<String>>) {
        let mut failed_starts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let ended = match self.spawn() {
                Ok(child) => self.run(child, &stop).await,
                Err(error) => Err(error),
            };
            if stop.is_cancelled() {
                return;
            }
            if started.elapsed() > STEADY {
                (failed_starts, pause) = (0, FIRST_PAUSE);
            }
            failed_starts += 1;
            let why = match ended {
                Ok(status) => in_words(status),
                Err(error) => format!("{error:#}"),
            };
            let name = self.role.name();
            if failed_starts >= MAX_FAILED_STARTS {
                failed.send_if_modified(|failure| {
                    let first = failure.is_none();
                    failure.get_or_insert_with(|| self.give_up(failed_starts, &why));
                    first
                });
                return;
            }
            self.console
                .say(format!("The {name} ended ({why}); starting it again in {:.1} s", pause.as_secs_f32()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn spawn(&self) -> Result<Child> {
        shorten(&self.log);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let also = log.try_clone().context("cannot share the log")?;
        let mut command = Command::new(&self.program);
        command.arg(self.role.name());
        command.arg("--config").arg(&self.settings).arg("--supervised").arg(&self.lock);
        // The file is the whole truth; what this process was given is in it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHANCERY_") {
                command.env_remove(name);
            }
        }
        // Large buffers go back to the system when freed. Left to itself, glibc
        // keeps the 19 MiB that hashing a password takes for a moment.
        command.env("MALLOC_MMAP_THRESHOLD_", "1048576");
        // A group of its own: Ctrl-C is for us, who then stop it in order.
        command.process_group(0).kill_on_drop(true).stdin(Stdio::piped()).stdout(log).stderr(also);
        command.spawn().with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Until it ends, by itself or because it is to.
    async fn run(&self, mut child: Child, stop: &CancellationToken) -> Result<ExitStatus> {
        // Closes when this process ends, which tells the child to end too.
        let _stdin = child.stdin.take();
        loop {
            tokio::select! {
                status = child.wait() => return status.context("cannot be waited for"),
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOG_POLL) => shorten(&self.log),
            }
        }
        if let Some(pid) = child.id() {
            // It may have ended this moment.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_LIMIT, child.wait()).await {
            Ok(status) => status.context("cannot be waited for"),
            Err(_) => {
                self.console.say(format!("The {} does not stop; killing it", self.role.name()));
                child.kill().await.context("cannot be killed")?;
                child.wait().await.context("cannot be waited for")
            }
        }
    }

    fn give_up(&self, starts: u32, why: &str) -> String {
        let tail = last_lines(&self.log);
        if tail.contains(NO_SPACE) {
            return "the disk is full: free some space and run this again".to_owned();
        }
        // Its own last word, if it had one.
        if let Some(said) = tail.lines().last().and_then(|line| line.strip_prefix("error: ")) {
            return format!("the {} cannot start: {said} (log: {})", self.role.name(), self.log.display());
        }
        format!(
            "the {} ended {starts} times in a row ({why}); the end of its log, {}:\n{tail}",
            self.role.name(),
            self.log.display()
        )
    }
}

/// The path of the running program; the one that took its place if it was
/// replaced meanwhile.
fn this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let replaced = program.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(program))
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}

/// Moves a long log aside. The child goes on writing into the same file, which
/// it opened to append.
fn shorten(log: &Path) {
    let long = std::fs::metadata(log).is_ok_and(|found| found.len() > MAX_LOG_BYTES);
    if long {
        // On a full disk the copy fails and the log still gets room.
        let _ = std::fs::copy(log, log.with_extension("log.1"));
        let _ = OpenOptions::new().write(true).open(log).and_then(|file| file.set_len(0));
    }
}

fn last_lines(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("api.log");
        assert_eq!(last_lines(&log), "");
        let text: Vec<_> = (0..20_000).map(|n| format!("line {n}")).collect();
        std::fs::write(&log, text.join("\n")).unwrap();
        assert_eq!(last_lines(&log).lines().count(), SHOWN_LINES);
        assert!(last_lines(&log).ends_with("line 19999"));
    }

    #[test]
    fn a_long_log_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("api.log");
        File::create(&log).unwrap().set_len(MAX_LOG_BYTES + 1).unwrap();
        shorten(&log);
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(std::fs::metadata(dir.path().join("api.log.1")).unwrap().len(), MAX_LOG_BYTES + 1);
    }
}
