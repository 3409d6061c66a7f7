//! Tests of the engine with the real model, whose file `cargo xtask test` fetches,
//! and with tiny models made here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod answers;
mod files;
mod greedy;
mod serve;
mod support;
