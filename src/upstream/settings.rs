//! What an application is reached with, already checked.
//!
//! Must not read anything: plain values only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a server of an application is.
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

    /// Whether it is spoken to under TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self.0, Transport::Tcp { tls: true, .. })
    }
}

/// How an origin is known under TLS, and how we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginTls {
    /// Authorities that are believed in place of the usual ones.
    pub ca_file: Option<PathBuf>,
    /// The certificate shown to an origin that asks for one, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The name asked for and verified, where it is not the host of the address.
    pub server_name: Option<String>,
}

/// Sending a request again, to another server where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// Further tries of one request; none: zero.
    pub attempts: u32,
    /// Retries allowed for each hundred requests.
    pub budget_percent: u32,
    /// How long a try that can be repeated may take to the head of its response.
    pub per_try_timeout: Option<Duration>,
}

/// Asking servers how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// In origin form.
    pub path: String,
    pub every: Duration,
    pub timeout: Duration,
    /// Failures in a row after which a server is left out.
    pub unhealthy_after: u32,
    /// Successes in a row after which it is back.
    pub healthy_after: u32,
}

/// Leaving out servers that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionSettings {
    /// Requests in a row without an answer.
    pub after: u32,
    /// How long, the first time; each further time in a row doubles it, up to ten times.
    pub period: Duration,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSettings {
    /// For logs and metric labels.
    pub name: Arc<str>,
    /// At least one.
    pub servers: Vec<OriginAddress>,
    /// Whether HTTP/2 is spoken to it in place of HTTP/1.1: by prior knowledge in the clear, by ALPN under TLS
    /// (RFC 9113 section 3).
    pub http2: bool,
    pub tls: OriginTls,
    pub connect_timeout: Duration,
    /// From the last byte sent of the request to the head of the response.
    pub response_timeout: Duration,
    /// From taking the request to the head of the response, every wait and every try included.
    pub deadline: Option<Duration>,
    /// How long an unused connection is kept; below the origin's own keep-alive.
    pub idle_timeout: Duration,
    /// Connections to one server at once.
    pub max_connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: usize,
    /// Tunnels and event streams at once with one server; none: as many as requests.
    pub max_open_streams: Option<usize>,
    pub caller_share: CallerShare,
    /// Requests waiting for a place at one server.
    pub max_waiting: usize,
    /// How long a request may wait for a place.
    pub wait_timeout: Duration,
    /// How often the addresses of names are looked up.
    pub resolve_every: Duration,
    pub retries: RetrySettings,
    pub health: Option<HealthSettings>,
    pub ejection: EjectionSettings,
    pub may_set: MaySet,
}

/// What an application's answers may set at the client beside its own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaySet {
    /// The session cookies that the gateway reads: an application that signs people in sets them.
    pub session_cookies: bool,
    /// Another service for the same origin (RFC 7838), which clients would then use in place of the gateway.
    pub alt_svc: bool,
}

impl Default for MaySet {
    fn default() -> Self {
        Self { session_cookies: true, alt_svc: false }
    }
}

/// What one caller may hold of a limit while more than half of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerShare {
    /// One part in so many; at least 1, which is the whole limit.
    pub parts: usize,
}

impl Default for CallerShare {
    fn default() -> Self {
        Self { parts: 8 }
    }
}
