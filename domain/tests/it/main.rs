//! Tests of rules that play together, by what the crate offers to others.

mod control_loop;
