//! The proxy door: reads a request strictly, asks the engine, and forwards what may pass.
//!
//! Must not forward without a `Permit`, nor change a request in any way the engine's edits do not say.

mod bodies;
mod forward;
mod hop_by_hop;
mod intake;
mod outbound;
mod site;
mod trailers;
mod tunnel;
mod websocket;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use self::bodies::{RequestBody, ResponseBody};
use self::hop_by_hop::asks_for_websocket;
use self::intake::{Intake, Taken, take_in};
pub use self::site::ProxySite;
use self::site::Site;
pub use self::websocket::FrameTracker;
use super::cors::{preflight, share};
use super::request_log::RequestLog;
use super::reserved::{Refused, ReservedPage, ReservedRequest};
use super::same_origin::is_same_origin;
use crate::engine::{AccessRequest, Engine, ManagedNames, Page, Rules, Ticket, Waits};
use crate::identity::{MemberRef, SocketPeer};
use crate::policy::{Decision, Reason, Refusal};
use crate::revocation::Revocations;
use crate::server::{Drain, Peer, Serve};
use crate::telemetry::{LineWriter, Metrics, Tracer};
use crate::upstream::Origin;

/// The origins by upstream name.
pub type Origins = HashMap<Arc<str>, Origin<RequestBody>>;

/// The door for traffic. Cheap to clone.
#[derive(Clone)]
pub struct ProxyDoor(Arc<Inner>);

struct Inner {
    engine: Arc<Engine>,
    site: ArcSwap<Site>,
}

impl ProxyDoor {
    pub fn new(
        engine: Arc<Engine>,
        revocations: Revocations,
        site: ProxySite,
        drain: Drain,
        metrics: Metrics,
        lines: LineWriter,
    ) -> Self {
        let site = Site::new(Arc::clone(&engine), revocations, site, drain, metrics, lines);
        Self(Arc::new(Inner { engine, site: ArcSwap::from_pointee(site) }))
    }

    /// Answers requests by `site` from now on; those under way are answered by what they began with.
    pub fn replace(&self, site: ProxySite) {
        let next = self.0.site.load().succeeded_by(site);
        self.0.site.store(Arc::new(next));
    }

    /// The applications requests are sent to now.
    pub fn origins(&self) -> Origins {
        self.0.site.load().origins.clone()
    }

    /// Which traces are recorded now.
    pub fn tracer(&self) -> Tracer {
        self.0.site.load().tracer.clone()
    }
}

impl Serve for ProxyDoor {
    type Body = ResponseBody;

    async fn serve(&self, request: Box<Request<Incoming>>, peer: Arc<Peer>) -> Response<ResponseBody> {
        // In this order: an event in between reaches whatever the request becomes.
        let ticket = self.0.engine.ticket();
        let site = self.0.site.load_full();
        let peer = site.peer(&peer, request.headers());
        let unread = !request.body().is_end_stream();
        let request_log = RequestLog::open(&request, unread, &peer, &site.metrics, &site.lines, &site.tracer);
        let version = request.version();
        let cors = site.refusals.settings().cors.as_ref();
        let page = cors.and_then(|_| request.headers().get(header::ORIGIN).cloned());
        let mut response = site.answer(request, &peer, ticket, request_log).await;
        if let Some(cors) = cors.filter(|cors| cors.applications || response.body().is_own()) {
            share(cors, page.as_ref(), response.headers_mut());
        }
        if peer.secure
            && let Some(hsts) = site.listener(&peer).and_then(|listener| listener.hsts.as_ref())
        {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version != Version::HTTP_2 && !switches && site.drain.is_announced() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Site {
    /// What is rarely waited for waits in a box: this future is moved more than once before it is first polled.
    async fn answer(
        &self,
        request: Box<Request<Incoming>>,
        peer: &Arc<Peer>,
        ticket: Ticket,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        // A proxy in front names us as it likes.
        let server_name = peer.server_name.as_deref().filter(|_| !peer.is_proxy);
        let intake = match take_in(&request, peer.host.as_deref(), server_name, &self.settings) {
            Ok(Taken::Request(intake)) => intake,
            Ok(Taken::ServerOptions) => return self.options(request_log),
            Err(reason) => {
                request_log.odd_path = request.uri().path().chars().take(256).collect();
                return Box::pin(self.refuse_unread(request, peer, reason, request_log)).await;
            }
        };
        request_log.host = Some(intake.host.clone());
        request_log.path = Some(intake.path.shared_text());
        request_log.method = intake.method.clone();
        if !peer.secure
            && let Some(port) = self.listener(peer).and_then(|listener| listener.redirect_to_https)
        {
            return self.redirect_to_https(&intake, port, request_log);
        }
        let method = &intake.method;
        let headers = request.headers();
        let settings = self.refusals.settings();
        if let Some(sign_in) = &settings.sign_in {
            let https = sign_in.https.unwrap_or(peer.secure);
            let target = (intake.path.as_str(), intake.query.as_deref());
            let asking = std::mem::take(&mut request_log.asking);
            request_log.asking = asking.coming_back(method, headers, https, &intake.authority, target);
        }
        if let Some(answer) = settings.cors.as_ref().and_then(|cors| preflight(cors, method, headers)) {
            request_log.status = Some(answer.status());
            return self.finish(answer, request_log);
        }
        if let Some(page) = ReservedPage::at(&intake.path) {
            if intake.extended_connect {
                return Box::pin(self.refuse_unread(request, peer, Reason::ConnectRefused, request_log))
                    .await;
            }
            return Box::pin(self.reserved_page(page, request, &intake, peer, ticket, request_log)).await;
        }
        // Reserved pages take no slot: revocations arrive on one of them, and each has its own limit.
        request_log.slot = self.requests.take(None).ok();
        if request_log.slot.is_none() {
            let reason = Reason::Overloaded;
            let reason = self.engine.record_refusal(&request_log.request_id, &request_log.trace, reason);
            return self.refuse(&reason.into(), request_log);
        }
        let slot = request_log.slot.as_ref();
        let may_wait = |member: Option<&MemberRef>| {
            slot.is_some_and(|slot| slot.claim(self.waiting_caller(member, peer)))
        };
        let asked = AccessRequest {
            method: &intake.method,
            host: &intake.host,
            path: &intake.path,
            headers: request.headers(),
            peer: SocketPeer {
                address: Some(peer.socket),
                certificate_names: peer.certificate_names(),
                certificate_ends: peer.certificate_ends(),
            },
            client_ip: peer.address,
            page: page_of(&request, &intake, peer),
            request_id: &request_log.request_id,
            trace: &request_log.trace,
            waits: Waits::if_allowed(&may_wait),
        };
        let rules = Rules::new(ticket, Arc::clone(&self.snapshot));
        let verdict = self.engine.check(&asked, rules).await;
        // Registered before it is sent on: from here on an event reaches it.
        let lease = self.engine.lease(&asked, &verdict).map(Arc::new);
        request_log.route = verdict.route.as_ref().map(|route| Arc::clone(&route.name));
        match verdict.decision {
            Decision::Refuse(refusal) => {
                let (head, body) = (*request).into_parts();
                Box::pin(self.discard_body(&head.headers, body, peer, &mut request_log)).await;
                if refusal.reason == Reason::CallerShare {
                    return self.refuse_share("requests", request_log);
                }
                self.refuse(&refusal, request_log)
            }
            Decision::Allow(_) if ends_here(&intake.method, request.headers()) => {
                let (head, body) = (*request).into_parts();
                Box::pin(self.discard_body(&head.headers, body, peer, &mut request_log)).await;
                self.options(request_log)
            }
            Decision::Allow(permit) => {
                let caller = self.caller(&permit, peer);
                if request_log.slot.as_ref().is_some_and(|slot| !slot.claim(caller)) {
                    let (head, body) = (*request).into_parts();
                    Box::pin(self.discard_body(&head.headers, body, peer, &mut request_log)).await;
                    return self.refuse_share("requests", request_log);
                }
                self.forward(
                    request,
                    &intake,
                    peer,
                    &permit,
                    caller,
                    &verdict.edits,
                    &verdict.snapshot,
                    lease,
                    request_log,
                )
                .await
            }
        }
    }

    /// The same again, under TLS: whatever the method, so that nothing is lost on the way (RFC 9110 section 15.4.9).
    fn redirect_to_https(
        &self,
        intake: &Intake,
        port: u16,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        let mut place = format!("https://{}", intake.host.as_str());
        if port != 443 {
            place.push_str(&format!(":{port}"));
        }
        place.push_str(intake.path.as_str());
        if let Some(query) = &intake.query {
            place.push('?');
            place.push_str(query);
        }
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        if let Ok(place) = HeaderValue::try_from(place) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        request_log.status = Some(StatusCode::PERMANENT_REDIRECT);
        self.finish(response, request_log)
    }

    /// Answers a reserved page.
    async fn reserved_page(
        &self,
        page: ReservedPage,
        request: Box<Request<Incoming>>,
        intake: &Intake,
        peer: &Arc<Peer>,
        ticket: Ticket,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        let rules = Rules::new(ticket, Arc::clone(&self.snapshot));
        let request_id = request_log.request_id;
        let trace = request_log.trace.clone();
        let (head, body) = (*request).into_parts();
        let mut asked = ReservedRequest {
            page,
            head: &head,
            body: Some(body),
            host: &intake.host,
            authority: &intake.authority,
            path: &intake.path,
            peer,
            request_id: &request_id,
            trace: &trace,
            rules: &rules,
        };
        let answered = self.reserved.answer(&mut asked).await;
        match asked.body {
            Some(body) => self.discard_body(&head.headers, body, peer, &mut request_log).await,
            None => request_log.unread_body = answered.is_err(),
        }
        match answered {
            Ok(mut response) => {
                request_log.status = Some(response.status());
                response.headers_mut().insert(REQUEST_ID, request_log.request_id.header());
                self.finish(response, request_log)
            }
            Err(Refused { mut refusal, recorded }) => {
                if !recorded {
                    let reason = self.engine.record_refusal(&request_id, &trace, refusal.reason);
                    if reason != refusal.reason {
                        refusal = reason.into();
                    }
                }
                self.refuse(&refusal, request_log)
            }
        }
    }

    /// Refuses what never came before the engine, counted and recorded as its refusals are.
    async fn refuse_unread(
        &self,
        request: Box<Request<Incoming>>,
        peer: &Peer,
        reason: Reason,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        let reason = self.engine.record_refusal(&request_log.request_id, &request_log.trace, reason);
        let (head, body) = (*request).into_parts();
        self.discard_body(&head.headers, body, peer, &mut request_log).await;
        let mut refusal = Refusal::from(reason);
        if reason == Reason::MethodNotAllowed {
            // Only TRACE is refused before a route is known.
            refusal.allowed_methods = FORWARDED_METHODS.to_vec();
        }
        self.refuse(&refusal, request_log)
    }

    fn refuse(&self, refusal: &Refusal, mut request_log: Box<RequestLog>) -> Response<ResponseBody> {
        request_log.reason = Some(refusal.reason);
        let response = self.refusals.response(
            refusal,
            &request_log.method,
            &request_log.asking,
            &request_log.request_id,
        );
        request_log.status = Some(response.status());
        self.finish(response, request_log)
    }

    /// Refuses a caller that holds its share of a limit.
    fn refuse_share(&self, limit: &str, request_log: Box<RequestLog>) -> Response<ResponseBody> {
        self.metrics.caller_share_refusals.with_label_values(&[limit]).inc();
        self.refuse(&Reason::CallerShare.into(), request_log)
    }

    /// An answer of our own, with the log of its request. A client that does not read it does not occupy a slot.
    fn finish(
        &self,
        mut response: Response<Bytes>,
        mut request_log: Box<RequestLog>,
    ) -> Response<ResponseBody> {
        request_log.slot = None;
        // What follows an unread body or a malformed request on its connection must not be taken for a request.
        if request_log.version != Version::HTTP_2
            && (request_log.unread_body || response.status() == StatusCode::BAD_REQUEST)
        {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|bytes| ResponseBody::own(bytes, &self.managed_names(), request_log))
    }

    /// The answer to an OPTIONS of which the gateway is the last recipient: that it is here.
    fn options(&self, mut request_log: Box<RequestLog>) -> Response<ResponseBody> {
        request_log.status = Some(StatusCode::NO_CONTENT);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        self.finish(response, request_log)
    }

    /// Reads the rest of a refused body, within bounds: a connection that is closed on unread bytes is reset, and the client
    /// may never see the refusal. Reads nothing of a client that waits for `100 Continue`. The request gives back its slot
    /// first, so that a slow body does not occupy one.
    async fn discard_body(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
        peer: &Peer,
        request_log: &mut RequestLog,
    ) {
        request_log.slot = None;
        if !request_log.unread_body || headers.contains_key(header::EXPECT) {
            return;
        }
        let Ok(_slot) = self.discards.take(self.waiting_caller(None, peer)) else { return };
        let reading = async {
            let mut left = DISCARDED_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.checked_sub(frame.data_ref().map_or(0, Bytes::len))?;
            }
            Some(())
        };
        let whole = tokio::time::timeout(DISCARD_WITHIN, reading).await;
        request_log.unread_body = !matches!(whole, Ok(Some(())));
    }

    fn managed_names(&self) -> Arc<ManagedNames> {
        Arc::clone(&self.snapshot.managed_names)
    }
}

/// The page that asks for a WebSocket, over either version of HTTP.
fn page_of<'a>(request: &'a Request<Incoming>, intake: &Intake, peer: &Peer) -> Page<'a> {
    if !intake.extended_connect && !asks_for_websocket(request.headers()) {
        return Page::None;
    }
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Page::None,
        (Some(origin), None) => {
            let same = origin.to_str().is_ok_and(|text| is_same_origin(text, &intake.authority, peer));
            if same { Page::SameHost } else { Page::Other(origin.as_bytes()) }
        }
        // No browser names two; which of them an application believes is not known.
        (Some(_), Some(_)) => Page::Other(b"null"),
    }
}

/// Whether the request says that we are its last recipient (RFC 9110 section 7.6.2).
fn ends_here(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.get(header::MAX_FORWARDS).is_some_and(|left| {
            let left = left.as_bytes();
            !left.is_empty() && left.iter().all(|digit| *digit == b'0')
        })
}

const FORWARDED_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// The most of a refused body that is read.
const DISCARDED_BYTES: usize = 1024 * 1024;
/// How long reading a refused body may hold up the refusal.
const DISCARD_WITHIN: Duration = Duration::from_millis(500);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
