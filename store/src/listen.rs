//! LISTEN: wakes loops when an outbox row commits. A notification can be lost
//! with its connection, so every loop also looks by timer.

use domain::outbox::Topic;
use sqlx::postgres::PgListener;

use crate::{Store, StoreError};

/// A stream of what changed.
#[derive(Debug)]
pub struct Changes(PgListener);

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This changed.
    Of(Topic, String),
    /// The connection was lost and is back: anything may have changed.
    Anything,
}

impl Store {
    /// Starts to listen, on a connection of its own.
    pub async fn changes(&self) -> Result<Changes, StoreError> {
        let mut listener = PgListener::connect_with(self.pool()).await?;
        listener.listen("chancery").await?;
        Ok(Changes(listener))
    }
}

impl Changes {
    /// The next change. After a lost connection it reconnects and answers
    /// [`Change::Anything`]; an error means that reconnecting failed too, and
    /// the caller may call again after a pause.
    pub async fn next(&mut self) -> Result<Change, StoreError> {
        let Some(notification) = self.0.try_recv().await? else { return Ok(Change::Anything) };
        let payload = notification.payload();
        let parsed = payload
            .split_once(' ')
            .and_then(|(topic, subject)| Some(Change::Of(Topic::parse(topic)?, subject.to_owned())));
        Ok(parsed.unwrap_or(Change::Anything))
    }
}
