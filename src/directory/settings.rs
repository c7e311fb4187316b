//! The numbers the tiers are built with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

/// How the memory tier keeps what it learns.
#[derive(Debug, Clone)]
pub struct MemorySettings {
    /// Members whose list is kept.
    pub max_entries: u64,
    /// How long "no such member" and "no such token" are believed.
    pub negative_for: Duration,
    /// How long an opaque token's session is remembered.
    pub token_binding_for: Duration,
    /// The oldest evidence any route could still be served: longest `max_staleness` plus `stale_if_error`.
    pub horizon: Duration,
}

/// How calls to the directory are held back.
#[derive(Debug, Clone)]
pub struct GuardSettings {
    /// For one lookup, waiting included.
    pub deadline: Duration,
    /// Calls of one operation under way at once.
    pub max_in_flight: usize,
    /// Calls of one operation that may wait for a place.
    pub max_waiting: usize,
}
