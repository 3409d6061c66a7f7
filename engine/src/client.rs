//! The other end of [`crate::serve`], blocking: for tests, benchmarks and tools.

use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;

use domain::inference::{Event, GenerateRequest};

/// Sends a request and hands over each event, until the last one or until
/// `on_event` breaks off, which cancels the request.
pub fn generate(
    socket: &Path,
    request: &GenerateRequest,
    mut on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        if on_event(serde_json::from_str(&line?)?).is_break() {
            break;
        }
    }
    Ok(())
}
