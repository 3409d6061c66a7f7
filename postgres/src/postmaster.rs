//! `postmaster.pid`, in which a server says that it runs and how it does.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PostgresError;

/// Line (from 0) of the status, and what it says once the server takes connections.
const STATUS_LINE: usize = 7;
const READY: &str = "ready";

/// How long a left-behind server may take for a fast shutdown, and then for an
/// immediate one.
const ORPHAN_PATIENCE: [(Signal, Duration); 2] =
    [(Signal::SIGINT, Duration::from_secs(60)), (Signal::SIGQUIT, Duration::from_secs(20))];

/// How often files and processes are looked at while waiting for them.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Does the file in `data` say that process `pid` takes connections?
pub(crate) fn is_ready(data: &Path, pid: u32) -> bool {
    let text = read(data);
    let mut lines = text.lines();
    let ours = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    ours && lines.nth(STATUS_LINE - 1).is_some_and(|line| line.trim() == READY)
}

/// Stops a server that a killed process left behind in `data`. The caller holds
/// the lock of the folder, so it belongs to nobody.
pub(crate) fn stop_orphan(data: &Path) -> Result<(), PostgresError> {
    let Some(pid) = running(data) else { return Ok(()) };
    for (signal, patience) in ORPHAN_PATIENCE {
        // It may have ended by itself; the next look tells.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if running(data) != Some(pid) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }
    Err(PostgresError::Orphan { pid, data_dir: data.to_path_buf() })
}

/// The postmaster whose working folder is `data`. A number in a stale file may
/// meanwhile belong to any process, hence the look at what it works in.
fn running(data: &Path) -> Option<u32> {
    let pid: u32 = read(data).lines().next()?.trim().parse().ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == fs::canonicalize(data).ok()?).then_some(pid)
}

fn read(data: &Path) -> String {
    fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default()
}
