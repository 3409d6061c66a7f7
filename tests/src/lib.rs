//! Boots what the tests need: the real PostgreSQL, the real router, the real
//! processes. See `it/` for the tests.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

pub mod database;
pub mod http;
pub mod installation;
pub mod interleaving;
pub mod python;
pub mod stage;
pub mod system;
pub mod wait;
