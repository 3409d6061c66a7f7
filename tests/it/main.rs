//! Tests across crates: the real PostgreSQL, the real router, the real
//! processes, the real model. Run them with `cargo xtask test it`.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod autoscaling;
mod batches;
mod bounds;
mod budgets;
mod catalogue;
mod classes;
mod closing;
mod conformance;
mod failover;
mod filters;
mod fleet;
mod idempotency;
mod identity;
mod inference;
mod isolation;
mod keycloak;
mod matrix;
mod operator;
mod placement;
mod quotas;
mod secrecy;
mod sign_in;
mod tokens;
mod up;
