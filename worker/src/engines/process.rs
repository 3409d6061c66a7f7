//! One engine process: started, watched, stopped. It ends when its standard
//! input closes, so it cannot outlive this process, however that ends.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncRead;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio_util::codec::{FramedRead, LinesCodec};
use tracing::{debug, info, warn};

/// How long an engine may take to end once its standard input closed.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long to wait for the last words of an engine that has ended.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);
/// Longest line that an engine may print.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Longest part of a line that is kept as the reason of an end.
const MAX_REASON_CHARS: usize = 400;
/// Last lines that are kept.
const KEPT_LINES: usize = 8;
/// What an engine sees of this process's environment: what finds programs,
/// libraries and accelerators, and how to log.
const ENVIRONMENT: [&str; 16] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_",
    "RAYON_",
    "CANDLE_",
    "CUDA_",
    "NVIDIA_",
    "ASCEND_",
    "OMP_",
    "LLVM_PROFILE_FILE",
    "CHANCERY_LOG",
];

/// What to run.
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Model file.
    pub model: PathBuf,
    /// Socket that it makes.
    pub socket: PathBuf,
    /// Memory limit.
    pub memory_bytes: u64,
    /// Part of it for caches of sequences.
    pub kv_bytes: u64,
    /// Threads.
    pub threads: u32,
    /// How long it may take until it is ready.
    pub deadline: Duration,
}

/// A running engine.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    socket: PathBuf,
    last_words: LastWords,
}

/// Why there is no engine, in plain words.
pub type Ending = String;

impl Process {
    /// Starts one and waits until it is ready.
    pub async fn start(launch: &Launch) -> Result<Self, Ending> {
        let mut child = command(launch)
            .spawn()
            .map_err(|e| format!("the engine program {} cannot be started: {e}", launch.program.display()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err("the engine program was started without pipes".to_owned());
        };
        let (ready, is_ready) = oneshot::channel();
        tokio::spawn(read_stdout(stdout, ready));
        let last_words = LastWords::listen(stderr);
        let mut process = Self { child, stdin, socket: launch.socket.clone(), last_words };
        // When the channel closes without a word, the process is about to end.
        let said = async {
            match is_ready.await {
                Ok(line) => line,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            line = said => {
                info!(engine.pid = process.child.id(), "An engine is ready: {line}");
                Ok(process)
            }
            ending = process.ended() => Err(ending),
            () = tokio::time::sleep(launch.deadline) => {
                process.stop().await;
                Err(format!("the engine was not ready within {} s", launch.deadline.as_secs()))
            }
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until it ends, and says how it did.
    pub async fn ended(&mut self) -> Ending {
        let status = self.child.wait().await;
        let last_words = self.last_words.hear().await;
        let _ = std::fs::remove_file(&self.socket);
        ending_of(status, last_words.as_deref())
    }

    /// Ends it: kindly, then not.
    pub async fn stop(self) {
        let Self { mut child, stdin, socket, .. } = self;
        drop(stdin);
        if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
            warn!(engine.pid = child.id(), "An engine did not end by itself; killing it");
            if let Err(error) = child.kill().await {
                warn!("Cannot kill an engine: {error}");
            }
        }
        let _ = std::fs::remove_file(socket);
    }
}

fn command(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.program);
    let bytes = |n: u64| OsString::from(n.to_string());
    command
        .arg("engine")
        .args([Path::new("--model"), &launch.model, Path::new("--socket"), &launch.socket])
        .args(["--memory-bytes".into(), bytes(launch.memory_bytes)])
        .args(["--kv-bytes".into(), bytes(launch.kv_bytes)])
        .args(["--threads".into(), bytes(launch.threads.into())])
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            ENVIRONMENT.iter().any(|known| name.starts_with(known))
        }))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C in the terminal is for the worker, which drains first.
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// The first line says that it is ready; the rest is read so that it never blocks.
async fn read_stdout(stdout: impl AsyncRead + Unpin, ready: oneshot::Sender<String>) {
    let mut lines = lines_of(stdout);
    let mut ready = Some(ready);
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) if ready.is_some() && serde_json::from_str::<ReadyLine>(&line).is_ok() => {
                // Nobody listens when the start was given up.
                let _ = ready.take().map(|ready| ready.send(line));
            }
            Ok(line) => debug!("An engine says: {line}"),
            Err(error) => debug!("An engine says something unreadable: {error}"),
        }
    }
}

/// Any object; what is in it is for the log.
type ReadyLine = serde_json::Map<String, serde_json::Value>;

fn lines_of<R: AsyncRead>(read: R) -> FramedRead<R, LinesCodec> {
    FramedRead::new(read, LinesCodec::new_with_max_length(MAX_LINE_BYTES))
}

/// What an engine wrote to standard error: for our log, and as a reason.
struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl LastWords {
    fn listen(stderr: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let kept: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let lines = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut read = lines_of(stderr);
            while let Some(line) = read.next().await {
                let Ok(line) = line else { continue };
                if line.trim().is_empty() {
                    continue;
                }
                info!(target: "engine", "{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Self { lines, reader }
    }

    /// The line that most likely says why it ended. A process that the engine
    /// left behind may keep the pipe open, so this waits only a moment.
    async fn hear(&mut self) -> Option<String> {
        let _ = tokio::time::timeout(LAST_WORDS_WAIT, &mut self.reader).await;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_reason = |line: &&String| {
            let line = line.to_ascii_lowercase();
            line.contains("error") || line.contains("panicked")
        };
        let line = lines.iter().rev().find(is_reason).or(lines.back())?;
        Some(line.trim().chars().take(MAX_REASON_CHARS).collect())
    }
}

/// How a process ended, for people.
fn ending_of(status: io::Result<ExitStatus>, last_words: Option<&str>) -> Ending {
    const SIGKILL: i32 = 9;
    let status = match status {
        Ok(status) => status,
        Err(error) => return format!("engine lost: {error}"),
    };
    let ending = match (status.signal(), status.code()) {
        // Nobody else sends it: the kernel does when memory runs out.
        (Some(SIGKILL), _) => return "engine exited with signal 9 (perhaps out of memory)".to_owned(),
        (Some(signal), _) => format!("engine exited with signal {signal}"),
        (None, Some(code)) => format!("engine exited with status {code}"),
        (None, None) => "engine exited".to_owned(),
    };
    match last_words {
        Some(words) => format!("{ending}: {words}"),
        None => ending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_said_in_words() {
        let ending = |raw| ending_of(Ok(ExitStatus::from_raw(raw)), Some("error: no GGUF"));
        assert_eq!(ending(9), "engine exited with signal 9 (perhaps out of memory)");
        assert_eq!(ending(11), "engine exited with signal 11: error: no GGUF");
        assert_eq!(ending(2 << 8), "engine exited with status 2: error: no GGUF");
        assert_eq!(ending_of(Ok(ExitStatus::from_raw(0)), None), "engine exited with status 0");
    }
}
