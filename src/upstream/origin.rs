//! One origin: send a request, wait for the head of its answer, hand on the body.
//!
//! Must not wait without a bound, and must not send a request again once a byte of it may have arrived.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::OriginSettings;
use super::pool::{Lease, Pool};

/// How long an upload may go on after its answer ended.
const UPLOAD_AFTER_ANSWER: Duration = Duration::from_secs(600);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("the host is no name for TLS")]
    Name,
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("all connections are in use")]
    Busy,
    #[error("no answer came in time")]
    ResponseTimeout,
    #[error("the exchange failed: {0}")]
    Exchange(hyper::Error),
}

/// How the upload of a request is going: when something last moved, whose turn it is, how it ended.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    moved: AtomicU64,
    /// The client owes the next piece.
    awaiting_client: AtomicBool,
    finished: AtomicBool,
    failure: OnceLock<UploadFailure>,
    client_patience: Duration,
}

/// Why a request's body did not reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadFailure {
    /// The client sent nothing for too long.
    Stalled,
    TooLarge,
    /// The client left or broke its framing.
    Broken,
}

impl Progress {
    /// `client_patience` is how long the client may take for each piece.
    pub fn new(client_patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            awaiting_client: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            failure: OnceLock::new(),
            client_patience,
        }
    }

    /// Something moved just now.
    pub fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
        self.awaiting_client.store(false, Ordering::Relaxed);
    }

    pub fn await_client(&self) {
        self.awaiting_client.store(true, Ordering::Relaxed);
    }

    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub fn fail(&self, failure: UploadFailure) {
        // The first failure is the one that counts.
        self.failure.get_or_init(|| failure);
    }

    pub fn failure(&self) -> Option<UploadFailure> {
        self.failure.get().copied()
    }

    fn still_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// How much longer an origin may take that has `response_timeout` once everything is sent.
    fn remaining(&self, response_timeout: Duration) -> Duration {
        let waits_for_client =
            self.awaiting_client.load(Ordering::Relaxed) && !self.finished.load(Ordering::Acquire);
        let bound = if waits_for_client { response_timeout + self.client_patience } else { response_timeout };
        bound.saturating_sub(self.still_for())
    }
}

/// An origin with its connections. Cheap to clone.
pub struct Origin<B> {
    pool: Arc<Pool<B>>,
    name: Arc<str>,
    response_timeout: Duration,
}

/// The head of an answer, and its body still to be read.
pub type OriginResponse<B> = Response<OriginBody<B>>;

impl<B> Clone for Origin<B> {
    fn clone(&self) -> Self {
        Self {
            pool: Arc::clone(&self.pool),
            name: Arc::clone(&self.name),
            response_timeout: self.response_timeout,
        }
    }
}

impl<B> Origin<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Must be called inside a runtime: idle connections are swept now and then.
    pub fn new(settings: OriginSettings, tls: &Arc<rustls::ClientConfig>) -> Self {
        let (name, response_timeout) = (Arc::clone(&settings.name), settings.response_timeout);
        let every = settings.idle_timeout.max(Duration::from_secs(1));
        let pool = Arc::new(Pool::new(settings, tls));
        let swept = Arc::downgrade(&pool);
        tokio::spawn(async move {
            while let Some(pool) = swept.upgrade() {
                pool.sweep();
                drop(pool);
                tokio::time::sleep(every).await;
            }
        });
        Self { pool, name, response_timeout }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Sends `request`, whose URI is in origin form, and waits for the head of the answer.
    pub async fn send(
        &self,
        request: Request<B>,
        progress: &Arc<Progress>,
    ) -> Result<OriginResponse<B>, OriginError> {
        let bound = is_bound_to_connection(request.headers(), header::AUTHORIZATION);
        let mut lease = self.pool.take().await?;
        progress.note();
        let mut sent = self.exchange(&mut lease, request, progress).await;
        if let Err((error, Some(request))) = sent {
            // Handed back unsent: the kept connection had closed meanwhile.
            if !lease.used {
                return Err(error);
            }
            self.pool.reconnect(&mut lease).await?;
            sent = self.exchange(&mut lease, request, progress).await;
        }
        let response = sent.map_err(|(error, _)| error)?;
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let bound = bound || is_bound_to_connection(response.headers(), header::WWW_AUTHENTICATE);
        Ok(response.map(|body| {
            let mut body = OriginBody {
                body,
                lease: Some(lease),
                reusable: !upgraded && !bound,
                progress: Arc::clone(progress),
                pool: Arc::clone(&self.pool),
            };
            if body.body.is_end_stream() {
                body.give_back();
            }
            body
        }))
    }

    async fn exchange(
        &self,
        lease: &mut Lease<B>,
        request: Request<B>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, (OriginError, Option<Request<B>>)> {
        let mut sending = std::pin::pin!(lease.sender.try_send_request(request));
        loop {
            let remaining = progress.remaining(self.response_timeout);
            tokio::select! {
                biased;
                sent = sending.as_mut() => {
                    return sent.map_err(|mut error| {
                        let unsent = error.take_message();
                        (OriginError::Exchange(error.into_error()), unsent)
                    });
                }
                () = tokio::time::sleep(remaining) => {
                    if progress.remaining(self.response_timeout).is_zero() {
                        return Err((OriginError::ResponseTimeout, None));
                    }
                }
            }
        }
    }
}

/// The body of an answer. Read to its end, its connection can serve again; dropped before, the connection closes.
pub struct OriginBody<B> {
    body: Incoming,
    lease: Option<Lease<B>>,
    reusable: bool,
    progress: Arc<Progress>,
    pool: Arc<Pool<B>>,
}

impl<B> OriginBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The answer is over. A connection on which the request is not would make its next user wait for somebody
    /// else's upload.
    fn give_back(&mut self) {
        let Some(mut lease) = self.lease.take().filter(|_| self.reusable) else { return };
        if self.progress.finished.load(Ordering::Acquire) {
            self.pool.put_back(lease);
            return;
        }
        // The origin answered early and the upload goes on: its place stays taken until the connection is free again.
        let pool = Arc::clone(&self.pool);
        tokio::spawn(async move {
            if matches!(tokio::time::timeout(UPLOAD_AFTER_ANSWER, lease.sender.ready()).await, Ok(Ok(()))) {
                pool.put_back(lease);
            }
        });
    }

    /// The origin's place, to be held by the tunnel this answer opens.
    pub fn take_place(&mut self) -> Option<OwnedSemaphorePermit> {
        self.lease.take().map(|lease| lease.place)
    }
}

impl<B> Body for OriginBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
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
        self.body.size_hint()
    }
}

/// NTLM and Negotiate authenticate the connection, not the request: its next user would be taken for this one.
fn is_bound_to_connection(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}
