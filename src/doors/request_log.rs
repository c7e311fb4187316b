//! What is written down about one request, once, when its response has ended.
//!
//! Must not be kept past the response, nor hold a query or a credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderName, Method, Request, StatusCode, Version, header};
use jiff::Timestamp;

use super::asking::Asking;
use crate::engine::is_odd;
use crate::policy::{HostName, Reason};
use crate::server::Peer;
use crate::telemetry::{
    AccessRecord, LineWriter, Metrics, RequestId, RouteMetrics, TraceContext, Tracer, method_label,
};
use crate::upstream::Slot;

/// What nginx taught everybody to read as "the client left before the answer".
const CLIENT_LEFT: u16 = 499;

/// As much of a client's program, and of where it came from, as is written down, in bytes.
const MOST_OF_A_NAME: usize = 512;

/// The log of one request. Dropping it writes the access line and counts the request.
pub(super) struct RequestLog {
    pub(super) request_id: RequestId,
    pub(super) trace: TraceContext,
    /// The trace is one a listed proxy began.
    pub(super) joins_trace: bool,
    pub(super) method: Method,
    pub(super) host: Option<HostName>,
    /// The canonical text; its readings go once it is decided on.
    pub(super) path: Option<Arc<str>>,
    /// A path that has no canonical form, or as much of it as is written down.
    pub(super) odd_path: String,
    pub(super) route: Option<Arc<str>>,
    pub(super) reason: Option<Reason>,
    pub(super) upstream: Option<Arc<str>>,
    pub(super) upstream_took: Option<Duration>,
    pub(super) status: Option<StatusCode>,
    pub(super) request_bytes: Arc<AtomicU64>,
    pub(super) response_bytes: u64,
    /// Set once the response body ended as it should.
    pub(super) complete: bool,
    pub(super) version: Version,
    /// The request came with a body nobody has read yet.
    pub(super) unread_body: bool,
    /// What a refusal's answer depends on.
    pub(super) asking: Asking,
    /// Its slot among the requests that are worked on; given back when the answer is our own.
    pub(super) slot: Option<Slot>,
    peer: Arc<Peer>,
    began: Instant,
    metrics: Metrics,
    lines: LineWriter,
    /// Where the client came from, if lines name that.
    referrer: Option<Box<[u8]>>,
    /// What the client calls itself, likewise.
    user_agent: Option<Box<[u8]>>,
}

impl RequestLog {
    pub(super) fn open<B>(
        request: &Request<B>,
        unread_body: bool,
        peer: &Arc<Peer>,
        metrics: &Metrics,
        lines: &LineWriter,
        tracer: &Tracer,
    ) -> Box<Self> {
        metrics.http_requests_in_flight.inc();
        let named = |name: &str| {
            // Only a listed proxy is believed what it calls a request.
            peer.is_proxy.then(|| request.headers().get(name)?.to_str().ok()).flatten()
        };
        let request_id = named("x-request-id").and_then(RequestId::parse).unwrap_or_default();
        let named_in_lines = |name: &HeaderName| {
            // A copy of its beginning: the value itself would keep the whole head of the request.
            let value = lines.names_agents().then(|| request.headers().get(name)).flatten()?.as_bytes();
            value.get(..value.len().min(MOST_OF_A_NAME)).map(Box::from)
        };
        let joined = named("traceparent").and_then(|text| tracer.join(text));
        Box::new(Self {
            joins_trace: joined.is_some(),
            trace: joined.unwrap_or_else(|| tracer.begin(&request_id)),
            request_id,
            method: request.method().clone(),
            host: None,
            path: None,
            odd_path: String::new(),
            route: None,
            reason: None,
            upstream: None,
            upstream_took: None,
            status: None,
            request_bytes: Arc::new(AtomicU64::new(0)),
            response_bytes: 0,
            complete: false,
            slot: None,
            peer: Arc::clone(peer),
            version: request.version(),
            unread_body,
            asking: Asking::of(request.method(), request.headers(), request.version()),
            began: Instant::now(),
            metrics: metrics.clone(),
            lines: lines.clone(),
            referrer: named_in_lines(&header::REFERER),
            user_agent: named_in_lines(&header::USER_AGENT),
        })
    }
}

/// Whether a dropped field was told of already: anybody can send one.
static TOLD_OF_ODD_FIELD: AtomicBool = AtomicBool::new(false);

impl RequestLog {
    /// Counts a field that was dropped for its name alone, and says so once.
    pub(super) fn note_odd(&self, name: &HeaderName) {
        if !is_odd(name.as_str()) {
            return;
        }
        self.metrics.http_fields_dropped.inc();
        if !TOLD_OF_ODD_FIELD.swap(true, Ordering::Relaxed) {
            tracing::debug!(
                name = name.as_str(),
                "dropped a header field with a byte outside `[A-Za-z0-9-]` in its name"
            );
        }
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// The whole of the request in its trace, in the words of OpenTelemetry's conventions for HTTP. Where it came from and
    /// what it asked for by name are left out: both can say who somebody is.
    fn end_span(&self, status: u16, method: &'static str) {
        let name = || match &self.route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        };
        let Some(mut span) = self.trace.served(name, self.began) else { return };
        span.note("http.request.method", method);
        span.note("url.scheme", if self.peer.secure { "https" } else { "http" });
        span.note("network.protocol.version", self.protocol().trim_start_matches("HTTP/"));
        span.note("http.response.status_code", u64::from(status));
        span.note("http.request.body.size", self.request_bytes.load(Ordering::Relaxed));
        span.note("http.response.body.size", self.response_bytes);
        span.note("portcullis.request_id", self.request_id.to_string());
        span.note("portcullis.listener", self.peer.listener.to_string());
        span.note_some("portcullis.route", self.route.as_deref().map(str::to_owned));
        span.note_some("portcullis.upstream", self.upstream.as_deref().map(str::to_owned));
        span.note_some("portcullis.reason", self.reason.map(Reason::code));
        if status >= 500 {
            span.fail(self.reason.map_or("5xx", Reason::code));
        } else if !self.complete && self.status.is_some() {
            span.fail("incomplete");
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let status = self.status.map_or(CLIENT_LEFT, |status| status.as_u16());
        let route = self.route.as_deref().unwrap_or("none");
        let method = method_label(&self.method);
        let metrics = &self.metrics;
        let listener = &self.peer.listener;
        metrics.http_requests_in_flight.dec();
        match &self.route {
            Some(route) => RouteMetrics::with(metrics, route, |known| {
                known.count_answer(metrics, listener, method, status, code_label);
                known.request_duration.observe(took.as_secs_f64());
            }),
            None => {
                let labels = [&**listener, route, method, &code_label(status)];
                metrics.http_requests.with_label_values(&labels).inc();
                metrics.http_request_duration.with_label_values(&[route]).observe(took.as_secs_f64());
            }
        }
        self.end_span(status, method);
        if !self.lines.is_on() {
            return;
        }
        let record = AccessRecord {
            at: Timestamp::now(),
            request_id: self.request_id.as_str(),
            trace_id: self.trace.trace_id(),
            listener: &self.peer.listener,
            client_ip: self.peer.address_value.to_str().unwrap_or_default(),
            protocol: self.protocol(),
            method,
            host: self.host.as_ref().map(HostName::as_str).unwrap_or_default(),
            path: self.path.as_deref().unwrap_or(&self.odd_path),
            route,
            status,
            reason: self.reason.map(Reason::code),
            upstream: self.upstream.as_deref(),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            response_bytes: self.response_bytes,
            took,
            upstream_took: self.upstream_took,
            complete: self.complete,
            referrer: self.referrer.as_deref(),
            user_agent: self.user_agent.as_deref(),
        };
        self.lines.access(&record);
    }
}

/// The status as a label; an origin may answer any number, so the odd ones share a label per class.
fn code_label(status: u16) -> String {
    let known = StatusCode::from_u16(status).ok().is_some_and(|code| code.canonical_reason().is_some());
    if known || status == CLIENT_LEFT { status.to_string() } else { format!("{}xx", status / 100) }
}
