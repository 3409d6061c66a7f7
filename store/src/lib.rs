//! Every SQL statement, and the object store. The only ways to the database
//! are a [`TenantTx`], which sees one tenant's rows, and a [`SystemTx`], for
//! loops and the gateway; both drop to a restricted role, so a connection that
//! forgot to choose sees nothing at all.
#![warn(missing_docs)]

pub mod accelerators;
pub mod audit;
pub mod autoscaling;
pub mod budgets;
pub mod credentials;
pub mod deletions;
pub mod endpoints;
pub mod exports;
pub mod files;
pub mod health;
pub mod idempotency;
pub mod identity;
pub mod jobs;
pub mod keys;
pub mod leadership;
pub mod listen;
pub mod members;
pub mod migrate;
pub mod models;
pub mod objects;
pub mod outbox;
pub mod pools;
pub mod principals;
pub mod projects;
pub mod quotas;
pub mod restrictions;
pub mod results;
pub mod retention;
pub mod routes;
pub mod service_accounts;
pub mod sessions;
pub mod sign_in;
pub mod tenants;
pub mod usage;
pub mod workers;
pub mod workloads;

mod error;
mod pages;
mod tx;

pub use error::StoreError;
pub use tx::{AnyTx, Store, SystemTx, TenantTx, Tx};
