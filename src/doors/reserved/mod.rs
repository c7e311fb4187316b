//! The reserved prefix `/.portcullis/`: ours on every host, tested before any route.
//!
//! Must not forward anything, whatever a route says, nor put a token into an answer.

mod key_set;
mod sign_out;
mod webhook;
mod whoami;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;

use self::webhook::Deliveries;
use super::settings::SignOutSettings;
use crate::engine::{AccessRequest, Engine, Page, Rules, Waits};
use crate::identity::SocketPeer;
use crate::policy::{CanonicalPath, HostName, Reason, Refusal};
use crate::revocation::Revocations;
use crate::server::Peer;
use crate::telemetry::{RequestId, TraceContext};

/// What there is under the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReservedPage {
    Webhook,
    SignOut,
    WhoAmI,
    /// The keys of the signed assertion.
    KeySet,
    /// Nothing: reserved all the same.
    Nothing,
}

impl ReservedPage {
    /// The page at `path`, or nothing if the path is not ours.
    pub(super) fn at(path: &CanonicalPath) -> Option<Self> {
        if !is_reserved(path) {
            return None;
        }
        Some(match path.as_str() {
            "/.portcullis/webhooks/stytch" => Self::Webhook,
            "/.portcullis/sign-out" => Self::SignOut,
            "/.portcullis/whoami" => Self::WhoAmI,
            "/.portcullis/jwks.json" => Self::KeySet,
            _ => Self::Nothing,
        })
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Self::Webhook => &[Method::POST],
            Self::SignOut => &[Method::GET, Method::HEAD, Method::POST],
            Self::WhoAmI | Self::KeySet => &[Method::GET, Method::HEAD],
            Self::Nothing => &[],
        }
    }
}

/// A request for a reserved page.
pub(super) struct ReservedRequest<'a> {
    pub(super) page: ReservedPage,
    pub(super) head: &'a Parts,
    /// Taken by the page that reads it.
    pub(super) body: Option<Incoming>,
    pub(super) host: &'a HostName,
    /// As the client wrote it, with its port.
    pub(super) authority: &'a str,
    pub(super) path: &'a CanonicalPath,
    pub(super) peer: &'a Peer,
    pub(super) request_id: &'a RequestId,
    pub(super) trace: &'a TraceContext,
    pub(super) rules: &'a Rules,
}

impl ReservedRequest<'_> {
    fn access(&self) -> AccessRequest<'_> {
        AccessRequest {
            method: &self.head.method,
            host: self.host,
            path: self.path,
            headers: &self.head.headers,
            peer: SocketPeer {
                address: Some(self.peer.socket),
                certificate_names: self.peer.certificate_names(),
                certificate_ends: self.peer.certificate_ends(),
            },
            client_ip: self.peer.address,
            page: Page::None,
            request_id: self.request_id,
            trace: self.trace,
            waits: Waits::default(),
        }
    }
}

/// Answers the reserved pages.
pub(super) struct ReservedPages {
    engine: Arc<Engine>,
    revocations: Revocations,
    sign_out: SignOutSettings,
    deliveries: Arc<Deliveries>,
}

/// A refusal, and whether the engine counted and recorded it already.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) recorded: bool,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { refusal: reason.into(), recorded: false }
    }
}

impl ReservedPages {
    pub(super) fn new(engine: Arc<Engine>, revocations: Revocations, sign_out: SignOutSettings) -> Self {
        Self { engine, revocations, sign_out, deliveries: Arc::new(Deliveries::new()) }
    }

    /// The same pages, signing out as `sign_out` says.
    pub(super) fn with(&self, sign_out: SignOutSettings) -> Self {
        let Self { engine, revocations, deliveries, .. } = self;
        let engine = Arc::clone(engine);
        let deliveries = Arc::clone(deliveries);
        Self { engine, revocations: revocations.clone(), sign_out, deliveries }
    }

    pub(super) async fn answer(&self, asked: &mut ReservedRequest<'_>) -> Result<Response<Bytes>, Refused> {
        if asked.page == ReservedPage::Webhook && !self.revocations.takes_webhooks() {
            return Err(Reason::ReservedPath.into());
        }
        if asked.page == ReservedPage::KeySet && asked.rules.snapshot.assertions.is_none() {
            return Err(Reason::ReservedPath.into());
        }
        let methods = asked.page.methods();
        if asked.page != ReservedPage::Nothing && !methods.contains(&asked.head.method) {
            let refusal =
                Refusal { allowed_methods: methods.to_vec(), ..Refusal::from(Reason::MethodNotAllowed) };
            return Err(Refused { refusal, recorded: false });
        }
        match asked.page {
            ReservedPage::Webhook => self.webhook(asked).await,
            ReservedPage::SignOut => self.sign_out(asked).await,
            ReservedPage::WhoAmI => self.whoami(asked).await,
            ReservedPage::KeySet => self.key_set(asked),
            ReservedPage::Nothing => Err(Reason::ReservedPath.into()),
        }
    }
}

/// What no route is asked about: a method that is not offered, or a path of our own.
pub fn refused_at_the_door(method: &Method, path: &CanonicalPath) -> Option<Reason> {
    match *method {
        Method::CONNECT => Some(Reason::ConnectRefused),
        _ => is_reserved(path).then_some(Reason::ReservedPath),
    }
}

/// Whether the path belongs to the gateway itself.
fn is_reserved(path: &CanonicalPath) -> bool {
    let begins =
        |text: &str| text.split('/').nth(1).is_some_and(|first| first.eq_ignore_ascii_case(".portcullis"));
    // A reading that is no path at all is refused by the route; here only what might be ours matters.
    begins(path.as_str())
        || path.other_readings().is_ok_and(|others| others.iter().any(|reading| begins(reading.as_str())))
}

/// An answer of ours, never stored anywhere.
fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_ours_in_every_spelling_that_is_canonical() {
        for (path, ours) in [
            ("/.portcullis", true),
            ("/.portcullis/", true),
            ("/.PORTCULLIS/x", true),
            ("/%2eportcullis/x", true),
            ("/a/../.portcullis/x", true),
            ("/.portcullis;x", true),
            ("/.portcullis%2Fwhoami", true),
            ("/.portcullis./whoami", true),
            ("/.portcullis%20/whoami", true),
            ("/.portcullis%3Fx", true),
            ("/.portcullisx", false),
            ("/a/.portcullis", false),
        ] {
            assert_eq!(is_reserved(&CanonicalPath::parse(path).unwrap()), ours, "{path}");
        }
    }
}
