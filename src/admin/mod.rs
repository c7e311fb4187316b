//! What operators and their machines ask of the gateway itself: metrics and probes.
//!
//! Must not answer on a traffic listener, nor say anything about a caller.

mod ops;

pub use ops::{OpsDoor, Readiness};
