//! Tests across crates: the real PostgreSQL, the real router, the real
//! processes, the real model. Run them with `cargo xtask test it`.

mod batches;
mod catalogue;
mod fleet;
mod inference;
mod isolation;
mod placement;
mod up;
