//! One generation over an engine's socket: a request line out, event lines in.
//! Dropping it closes the connection, which cancels the generation.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use domain::inference::{Event, GenerateRequest};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// How long an engine may take to accept a connection and read a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest line of an answer.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// Why there are no more events.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Cannot be asked; nothing was generated.
    #[error("the engine does not take the request")]
    Connect(#[source] io::Error),
    /// Ended without a last event.
    #[error("the engine stopped in the middle of the answer")]
    Broken,
    /// What came is no event.
    #[error("the engine sent something that is no event")]
    Garbled,
}

/// The events of one generation.
pub struct EventStream {
    lines: Framed<UnixStream, LinesCodec>,
    ended: bool,
}

impl EventStream {
    /// Asks the engine that listens on `socket`.
    pub async fn open(socket: &Path, request: &GenerateRequest) -> Result<Self, StreamError> {
        let mut line = serde_json::to_vec(request).map_err(|e| StreamError::Connect(e.into()))?;
        line.push(b'\n');
        let ask = async {
            let mut stream = UnixStream::connect(socket).await?;
            stream.write_all(&line).await?;
            Ok(stream)
        };
        let asked = tokio::time::timeout(SEND_TIMEOUT, ask).await;
        let stream =
            asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(StreamError::Connect)?;
        let lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_EVENT_BYTES));
        Ok(Self { lines, ended: false })
    }

    /// The next event, and its line as it came; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<(Event, Bytes), StreamError>> {
        if self.ended {
            return None;
        }
        let next = self.read().await;
        let last = |event: &Event| matches!(event, Event::Finished { .. } | Event::Failed { .. });
        self.ended = next.as_ref().map_or(true, |(event, _)| last(event));
        Some(next)
    }

    async fn read(&mut self) -> Result<(Event, Bytes), StreamError> {
        match self.lines.next().await {
            Some(Ok(mut line)) => {
                let event = serde_json::from_str(&line).map_err(|_| StreamError::Garbled)?;
                line.push('\n');
                Ok((event, line.into()))
            }
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(StreamError::Garbled),
            Some(Err(LinesCodecError::Io(_))) | None => Err(StreamError::Broken),
        }
    }
}
