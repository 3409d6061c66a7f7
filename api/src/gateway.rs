//! The gateway: from a request to the least busy ready replica of an endpoint,
//! and its answer back. A replica that fails before the first text is replaced
//! unseen; later, the answer ends with an error. Each answer is settled: its
//! usage and its audit record, for what was delivered.

mod answer;
mod events;
mod routes;
mod settle;

pub(crate) use answer::{Answer, Part};
pub use routes::Routes;
pub(crate) use routes::run;
