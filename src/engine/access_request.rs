//! What a door asks about: the request in the engine's words.
//!
//! Must not hold a body, a wire shape of some proxy, or anything mutable.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::directory::Answer;
use crate::identity::{MemberRef, SocketPeer};
use crate::policy::{CanonicalPath, HostName, Reason, Refusal};
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

/// Whether a request may wait for a lookup: asked before it waits, while its caller is identified, and while facts about
/// the caller are looked up. A request that may not is refused with `caller_share`.
#[derive(Clone, Copy, Default)]
pub struct Waits<'a>(Option<&'a Allows<'a>>);

type Allows<'a> = dyn Fn(Option<&MemberRef>) -> bool + Send + Sync + 'a;

impl<'a> Waits<'a> {
    /// Asks `allows`, with the member that is calling if that is known by then.
    pub fn if_allowed(allows: &'a Allows<'a>) -> Self {
        Self(Some(allows))
    }

    pub(super) fn are_allowed(self, caller: Option<&MemberRef>) -> bool {
        self.0.is_none_or(|allows| allows(caller))
    }

    /// Refuses a request that would wait for `answer` and may not.
    pub(super) fn check<T>(self, answer: &Answer<T>, caller: &MemberRef) -> Result<(), Refusal> {
        let is_refused = answer.is_pending() && !self.are_allowed(Some(caller));
        if is_refused { Err(Reason::CallerShare.into()) } else { Ok(()) }
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
