//! The worker's answer: a line of JSON for each event.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use domain::inference::Event;
use futures_util::{Stream, StreamExt};

/// Longest line of an answer.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// Why the next event cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error("the connection to the worker broke")]
    Connection(#[source] reqwest::Error),
    #[error("the worker ended the answer in the middle")]
    Ended,
    #[error("the worker sent a line that is no event")]
    Unreadable(#[source] serde_json::Error),
    #[error("the worker sent a line of more than {MAX_EVENT_BYTES} bytes")]
    TooLong,
}

/// The events of one answer. Dropping it hangs up, which cancels the work.
pub(super) struct Events {
    parts: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    seen: usize,
}

impl Events {
    pub fn new(response: reqwest::Response) -> Self {
        Self { parts: Box::pin(response.bytes_stream()), buffer: BytesMut::new(), seen: 0 }
    }

    pub async fn next(&mut self) -> Result<Event, EventError> {
        loop {
            if let Some(end) = self.buffer[self.seen..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.seen + end);
                self.buffer.advance(1);
                self.seen = 0;
                return serde_json::from_slice(&line).map_err(EventError::Unreadable);
            }
            self.seen = self.buffer.len();
            if self.seen > MAX_EVENT_BYTES {
                return Err(EventError::TooLong);
            }
            match self.parts.next().await {
                Some(Ok(part)) => self.buffer.extend_from_slice(&part),
                Some(Err(e)) => return Err(EventError::Connection(e)),
                None => return Err(EventError::Ended),
            }
        }
    }
}
