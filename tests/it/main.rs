//! Tests across crates: the real PostgreSQL, the real router, the real
//! processes, the real model. Run them with `cargo xtask test it`.

mod catalogue;
mod isolation;
mod up;
