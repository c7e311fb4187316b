//! What the doors are set up with, already checked.
//!
//! Must not read anything: plain values only.

use std::time::Duration;

use http::HeaderValue;

/// What signing out does besides ending the session.
#[derive(Debug, Clone)]
pub struct SignOutSettings {
    /// A path, or a URL; a page of ours if there is none.
    pub redirect_to: Option<HeaderValue>,
    /// The content security policy of the form: browsers hold the redirect after it to the same list.
    pub form_policy: HeaderValue,
    /// The domain the session cookies were set for, besides the host itself.
    pub cookie_domain: Option<String>,
    /// Origins besides our own whose pages may sign out.
    pub origins: Vec<String>,
}

impl Default for SignOutSettings {
    fn default() -> Self {
        Self {
            redirect_to: None,
            form_policy: HeaderValue::from_static(
                "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
            ),
            cookie_domain: None,
            origins: Vec::new(),
        }
    }
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
