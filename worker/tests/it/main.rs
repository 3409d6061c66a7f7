//! A whole worker against a small API that speaks the internal listener's
//! protocol, and real engine processes that speak the socket's: a script, so
//! that tests say when one dies. The real engine is tested with the system.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helper fails the test")]

mod api;
mod placements;
mod shares;
mod support;
