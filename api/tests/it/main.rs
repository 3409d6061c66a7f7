//! The API over real sockets, on a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod access;
mod accounts;
mod connections;
mod keys;
mod models;
mod problems;
mod provisioning;
mod sessions;
mod support;
mod tenants;
