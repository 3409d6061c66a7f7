//! A private PostgreSQL on this machine: find or install its programs, create a
//! cluster, start it, stop it. Used by `chancery up`, the tests and xtask.
//!
//! The server listens on 127.0.0.1 and on a socket inside its folder, asks
//! everyone for a scram password, and never outlives the process that started
//! it. Started by root, it runs as an unprivileged account. SQL is not this
//! crate's business: connect with [`Server::url`].
//!
//! ```no_run
//! # fn main() -> Result<(), postgres::PostgresError> {
//! let binaries = postgres::Binaries::find()?;
//! let mut server = postgres::Server::start(&postgres::Options {
//!     binaries,
//!     data_dir: ".chancery/postgres".into(),
//!     port: 0,
//!     settings: postgres::Settings::Durable,
//! })?;
//! println!("{}", server.url(postgres::SUPERUSER, "postgres"));
//! server.stop()?;
//! # Ok(()) }
//! ```

mod account;
mod binaries;
mod cluster;
mod error;
mod install;
mod output;
mod postmaster;
mod server;

pub use binaries::{BIN_VARIABLE, Binaries, OLDEST_MAJOR};
pub use cluster::{SUPERUSER, Settings};
pub use error::PostgresError;
pub use install::ensure;
pub use server::{Options, Server};
