//! Lines on the terminal that say what happens, each with the time since the start.

use std::sync::Arc;
use std::time::Instant;

/// Where `up` says what it does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Console(Arc<Instant>);

impl Console {
    /// Time starts now.
    pub fn start() -> Self {
        Self(Arc::new(Instant::now()))
    }

    /// One line.
    pub fn say(&self, line: impl AsRef<str>) {
        eprintln!("{:6.1} s  {}", self.0.elapsed().as_secs_f32(), line.as_ref());
    }
}
