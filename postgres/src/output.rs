//! What the server prints: kept in a file of bounded size, its last lines at hand.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::PostgresError;

/// The log starts anew at this size; the one before is kept beside it.
const MAX_LOG_BYTES: u64 = 8 << 20;

/// Lines shown when something goes wrong.
const TAIL_LINES: usize = 20;

/// A longer line is cut.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// Copies a server's standard error to its log until the server closes it.
pub(crate) struct Log {
    tail: Arc<Mutex<VecDeque<String>>>,
    copier: Option<JoinHandle<()>>,
}

impl Log {
    pub fn copy(from: impl Read + Send + 'static, path: &Path) -> Result<Self, PostgresError> {
        let file = open(path)?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES)));
        let (kept, path) = (Arc::clone(&tail), path.to_path_buf());
        let copier = thread::spawn(move || copy_lines(from, file, &path, &kept));
        Ok(Self { tail, copier: Some(copier) })
    }

    /// The last lines so far.
    pub fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().fold(String::new(), |text, line| text + line)
    }

    /// Waits for the end of the output: all its writers have ended.
    pub fn finish(&mut self) {
        if let Some(copier) = self.copier.take() {
            // A panic in there lost log lines, nothing else.
            let _ = copier.join();
        }
    }
}

/// The last lines of a finished program's output.
pub(crate) fn tail_of(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A log that cannot be written (a full disk) must not stop the server, which
/// would block on its pipe: lines are read and dropped.
fn copy_lines(from: impl Read, mut file: File, path: &Path, tail: &Mutex<VecDeque<String>>) {
    let mut from = BufReader::new(from);
    let mut written = file.metadata().map_or(0, |found| found.len());
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => written += bytes as u64,
        }
        if written > MAX_LOG_BYTES {
            let _ = fs::rename(path, previous(path));
            if let Ok(fresh) = open(path) {
                file = fresh;
                written = line.len() as u64;
            }
        }
        let _ = file.write_all(&line);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(String::from_utf8_lossy(&line).into_owned());
    }
}

fn open(path: &Path) -> Result<File, PostgresError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(PostgresError::io("open", path))
}

fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}
