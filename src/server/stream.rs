//! A client's socket, in the clear or under TLS, whose writes may not stand still for ever.
//!
//! Must not hold anything back for longer than a turn: what is handed over is written or refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;

/// The socket of one connection.
pub(super) struct ClientStream {
    inner: Transport,
    write_timeout: Duration,
    activity: Arc<Activity>,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
    write_blocked: bool,
    flush_blocked: bool,
    /// Read before, and to be read again first.
    unread: Bytes,
    /// Over HTTP/2: small pieces of several answers on their way out together.
    gathered: Option<Gathered>,
}

/// Answers that are ready in the same turn of the runtime go out in one write: each write of its own would cost more than
/// all else that is done for a small answer.
#[derive(Default)]
struct Gathered {
    bytes: BytesMut,
    /// Everybody else had their turn since something was to be sent.
    had_turn: bool,
}

/// Pieces from this size on are not copied to go out together.
const LARGE: usize = 16 * 1024;
/// The most that waits.
const MOST_GATHERED: usize = 64 * 1024;

enum Transport {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    pub(super) fn clear(stream: TcpStream, write_timeout: Duration, activity: Arc<Activity>) -> Self {
        Self::new(Transport::Clear(stream), write_timeout, activity)
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        write_timeout: Duration,
        activity: Arc<Activity>,
    ) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), write_timeout, activity)
    }

    fn new(inner: Transport, write_timeout: Duration, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            write_timeout,
            activity,
            stalled: None,
            write_blocked: false,
            flush_blocked: false,
            unread: Bytes::new(),
            gathered: None,
        }
    }

    /// From here on, what is ready in the same turn goes out together.
    pub(super) fn gather(&mut self) {
        self.gathered = Some(Gathered::default());
    }

    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = match (&mut self.inner, bufs) {
            (Transport::Clear(stream), [buf]) => Pin::new(stream).poll_write(cx, buf),
            (Transport::Tls(stream), [buf]) => Pin::new(stream).poll_write(cx, buf),
            (Transport::Clear(stream), bufs) => Pin::new(stream).poll_write_vectored(cx, bufs),
            (Transport::Tls(stream), bufs) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.wrote(cx, progress)
    }

    /// Writes what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut gathered) = self.gathered.take() else { return Poll::Ready(Ok(())) };
        let drained = loop {
            if gathered.bytes.is_empty() {
                if gathered.bytes.capacity() > LARGE {
                    gathered.bytes = BytesMut::new();
                }
                break Poll::Ready(Ok(()));
            }
            match self.poll_write_through(cx, &[io::IoSlice::new(&gathered.bytes)]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => gathered.bytes.advance(written),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.gathered = Some(gathered);
        drained
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let is_large = length >= LARGE;
        let waiting = self.gathered.as_ref().map(|gathered| gathered.bytes.len());
        match waiting {
            None => return self.poll_write_through(cx, bufs),
            Some(waiting) if is_large || waiting + length > MOST_GATHERED => ready!(self.poll_drain(cx))?,
            Some(_) => {}
        }
        match &mut self.gathered {
            Some(gathered) if !is_large => {
                bufs.iter().for_each(|buf| gathered.bytes.extend_from_slice(buf));
                Poll::Ready(Ok(length))
            }
            _ => self.poll_write_through(cx, bufs),
        }
    }

    /// Pending for one turn, if others are at work whose answers may go out with what is gathered.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(gathered) = &mut self.gathered else { return Poll::Ready(()) };
        let waits = !gathered.bytes.is_empty() && self.activity.is_busy();
        if waits && !gathered.had_turn {
            gathered.had_turn = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        gathered.had_turn = false;
        Poll::Ready(())
    }

    /// Puts back what was read too much.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.unread =
            if self.unread.is_empty() { bytes } else { [bytes, self.unread.split_off(0)].concat().into() };
    }

    /// Resolves when the client has sent something, or left.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.inner {
            Transport::Clear(stream) => stream.readable().await,
            Transport::Tls(stream) => stream.get_ref().0.readable().await,
        }
    }

    /// Passes what became of a write on, and notes it.
    fn wrote(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.write_blocked = progress.is_pending();
        if progress.is_ready() {
            self.activity.note_write();
        }
        self.watch(cx, progress)
    }

    /// Passes what became of a flush or the end on: neither is anything the client was sent.
    fn flushed(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        self.flush_blocked = progress.is_pending();
        self.watch(cx, progress)
    }

    /// Turns what stood still for too long into an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.note_blocked(self.write_blocked || self.flush_blocked);
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let piece = this.unread.split_to(this.unread.len().min(buf.remaining()));
            buf.put_slice(&piece);
            return Poll::Ready(Ok(()));
        }
        match &mut this.inner {
            Transport::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_all(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_all(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Transport::Clear(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_turn(cx));
        ready!(this.poll_drain(cx))?;
        let progress = match &mut this.inner {
            Transport::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.flushed(cx, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let progress = match &mut this.inner {
            Transport::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        this.flushed(cx, progress)
    }
}
