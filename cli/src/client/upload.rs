//! Sending a file with a progress bar.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use domain::models::Sha256Digest;
use futures_util::TryStreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Body;
use sha2::{Digest as _, Sha256};
use tokio_util::io::ReaderStream;

/// Read and sent at a time.
const PART_BYTES: usize = 256 << 10;

/// A bar in bytes; hidden where nobody looks.
pub fn bytes_bar(total: u64, doing: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target());
    let style =
        ProgressStyle::with_template("{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}");
    bar.set_style(style.expect("a constant template"));
    bar.set_message(doing.to_owned());
    bar
}

/// Standard error if it is a terminal.
pub fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// A file that can be sent, and its size.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let found = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if !found.is_file() {
        bail!("{} is not a file", path.display());
    }
    if found.len() == 0 {
        bail!("{} is empty", path.display());
    }
    Ok((file, found.len()))
}

/// SHA-256 of a file's content.
pub fn sha256(path: &Path) -> Result<Sha256Digest> {
    let (mut file, total) = open(path)?;
    let bar = bytes_bar(total, "Checking");
    let mut hash = Sha256::new();
    let mut part = vec![0; PART_BYTES];
    loop {
        let n = file.read(&mut part).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            break;
        }
        hash.update(&part[..n]);
        bar.inc(n as u64);
    }
    bar.finish_and_clear();
    Ok(Sha256Digest(hash.finalize().into()))
}

/// The content as a body that moves the bar while it is sent.
pub fn body(file: File, bar: ProgressBar) -> Body {
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PART_BYTES);
    Body::wrap_stream(stream.inspect_ok(move |part| bar.inc(part.len() as u64)))
}
