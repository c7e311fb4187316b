//! What the doors are set up with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

/// Limits of the proxy door.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// How long a body may stand still between two pieces.
    pub body_timeout: Duration,
    /// How long a tunnel may stand still in both directions.
    pub tunnel_timeout: Duration,
    pub max_request_bytes: u64,
}
