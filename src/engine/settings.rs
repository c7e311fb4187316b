//! The numbers the decision point is built with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

/// What the decision point keeps and how often it looks.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Verified tokens that are remembered.
    pub max_tokens: u64,
    /// How often the streams of a member are looked at again without any event.
    pub recheck_every: Duration,
    /// Members whose streams are looked at at once, and as many again whom an event names: more would keep requests
    /// waiting.
    pub max_rechecks: usize,
}
