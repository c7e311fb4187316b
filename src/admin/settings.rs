//! What the admin API is built with, already checked.
//!
//! Must not read anything: plain values only.

use std::net::SocketAddr;

use crate::identity::Secret;

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    pub address: SocketAddr,
    /// What a caller must show as a bearer token. Without one nothing can be changed, and there is only the page.
    pub token: Option<Secret>,
}
