//! Leadership.
