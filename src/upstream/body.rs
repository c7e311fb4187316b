//! The body of an answer, which gives its connection back when it was read to its end.
//!
//! Must not give back a connection that anything was left unread on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::answer::Framing;
use super::answer_body::AnswerBody;
use super::balance::Server;
use super::error::BoxError;
use super::pool::{Lease, Sender};
use super::progress::UploadProgress;
use super::slots::Slot;

/// How long an upload may go on after its answer ended.
const UPLOAD_AFTER_ANSWER: Duration = Duration::from_secs(600);

/// What becomes of the connection once the answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It may serve somebody else.
    Reuse,
    Close,
    /// It goes on as a tunnel, which takes its place along.
    Tunnel,
}

/// The body of an answer. Read to its end, its connection can serve again; dropped before, the connection closes.
pub struct OriginBody<B> {
    body: AnswerBody,
    lease: Option<Lease<B>>,
    after: After,
    progress: Arc<UploadProgress>,
    server: Arc<Server<B>>,
}

impl<B> OriginBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        body: AnswerBody,
        lease: Lease<B>,
        after: After,
        progress: &Arc<UploadProgress>,
        server: Arc<Server<B>>,
    ) -> Self {
        let mut body = Self { body, lease: Some(lease), after, progress: Arc::clone(progress), server };
        if body.body.is_end_stream() && after != After::Tunnel {
            body.give_back();
        }
        body
    }

    /// The answer is over. A connection on which the request is not would make its next user wait for somebody
    /// else's upload.
    fn give_back(&mut self) {
        let Some(mut lease) = self.lease.take().filter(|_| self.after == After::Reuse) else { return };
        if self.progress.is_finished() {
            self.server.pool.put_back(lease);
            return;
        }
        // The origin answered early and the upload goes on: its place stays taken until the connection is free again.
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            if matches!(tokio::time::timeout(UPLOAD_AFTER_ANSWER, lease.is_free()).await, Ok(true)) {
                server.pool.put_back(lease);
            }
        });
    }

    /// The origin's slot, to be held by the tunnel this answer opens.
    pub fn take_slot(&mut self) -> Option<Slot> {
        self.lease.take().map(|lease| lease.slot)
    }
}

impl<B> Body for OriginBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match (&mut this.body, this.lease.as_mut().map(|lease| &mut lease.sender)) {
            (AnswerBody::Incoming(body), _) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
            (AnswerBody::Wire(framing), Some(Sender::Wire(wire))) => {
                wire.poll_frame(cx, framing).map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
            }
            // It was read to its end, or broke off before.
            (AnswerBody::Wire(framing), _) => {
                Poll::Ready(framing.close().err().map(|error| Err(error.into())))
            }
        };
        match &polled {
            Poll::Ready(None) => self.give_back(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.give_back(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            AnswerBody::Incoming(body) => body.size_hint(),
            AnswerBody::Wire(Framing::Length(left)) => SizeHint::with_exact(*left),
            AnswerBody::Wire(Framing::Over) => SizeHint::with_exact(0),
            AnswerBody::Wire(_) => SizeHint::default(),
        }
    }
}
