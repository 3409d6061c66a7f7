//! HTTP: provisioning under `/api/v1`, inference under `/v1`, the portal, and
//! the internal listener for workers. No SQL here (`store`), no rules (`domain`).

mod accelerators;
pub mod access;
pub mod accounts;
mod audit_log;
pub mod auth;
#[doc(hidden)]
pub mod bench;
mod bootstrap;
mod budgets;
mod changes;
pub mod cursor;
mod deletions;
mod endpoints;
mod exports;
pub mod extract;
mod fields;
mod files;
mod gateway;
mod health;
mod identity;
mod internal;
mod jobs;
mod keys;
mod members;
mod models;
pub mod oidc;
mod one_time_codes;
mod openapi;
mod passwords;
mod plans;
mod pools;
mod portal;
pub mod problem;
mod projects;
mod quotas;
mod resources;
mod seal;
mod server;
mod service_accounts;
mod sessions;
mod settings;
mod state;
mod tenants;
mod usage;
mod v1;
mod workers;
mod workloads;

pub use bootstrap::{AdminOutcome, FirstPassword, bootstrap_admin, reset_admin};
pub use openapi::openapi;
pub use server::{RunError, Server, run};
pub use settings::Settings;
pub use state::{App, Deps};
