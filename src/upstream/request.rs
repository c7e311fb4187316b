//! A request as it is handed over: written already, or still in its parts.
//!
//! Must not change a field: what is sent was composed by whoever asks.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

/// Room for nearly every head.
const USUAL_BYTES: usize = 1024;

/// What is sent to an origin.
pub enum OriginRequest<B> {
    /// Without a body, over HTTP/1.1.
    Head(Box<RequestHead>),
    /// With a body, for a tunnel, or over HTTP/2. Its URI is in origin form, or absolute where HTTP/2 is spoken.
    ///
    /// In a box: it goes through many hands, and each makes room for it.
    Request(Box<Request<B>>),
}

impl<B> OriginRequest<B> {
    /// Whether its credentials make the connection its user's.
    pub(super) fn binds_connection(&self) -> bool {
        match self {
            Self::Head(head) => head.binds_connection,
            Self::Request(request) => binds_connection(request.headers(), header::AUTHORIZATION),
        }
    }

    /// What it has to be sent on.
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::Head(head) => Needs { plain: true, may_last: head.accepted == Accepted::EventStream },
            Self::Request(request) => {
                let headers = request.headers();
                let accepted = headers.get_all(header::ACCEPT).iter().fold(Accepted::Nothing, Accepted::and);
                let may_last = headers.contains_key(header::UPGRADE) || accepted == Accepted::EventStream;
                Needs { plain: false, may_last }
            }
        }
    }
}

/// What a request has to be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// It has no body and asks for no tunnel.
    pub(super) plain: bool,
    /// It asks for an answer that goes on: a tunnel (RFC 9110 section 7.8), or server-sent events and nothing else (HTML
    /// Standard, section 9.2).
    pub(super) may_last: bool,
}

/// A request without a body as it is written (RFC 9112 section 3).
#[derive(Debug, Clone)]
pub struct RequestHead {
    method: Method,
    bytes: Vec<u8>,
    /// The empty line at its end is there.
    is_whole: bool,
    binds_connection: bool,
    accepted: Accepted,
}

/// What `Accept` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Nothing,
    /// Server-sent events alone.
    EventStream,
    Other,
}

impl Accepted {
    fn and(self, value: &HeaderValue) -> Self {
        let is_alone = self == Self::Nothing && !value.as_bytes().contains(&b',');
        if is_alone && is_event_stream(value) { Self::EventStream } else { Self::Other }
    }
}

impl RequestHead {
    /// Begins one, whose target is in origin form.
    pub fn new(method: &Method, target: &PathAndQuery) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        for part in [method.as_str(), " ", target.as_str(), " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        Self {
            method: method.clone(),
            bytes,
            is_whole: false,
            binds_connection: false,
            accepted: Accepted::Nothing,
        }
    }

    /// Puts in a field. Names and values are valid by their types.
    pub fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let name = name.as_str();
        let text = value.as_bytes();
        self.bytes.reserve(name.len() + text.len() + 4);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
        self.binds_connection |= name == "authorization" && is_of_connection(value);
        if name == "accept" {
            self.accepted = self.accepted.and(value);
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// Nothing more goes in.
    pub(super) fn end(&mut self) {
        if !self.is_whole {
            self.is_whole = true;
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// NTLM and Negotiate authenticate the connection, not the request: its next user would be taken for this one.
pub(super) fn binds_connection(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).iter().any(is_of_connection)
}

/// Whether a value names server-sent events, whatever its parameters.
pub(super) fn is_event_stream(value: &HeaderValue) -> bool {
    let kind = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

fn is_of_connection(value: &HeaderValue) -> bool {
    let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}
