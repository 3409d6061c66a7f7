//! The gateway: from a request to the least busy ready replica of an endpoint,
//! and its answer back. A replica that fails before the first text is replaced
//! unseen; later, the answer ends with an error. Where no replica is there, the
//! request is held until one is. Each answer is settled: its usage and its audit
//! record, for what was delivered.

mod answer;
mod events;
mod holding;
mod routes;
mod settle;

pub(crate) use answer::{Answer, Part};
pub use holding::Holding;
pub use routes::Routes;

use crate::state::App;

/// Keeps the routing table, and tells what is held, until the server has stopped.
pub(crate) async fn run(app: App) {
    tokio::join!(routes::run(app.clone()), holding::run(app));
}
