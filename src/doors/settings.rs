//! What the doors are set up with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

/// What signing out does besides ending the session.
#[derive(Debug, Clone, Default)]
pub struct SignOutSettings {
    /// A path, or a URL; a page of ours if there is none.
    pub redirect_to: Option<String>,
    /// The domain the session cookies were set for, besides the host itself.
    pub cookie_domain: Option<String>,
    /// Origins besides our own whose pages may sign out.
    pub origins: Vec<String>,
}

/// Limits of the proxy door.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// How long a body may stand still between two pieces.
    pub body_timeout: Duration,
    /// How long a tunnel may stand still in both directions.
    pub tunnel_timeout: Duration,
    pub max_request_bytes: u64,
    pub sign_out: SignOutSettings,
}
