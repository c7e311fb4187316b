//! Whether a page belongs to the host that it calls.
//!
//! Must not take a page without an `Origin` for one of ours: whether that may pass is for the caller to say.

use http::Uri;

use crate::server::Peer;

/// Whether `origin` names the host a request was sent to (RFC 6454 section 5). Under our own TLS the scheme must be `https`;
/// without it, somebody before us may have ended TLS.
pub(super) fn is_same_origin(origin: &str, authority: &str, peer: &Peer) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let (Some(scheme), Some(named)) = (origin.scheme_str(), origin.authority()) else { return false };
    let default_port = match scheme {
        "https" => 443,
        "http" if !peer.secure => 80,
        _ => return false,
    };
    let Ok(asked) = authority.parse::<http::uri::Authority>() else { return false };
    // One last dot says that the name is complete (RFC 1034 section 3.1).
    let bare = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    bare(named.host()) == bare(asked.host())
        && named.port_u16().unwrap_or(default_port) == asked.port_u16().unwrap_or(default_port)
}
