//! The API over real sockets, on a real PostgreSQL.

mod access;
mod connections;
mod models;
mod problems;
mod provisioning;
mod support;
mod tenants;
