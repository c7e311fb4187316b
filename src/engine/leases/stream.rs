//! An open stream: what was asked when it was allowed, and whether it has ended since.
//!
//! Must not hold a caller's credential, nor the names of a certificate that ended meanwhile.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use futures_util::task::AtomicWaker;
use http::Method;
use jiff::Timestamp;

use crate::engine::AccessRequest;
use crate::identity::Principal;
use crate::policy::{CanonicalPath, HostName, Reason, Route, Subject};
use crate::session::ActiveSessions;
use crate::telemetry::RequestId;

/// What was asked when a stream was allowed: all that is needed to ask again.
pub(in crate::engine) struct Stream {
    pub(in crate::engine) method: Method,
    pub(in crate::engine) host: HostName,
    pub(in crate::engine) path: CanonicalPath,
    pub(in crate::engine) principal: Principal,
    /// Who was let through.
    pub(super) subject: Subject,
    /// What the caller's own token said, where that counts.
    pub(in crate::engine) vouched: Option<Arc<ActiveSessions>>,
    pub(in crate::engine) client_ip: Option<IpAddr>,
    /// As they were when it was allowed, and until when they count.
    certificate_names: Vec<String>,
    certificate_ends: Option<Timestamp>,
    /// The address at the other end of the socket, which somebody trusted may be known by.
    pub(in crate::engine) peer: Option<IpAddr>,
    /// The request it answers and its route, for the record of its end.
    pub(in crate::engine) request_id: RequestId,
    pub(in crate::engine) route: Arc<Route>,
    pub(super) ended: OnceLock<Reason>,
    pub(super) waker: AtomicWaker,
}

impl Stream {
    /// The stream that `request` of `principal` becomes.
    pub(in crate::engine) fn new(
        request: &AccessRequest<'_>,
        route: Arc<Route>,
        principal: Principal,
        subject: Subject,
        vouched: Option<Arc<ActiveSessions>>,
    ) -> Self {
        Self {
            method: request.method.clone(),
            host: request.host.clone(),
            path: request.path.clone(),
            principal,
            subject,
            vouched,
            client_ip: request.client_ip,
            certificate_names: request.peer.certificate_names.to_vec(),
            certificate_ends: request.peer.certificate_ends,
            peer: request.peer.address,
            request_id: *request.request_id,
            route,
            ended: OnceLock::new(),
            waker: AtomicWaker::new(),
        }
    }

    /// The names of its client's certificate; nothing once it has ended.
    pub(in crate::engine) fn certificate_names(&self, now: Timestamp) -> Option<&[String]> {
        let over = self.certificate_ends.is_some_and(|ends| ends <= now);
        (!over).then_some(&self.certificate_names)
    }

    /// When it must be looked at again that lasts until `expiry` as far as its caller is concerned.
    pub(in crate::engine) fn until(&self, expiry: Timestamp) -> Timestamp {
        self.certificate_ends.map_or(expiry, |ends| ends.min(expiry))
    }

    /// Ends the stream. True if it was not ended before.
    pub(in crate::engine) fn end(&self, reason: Reason) -> bool {
        let first = self.ended.set(reason).is_ok();
        self.waker.wake();
        first
    }
}
