//! Boots what the tests need: the real PostgreSQL, the real router, the real
//! processes. See `it/` for the tests.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

pub mod bench;
pub mod browser;
pub mod database;
pub mod halting;
pub mod http;
pub mod installation;
pub mod interleaving;
pub mod issuer;
pub mod keycloak;
pub mod ministries;
pub mod process;
pub mod python;
pub mod schemathesis;
pub mod stage;
pub mod system;
pub mod wait;
