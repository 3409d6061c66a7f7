//! The planner: a snapshot in, decisions out. No I/O, no clock.
