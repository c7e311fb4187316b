//! Bodies on their way through: streamed piece by piece, timed, counted, their trailers cleaned.
//!
//! Must not gather a body, or hold back a piece that has arrived.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::trailers::clean_trailers;
use crate::doors::request_log::RequestLog;
use crate::engine::{Lease, ManagedNames};
use crate::policy::Reason;
use crate::upstream::{BoxError, OriginBody, UploadFailure, UploadProgress};

/// Why a body was cut short.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body stood still for too long")]
    Stalled,
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the session it was allowed for may not go on: {}", .0.title())]
    Ended(Reason),
}

/// How a response is ended before its origin ended it, so that the client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// A stream of events may end at any time.
    Events,
    /// A gRPC stream says why in its trailers.
    Grpc,
    /// Anything else must not look complete.
    Break,
}

/// `application/grpc`, alone or with a format behind it (gRPC over HTTP/2, requests).
fn is_grpc(kind: &str) -> bool {
    const GRPC: &str = "application/grpc";
    let rest = kind.get(..GRPC.len()).filter(|start| start.eq_ignore_ascii_case(GRPC));
    let rest = rest.and_then(|_| kind.get(GRPC.len()..));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';', ' ']))
}

impl Ending {
    /// Trailers reach a gRPC client over HTTP/2 alone; gRPC-Web has them in its body.
    pub(super) fn of(headers: &HeaderMap, version: Version) -> Self {
        let kind =
            headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is =
            |wanted: &str| kind.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
        if headers.contains_key(http::header::CONTENT_LENGTH) {
            Self::Break
        } else if is("text/event-stream") {
            Self::Events
        } else if version == Version::HTTP_2 && is_grpc(kind) {
            Self::Grpc
        } else {
            Self::Break
        }
    }
}

/// The client's body on its way to the origin; the default is none at all.
#[derive(Default)]
pub struct RequestBody(Option<Upload>);

struct Upload {
    body: Incoming,
    managed: Arc<ManagedNames>,
    progress: Arc<UploadProgress>,
    bytes: Arc<AtomicU64>,
    limit: u64,
    patience: Patience,
    /// The right of the request to go on; shared with its response, and kept until both are over.
    lease: Option<Arc<Lease>>,
}

impl RequestBody {
    /// Passes nothing on any more once the lease has ended.
    pub(super) fn new(
        body: Incoming,
        managed: &Arc<ManagedNames>,
        progress: &Arc<UploadProgress>,
        bytes: &Arc<AtomicU64>,
        limit: u64,
        timeout: Duration,
        lease: Option<&Arc<Lease>>,
    ) -> Self {
        // A body that is over at once is never polled.
        if body.is_end_stream() {
            progress.finish();
            return Self::default();
        }
        Self(Some(Upload {
            body,
            managed: Arc::clone(managed),
            progress: Arc::clone(progress),
            bytes: Arc::clone(bytes),
            limit,
            patience: Patience::new(timeout),
            lease: lease.cloned(),
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(this) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending() {
            this.progress.await_client();
        }
        let arrived = ready!(this.patience.watch(cx, polled));
        let arrived = arrived.inspect_err(|_| this.progress.fail(UploadFailure::Stalled))?;
        if let Some(reason) = this.lease.as_ref().and_then(|lease| lease.end_reason()) {
            this.progress.fail(UploadFailure::Broken);
            return Poll::Ready(Some(Err(BodyError::Ended(reason).into())));
        }
        this.progress.note();
        let Some(arrived) = arrived else {
            this.progress.finish();
            return Poll::Ready(None);
        };
        let mut frame = arrived.inspect_err(|_| this.progress.fail(UploadFailure::Broken))?;
        if let Some(piece) = frame.data_ref() {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let total = this.bytes.fetch_add(length, Ordering::Relaxed).saturating_add(length);
            if total > this.limit {
                this.progress.fail(UploadFailure::TooLarge);
                return Poll::Ready(Some(Err(BodyError::TooLarge.into())));
            }
        }
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers, &this.managed);
        }
        if this.body.is_end_stream() {
            this.progress.finish();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.body.size_hint())
    }
}

/// The body of a response, with the log of its request, which is written when the body ends or is dropped.
pub struct ResponseBody {
    source: Source,
    managed: Arc<ManagedNames>,
    request_log: Box<RequestLog>,
    patience: Patience,
    /// Its right to go on, and how it ends without it.
    lease: Option<(Arc<Lease>, Ending)>,
}

enum Source {
    Own(Option<Bytes>),
    Origin(OriginBody<RequestBody>),
}

impl ResponseBody {
    /// A body of our own: all of it, at once.
    pub(super) fn own(bytes: Bytes, managed: &Arc<ManagedNames>, request_log: Box<RequestLog>) -> Self {
        let source = Source::Own((!bytes.is_empty()).then_some(bytes));
        Self::new(source, managed, request_log, Duration::MAX)
    }

    /// Whether it is ours and no application's.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.source, Source::Own(_))
    }

    pub(super) fn from_origin(
        body: OriginBody<RequestBody>,
        managed: &Arc<ManagedNames>,
        request_log: Box<RequestLog>,
        timeout: Duration,
        lease: Option<(Arc<Lease>, Ending)>,
    ) -> Self {
        Self { lease, ..Self::new(Source::Origin(body), managed, request_log, timeout) }
    }

    fn new(
        source: Source,
        managed: &Arc<ManagedNames>,
        mut request_log: Box<RequestLog>,
        timeout: Duration,
    ) -> Self {
        // A body that is over at once is never polled.
        request_log.complete = match &source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Origin(body) => body.is_end_stream(),
        };
        let patience = Patience::new(timeout);
        Self { source, managed: Arc::clone(managed), request_log, patience, lease: None }
    }

    /// Ends the response because its session may not go on. What the origin had left to say is dropped, and its
    /// connection with it.
    fn end(&mut self, reason: Reason, ending: Ending) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.source = Source::Own(None);
        self.request_log.reason = Some(reason);
        match ending {
            Ending::Events => None,
            Ending::Grpc => {
                let mut trailers = HeaderMap::new();
                // UNAUTHENTICATED, PERMISSION_DENIED and UNAVAILABLE (gRPC, status codes).
                let status = match reason.status() {
                    StatusCode::UNAUTHORIZED => "16",
                    status if status.is_client_error() => "7",
                    _ => "14",
                };
                trailers.insert("grpc-status", HeaderValue::from_static(status));
                trailers.insert("grpc-message", HeaderValue::from_static(reason.title()));
                Some(Ok(Frame::trailers(trailers)))
            }
            Ending::Break => Some(Err(BodyError::Ended(reason).into())),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some((lease, ending)) = &this.lease
            && let Poll::Ready(reason) = lease.poll_ended(cx)
        {
            let ending = *ending;
            this.lease = None;
            return Poll::Ready(this.end(reason, ending));
        }
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Origin(body) => Pin::new(body).poll_frame(cx),
        };
        let Some(polled) = ready!(this.patience.watch(cx, polled))? else {
            this.request_log.complete = true;
            return Poll::Ready(None);
        };
        let mut frame = polled?;
        if let Some(piece) = frame.data_ref() {
            this.request_log.response_bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers, &this.managed);
        }
        this.request_log.complete = this.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Origin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Origin(body) => body.size_hint(),
        }
    }
}

/// How long a body may stand still between two pieces.
struct Patience {
    timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: None }
    }

    /// Passes what was polled on; while nothing comes, runs out.
    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<T>) -> Poll<Result<T, BoxError>> {
        match polled {
            Poll::Ready(value) => {
                self.waiting = None;
                Poll::Ready(Ok(value))
            }
            Poll::Pending => {
                let timeout = self.timeout;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                ready!(waiting.as_mut().poll(cx));
                Poll::Ready(Err(BodyError::Stalled.into()))
            }
        }
    }
}
