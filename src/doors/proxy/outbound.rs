//! What the origin is sent in place of what the client sent: composed field by field, in one order, whatever it is sent as.
//!
//! Must not put in a client's word for anything of ours, nor two fields where the origin must find one.

use std::net::IpAddr;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::hop_by_hop::HopByHop;
use super::trailers::announced_trailers;
use super::{Intake, REQUEST_ID};
use crate::doors::request_log::RequestLog;
use crate::engine::{Fields, HeaderEdits, Snapshot};
use crate::server::Peer;
use crate::telemetry::TraceContext;
use crate::upstream::RequestHead;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Fields that are put in besides the client's: a map that is grown once is not grown twice.
const BESIDES: usize = 20;

impl Fields for RequestHead {
    fn put(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.field(name, value);
    }
}

/// All that goes into it.
pub(super) struct Outbound<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) intake: &'a Intake,
    pub(super) peer: &'a Peer,
    pub(super) edits: &'a HeaderEdits,
    pub(super) snapshot: &'a Snapshot,
    pub(super) request_log: &'a RequestLog,
    /// The span the origin is asked in.
    pub(super) trace: &'a TraceContext,
}

impl Outbound<'_> {
    /// A whole request without a body.
    pub(super) fn head(&self) -> Option<RequestHead> {
        let mut head = RequestHead::new(&self.intake.method, &self.path_and_query()?);
        self.compose(&mut head);
        head.put(&header::HOST, &self.intake.authority_value);
        if takes_a_body(&self.intake.method) {
            head.field(&header::CONTENT_LENGTH, &HeaderValue::from_static("0"));
        }
        Some(head)
    }

    /// The target and the fields over HTTP/1.1. They say how long the body is as the gateway counts it: what the client said about that ends here.
    pub(super) fn http1(&self, body: &Incoming) -> Option<(Uri, HeaderMap)> {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + BESIDES);
        self.compose(&mut headers);
        headers.put(&header::HOST, &self.intake.authority_value);
        if !body.is_end_stream() {
            match body.size_hint().exact() {
                Some(length) => headers.put(&header::CONTENT_LENGTH, &HeaderValue::from(length)),
                None => headers.put(&header::TRANSFER_ENCODING, &HeaderValue::from_static("chunked")),
            }
        } else if takes_a_body(&self.intake.method) {
            headers.put(&header::CONTENT_LENGTH, &HeaderValue::from_static("0"));
        }
        Some((self.path_and_query()?.into(), headers))
    }

    /// The same over HTTP/2, which frames by itself; the host is in the target (RFC 9113 section 8.3.1).
    pub(super) fn http2(&self, scheme: Scheme, body: &Incoming) -> Option<(Uri, HeaderMap)> {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + BESIDES);
        self.compose(&mut headers);
        if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
            headers.put(&header::CONTENT_LENGTH, &HeaderValue::from(length));
        }
        let uri = Uri::builder().scheme(scheme).authority(&*self.intake.authority);
        let target = uri.path_and_query(self.path_and_query()?).build().ok()?;
        Some((target, headers))
    }

    /// The order is the point: what concerns one connection and what is ours goes first, and ours is put in last.
    fn compose(&self, fields: &mut impl Fields) {
        let Self { headers, edits, peer, request_log, intake, snapshot, trace } = self;
        let hops = HopByHop::of(headers);
        let mut announces = false;
        let options = intake.method == Method::OPTIONS;
        for (name, value) in *headers {
            if hops.covers(name) {
                continue;
            }
            announces |= *name == header::TRAILER;
            let rewritten =
                matches!(*name, header::HOST | header::CONTENT_LENGTH | header::EXPECT | header::TRAILER);
            if rewritten || edits.removes(name, peer.is_proxy) {
                request_log.note_odd(name);
            } else if options && *name == header::MAX_FORWARDS {
                fields.put(name, &one_less(value));
            } else {
                fields.put(name, value);
            }
        }
        if hops.takes_trailers {
            fields.put(&header::TE, &HeaderValue::from_static("trailers"));
        }
        if announces && let Some(trailers) = announced_trailers(headers, &snapshot.managed_names) {
            fields.put(&header::TRAILER, &trailers);
        }
        if !hops.covers(&header::COOKIE)
            && let Some(cookies) = edits.other_cookies(headers)
        {
            fields.put(&header::COOKIE, &cookies);
        }
        if request_log.joins_trace
            && !hops.covers(&TRACESTATE)
            && let Some(state) = headers.get(TRACESTATE)
        {
            fields.put(&TRACESTATE, state);
        }
        edits.inject(fields);
        let scheme = if peer.secure { "https" } else { "http" };
        fields.put(&FORWARDED_FOR, &peer.forwarded_for());
        fields.put(&FORWARDED_PROTO, &HeaderValue::from_static(scheme));
        fields.put(&FORWARDED_HOST, &intake.authority_value);
        if let Ok(forwarded) = HeaderValue::try_from(forwarded(peer, &intake.authority, scheme)) {
            fields.put(&header::FORWARDED, &forwarded);
        }
        fields.put(&REQUEST_ID, &request_log.request_id.header());
        fields.put(&TRACEPARENT, &trace.header());
    }

    /// The canonical path and the query as sent.
    fn path_and_query(&self) -> Option<PathAndQuery> {
        let path = self.intake.path.as_str();
        let text = match &self.intake.query {
            Some(query) => [path, "?", query].concat(),
            None => path.to_owned(),
        };
        PathAndQuery::try_from(text).ok()
    }
}

/// What is left of `Max-Forwards` for the next recipient (RFC 9110 section 7.6.2).
fn one_less(value: &HeaderValue) -> HeaderValue {
    let number = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    number.map_or_else(|| value.clone(), |number| HeaderValue::from(number.saturating_sub(1)))
}

/// Whether a request by `method` that has no body must say so (RFC 9110 section 8.6).
fn takes_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// RFC 7239; an IPv6 address is bracketed and quoted. Proxies the request came through follow the client.
fn forwarded(peer: &Peer, authority: &str, scheme: &str) -> String {
    let (open, close) = around(peer.address);
    let address = peer.address_value.to_str().unwrap_or_default();
    let mut text = ["for=", open, address, close, ";host=\"", authority, "\";proto=", scheme].concat();
    for hop in &peer.hops {
        let (open, close) = around(Some(*hop));
        text.extend([", for=", open, &hop.to_string(), close]);
    }
    text
}

fn around(address: Option<IpAddr>) -> (&'static str, &'static str) {
    match address {
        None | Some(IpAddr::V4(_)) => ("", ""),
        Some(IpAddr::V6(_)) => ("\"[", "]\""),
    }
}
