//! What a door asks about: the request in the engine's words.
//!
//! Must not hold a body, a wire shape of some proxy, or anything mutable.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::identity::{Principal, SocketPeer};
use crate::policy::{CanonicalPath, HostName};
use crate::telemetry::{RequestId, TraceContext};

/// A request to decide on. The path is the one that will be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    pub method: &'a Method,
    pub host: &'a HostName,
    pub path: &'a CanonicalPath,
    pub headers: &'a HeaderMap,
    pub peer: SocketPeer<'a>,
    /// The client's own address, which a listed proxy may have named; what networks are asked about.
    pub client_ip: Option<IpAddr>,
    /// The page that opens a WebSocket; for any other request there is none.
    pub page: Page<'a>,
    pub request_id: &'a RequestId,
    pub trace: &'a TraceContext,
    pub waits: Waits<'a>,
}

/// Whether a request may wait for a lookup: asked once its caller is being identified, and again once the caller is known
/// and facts about them are looked up. A request that may not is refused with `caller_share`.
#[derive(Clone, Copy, Default)]
pub struct Waits<'a>(Option<&'a Allows<'a>>);

type Allows<'a> = dyn Fn(Option<&Principal>) -> bool + Send + Sync + 'a;

impl<'a> Waits<'a> {
    /// Asks `allows` with the caller, if known, before the first wait of either kind.
    pub fn if_allowed(allows: &'a Allows<'a>) -> Self {
        Self(Some(allows))
    }

    pub(super) fn are_allowed(self, caller: Option<&Principal>) -> bool {
        self.0.is_none_or(|allows| allows(caller))
    }
}

impl fmt::Debug for Waits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").finish_non_exhaustive()
    }
}

/// The page that opens a WebSocket, as the browser names it in `Origin` (RFC 6455 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Page<'a> {
    /// No browser's request, or none for a WebSocket.
    #[default]
    None,
    /// A page of the host that is asked.
    SameHost,
    /// Any other, as it was written.
    Other(&'a [u8]),
}
