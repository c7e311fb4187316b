//! What a listener is built with, already checked.
//!
//! Must not read anything: plain values only.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

/// One listener for traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// For logs and metric labels.
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// None: cleartext.
    pub tls: Option<TlsSettings>,
    /// Whose connections begin with a header of the PROXY protocol; empty: nobody's.
    pub proxy_protocol: Vec<IpNet>,
    pub forwarded: Option<ForwardedTrust>,
    /// Clients connect to it themselves: the address of a connection is the client's.
    pub direct: bool,
    /// Nothing is answered, and everybody is sent to HTTPS on this port.
    pub redirect_to_https: Option<u16>,
    /// `Strict-Transport-Security` of every answer under TLS.
    pub hsts: Option<HeaderValue>,
    pub limits: ServerLimits,
}

impl ListenerSettings {
    /// Whether the addresses that requests come from are those of clients, and not of a balancer nobody told us of.
    pub fn knows_clients(&self) -> bool {
        self.direct || self.forwarded.is_some() || !self.proxy_protocol.is_empty()
    }

    /// Whether connections from this address are a proxy's that the listener lists.
    pub(super) fn lists(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxy_protocol.iter().any(|network| network.contains(&address))
            || self.forwarded.as_ref().is_some_and(|trust| trust.covers(address))
    }
}

/// TLS of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// At least one.
    pub certificates: Vec<CertificateFiles>,
    /// Authorities of client certificates; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whoever shows none is turned away.
    pub client_required: bool,
    /// TLS 1.2 is not spoken.
    pub only_tls13: bool,
}

/// Whom to believe what a header says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedTrust {
    pub networks: Vec<IpNet>,
    /// `Forwarded` is read in place of `X-Forwarded-*`. Never both: a proxy that writes one passes the other on.
    pub standard: bool,
    /// The host they name is the host asked for.
    pub host: bool,
}

impl ForwardedTrust {
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// A certificate chain and its key, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What one client, and all together, may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections open at once on one listener.
    pub max_connections: usize,
    /// Of those, how many one address may hold, or one /64 in IPv6; listed proxies are exempt.
    pub max_connections_per_peer: usize,
    /// From accepting a connection to its first complete request head.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request under way, the head of the next one included.
    pub idle_timeout: Duration,
    /// How long a write to the client may make no progress.
    pub write_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_peer: 5_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_streams: 100,
        }
    }
}
