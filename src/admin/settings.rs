//! What the admin API is built with, already checked.
//!
//! Must not read anything: plain values only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;

use crate::identity::Secret;

/// The ops listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsSettings {
    pub address: SocketAddr,
    pub probes: Vec<ProbeSettings>,
}

/// A probe of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSettings {
    /// As it is asked for.
    pub name: String,
    /// The application's name.
    pub upstream: Arc<str>,
    pub path: PathAndQuery,
    pub timeout: Duration,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    pub address: SocketAddr,
    /// What a caller must show as a bearer token. Without one nothing can be changed, and there is only the page.
    pub token: Option<Secret>,
}
