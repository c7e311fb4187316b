//! What an origin is reached with, already checked.
//!
//! Must not read anything: plain values only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where an origin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginAddress(pub(super) Transport);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp {
        host: String,
        port: u16,
        tls: bool,
    },
    /// A Unix socket, for an origin on the same machine: an exchange over it costs a quarter of one over loopback.
    Unix(PathBuf),
}

impl OriginAddress {
    pub fn tcp(host: String, port: u16, tls: bool) -> Self {
        Self(Transport::Tcp { host, port, tls })
    }

    pub fn unix(path: PathBuf) -> Self {
        Self(Transport::Unix(path))
    }
}

/// One upstream.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// For logs and metric labels.
    pub name: Arc<str>,
    pub address: OriginAddress,
    pub connect_timeout: Duration,
    /// From the last byte sent of the request to the head of the response.
    pub response_timeout: Duration,
    /// How long an unused connection is kept; below the origin's own keep-alive.
    pub idle_timeout: Duration,
    /// Connections at once; requests past it wait as long as for a connection.
    pub max_connections: usize,
}
