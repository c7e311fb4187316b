//! Faults to order: latency, status codes, bodies that end early or never end, connections that break.
//!
//! Must not touch the state: a fault changes how an answer travels, not what is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{api_error, json_response};

pub(super) type EmulatorBody = BoxBody<Bytes, std::io::Error>;

/// One fault, for one operation or all, for a number of calls or until it is cleared.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// `list`, `authenticate`, `revoke`, `keys`, `policy`, `organization_policy`, `organization`, `member`, `whoami`, `token`; absent: all.
    pub(super) operation: Option<String>,
    /// Calls it still applies to; absent: all.
    times: Option<u64>,
    /// Calls of the whole project that are answered in each second, whatever they are about; further ones get 429.
    per_second: Option<u64>,
    /// The second that is counted in, and the calls so far.
    #[serde(skip)]
    counted: Option<(Instant, u64)>,
    /// Waited before anything else.
    latency_ms: Option<u64>,
    /// Answered instead, with an error body of the API's shape.
    status: Option<u16>,
    error_type: Option<String>,
    retry_after: Option<String>,
    /// Answered instead, byte for byte.
    body: Option<String>,
    /// The answer's body ends after so many bytes, though its length says more.
    truncate: Option<usize>,
    /// An endless list of so many bytes is answered.
    oversized: Option<usize>,
    /// The connection is reset instead of an answer.
    #[serde(default)]
    reset: bool,
    /// No answer ever comes.
    #[serde(default)]
    hang: bool,
    /// The list is answered, but of this member.
    pub(super) answer_for: Option<Value>,
}

impl Fault {
    pub(super) fn applies_to(&self, operation: &str) -> bool {
        self.times != Some(0) && self.operation.as_deref().is_none_or(|wanted| wanted == operation)
    }

    /// Counts a call that it is for, and tells whether it happens to that one.
    pub(super) fn strikes(&mut self) -> bool {
        if let Some(times) = &mut self.times {
            *times = times.saturating_sub(1);
        }
        let Some(most) = self.per_second else { return true };
        let now = Instant::now();
        let (began, calls) = self.counted.unwrap_or((now, 0));
        let is_over = now.duration_since(began) >= Duration::from_secs(1);
        let (began, calls) = if is_over { (now, 1) } else { (began, calls + 1) };
        self.counted = Some((began, calls));
        self.status = self.status.or(Some(429));
        calls > most
    }

    /// Applies the fault to the answer that would have been given. `None`: the connection is to break.
    pub(super) async fn apply(
        self,
        answer: Response<Bytes>,
        reset: &Arc<AtomicBool>,
    ) -> Option<Response<EmulatorBody>> {
        if let Some(milliseconds) = self.latency_ms {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        if self.hang {
            std::future::pending::<()>().await;
        }
        if self.reset {
            reset.store(true, Ordering::Release);
            return None;
        }
        let mut answer = match self.status.map(StatusCode::from_u16) {
            Some(Ok(status)) => {
                let kind = self.error_type.as_deref().unwrap_or_else(|| usual_error_type(status));
                api_error(status, kind, "A fault was ordered.")
            }
            _ => answer,
        };
        if let Some(body) = self.body {
            *answer.body_mut() = Bytes::from(body);
        }
        if let Some(Ok(value)) = self.retry_after.map(HeaderValue::try_from) {
            answer.headers_mut().insert(HeaderName::from_static("retry-after"), value);
        }
        if let Some(bytes) = self.oversized {
            return Some(oversized(bytes));
        }
        if let Some(bytes) = self.truncate {
            return Some(truncated(answer, bytes));
        }
        Some(answer.map(whole))
    }
}

pub(super) fn whole(bytes: Bytes) -> EmulatorBody {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn usual_error_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "unauthorized_credentials",
        404 => "session_not_found",
        429 => "too_many_requests",
        500 => "internal_server_error",
        _ => "bad_request",
    }
}

/// A body that breaks off: its length is promised, and the connection closes short of it.
fn truncated(answer: Response<Bytes>, bytes: usize) -> Response<EmulatorBody> {
    let (mut parts, body) = answer.into_parts();
    parts.headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let head = body.slice(..bytes.min(body.len().saturating_sub(1)));
    // What is there goes out before the break, or the client would see no answer at all.
    let pause = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
    Response::from_parts(parts, BrokenOff { head: Some(head), pause }.boxed())
}

/// A first piece, and then the end of the connection.
struct BrokenOff {
    head: Option<Bytes>,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl http_body::Body for BrokenOff {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<FrameResult>> {
        if let Some(head) = self.head.take() {
            return std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(head))));
        }
        let ordered = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "ordered");
        self.pause.as_mut().poll(cx).map(|()| Some(Err(ordered)))
    }
}

/// Well-formed JSON of the wanted size, made piece by piece.
fn oversized(bytes: usize) -> Response<EmulatorBody> {
    const PIECE: usize = 64 * 1024;
    let mut frames = std::collections::VecDeque::new();
    frames.push_back(Ok(hyper::body::Frame::data(Bytes::from_static(
        b"{\"member_sessions\":[],\"padding\":\"",
    ))));
    let piece = Bytes::from(vec![b'x'; PIECE]);
    frames.extend((0..bytes / PIECE).map(|_| Ok(hyper::body::Frame::data(piece.clone()))));
    frames.push_back(Ok(hyper::body::Frame::data(Bytes::from_static(b"\"}"))));
    json_response(StatusCode::OK, &Value::Null).map(|_| Frames(frames).boxed())
}

type FrameResult = Result<hyper::body::Frame<Bytes>, std::io::Error>;

/// Frames that are all there already.
struct Frames(std::collections::VecDeque<FrameResult>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<FrameResult>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}
