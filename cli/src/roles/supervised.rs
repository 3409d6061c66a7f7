//! A process that must not outlive the one that started it: standard input is
//! a pipe from there, and closes when that process ends, however it ends.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::files::Lock;

/// Longest orderly end of an orphan.
const ORPHAN_LIMIT: Duration = Duration::from_secs(45);

/// Takes the lock, after a predecessor has ended, and asks for an orderly end
/// when standard input closes.
pub fn begin(lock: &Path, shutdown: CancellationToken) -> Result<Lock> {
    let held = Lock::take(lock)?;
    std::thread::Builder::new()
        .name("supervised".to_owned())
        .spawn(move || {
            let mut nothing = [0; 64];
            while std::io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
            shutdown.cancel();
            std::thread::sleep(ORPHAN_LIMIT);
            std::process::exit(1);
        })
        .context("cannot start a thread")?;
    Ok(held)
}
