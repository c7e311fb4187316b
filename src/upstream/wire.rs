//! A connection that speaks HTTP/1.1 for requests without a body, driven by whoever waits for the answer: no task of its
//! own, nothing handed from one to the other.
//!
//! Must not serve again after an answer that was not read to its end, or followed by anything.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::Frame;
use tokio::io::AsyncWrite as _;
use tokio::task::coop::has_budget_remaining;
use tokio_util::io::poll_read_buf;

use super::answer::{AnswerError, AnswerHead, Framing, Piece, Reading, take_head};
use super::request::RequestHead;
use super::stream::OriginStream;

/// Read in one go at first, and at most.
const FIRST_STEP: usize = 8 * 1024;
const LAST_STEP: usize = 256 * 1024;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// The connection, between its requests or within one.
pub(super) struct Wire {
    stream: OriginStream,
    /// Read, and not taken for anything yet.
    buffer: BytesMut,
    step: usize,
    /// The request under way, and how much of it was written.
    head: Option<Box<RequestHead>>,
    written: usize,
    /// It is answered by a head alone.
    to_head: bool,
    reading: Reading,
    /// Another request may follow.
    keeps: bool,
    /// The answer was a head alone, whatever its fields say: a server that sent a body as well has it on its way.
    is_bare: bool,
}

impl Wire {
    pub(super) fn new(stream: OriginStream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            step: FIRST_STEP,
            head: None,
            written: 0,
            to_head: false,
            reading: Reading::default(),
            keeps: true,
            is_bare: false,
        }
    }

    /// Takes a request to be sent.
    pub(super) fn begin(&mut self, mut head: Box<RequestHead>) {
        // Until the answer is there whole, this connection is good for nothing else.
        self.keeps = false;
        self.written = 0;
        self.reading = Reading::default();
        self.to_head = *head.method() == Method::HEAD;
        head.end();
        self.head = Some(head);
    }

    /// Sends what was begun, and waits for the head of its answer.
    pub(super) async fn answer(&mut self) -> Result<AnswerHead, WireError> {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// The request that was begun, if nothing of it was sent.
    pub(super) fn take_unsent(&mut self) -> Option<Box<RequestHead>> {
        self.head.take().filter(|_| self.written == 0)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, WireError>> {
        // A server may answer before it has read everything; then nothing else is written.
        let sent = self.poll_write_head(cx)?.is_ready();
        loop {
            if let Some(head) = take_head(&mut self.buffer, self.to_head, &mut self.reading)? {
                self.keeps = head.keeps && sent;
                self.is_bare =
                    self.to_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                self.head = None;
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(WireError::Closed));
            }
        }
    }

    fn poll_write_head(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let bytes = self.head.as_deref().map(RequestHead::bytes).unwrap_or_default();
        while let Some(rest) = bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// How many bytes came; none once the server closed.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.buffer.reserve(self.step);
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer))?;
        if count >= self.step {
            self.step = (self.step * 2).min(LAST_STEP);
        } else if count < self.step / 4 {
            self.step = (self.step / 2).max(FIRST_STEP);
        }
        Poll::Ready(Ok(count))
    }

    /// The next frame of an answer's body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        loop {
            match framing.take_piece(&mut self.buffer) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::Missing) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    if let Err(error) = framing.close() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// Whether another request may follow the answer that was read to its end.
    pub(super) fn is_reusable(&mut self) -> bool {
        self.keeps && self.buffer.is_empty() && (!self.is_bare || self.is_quiet())
    }

    /// Whether the server says nothing, as it should while it was not asked: neither that it leaves, nor anything else.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        // Whose budget is spent is told to wait without a look.
        has_budget_remaining() && self.poll_fill(&mut nobody).is_pending() && self.buffer.is_empty()
    }

    /// Gives back what a large answer took.
    pub(super) fn shrink(&mut self) {
        self.step = FIRST_STEP;
        if self.buffer.capacity() > 2 * FIRST_STEP {
            self.buffer = BytesMut::new();
        }
    }
}
