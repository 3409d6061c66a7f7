//! The API over real sockets, on a real PostgreSQL.

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
