//! What an origin is reached with, already checked.
//!
//! Must not read anything: plain values only.

use std::sync::Arc;
use std::time::Duration;

/// One upstream.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// For logs and metric labels.
    pub name: Arc<str>,
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub connect_timeout: Duration,
    /// From the last byte sent of the request to the head of the response.
    pub response_timeout: Duration,
    /// How long an unused connection is kept; below the origin's own keep-alive.
    pub idle_timeout: Duration,
    /// Connections at once; requests past it wait as long as for a connection.
    pub max_connections: usize,
}
