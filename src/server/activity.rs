//! What is going on on one connection: requests under way, bytes written, pieces handed over and not sent.
//!
//! Must not decide anything; `protocol` reads it and does.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};

use super::ServerLimits;

/// How long a connection does nothing before it is held by its socket alone.
const REST_AFTER: Duration = Duration::from_secs(2);

/// The goings-on of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    under_way: AtomicUsize,
    served: AtomicUsize,
    is_http2: AtomicBool,
    /// A write did not go through yet.
    blocked: AtomicBool,
    /// The last request came without a body, so that nothing of it can still be on its way.
    whole: AtomicBool,
    /// Milliseconds after `began`: when a request last ended or a byte was last written.
    moved: AtomicU64,
    /// Pieces of bodies handed over and not asked for more since, by request.
    unsent: Mutex<HashMap<usize, Instant>>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            under_way: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            is_http2: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            unsent: Mutex::new(HashMap::new()),
        }
    }

    /// `whole` tells that the request has no body.
    pub(super) fn begin(activity: &Arc<Self>, whole: bool) -> Busy {
        activity.whole.store(whole, Ordering::Relaxed);
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        let number = activity.served.fetch_add(1, Ordering::Relaxed);
        Busy { activity: Arc::clone(activity), number }
    }

    /// Bytes went out. Over HTTP/2 that may be a ping of our own, which must not keep an idle connection alive.
    pub(super) fn note_write(&self) {
        if !self.is_http2.load(Ordering::Relaxed) {
            self.note();
        }
    }

    /// Whether something handed over waits for the client.
    pub(super) fn note_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether something handed over still waits for the client: `ClientStream` bounds for how long.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether everything asked was answered, and every answer sent, a while ago: nothing but the socket is needed to go on.
    pub(super) fn is_at_rest(&self) -> bool {
        let whole = self.whole.load(Ordering::Relaxed);
        self.has_served() && !self.is_busy() && !self.is_blocked() && whole && self.idle() >= REST_AFTER
    }

    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// Something moved just now.
    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed) > 0
    }

    pub(super) fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// How long this connection may be idle: a first request is owed sooner than a next one.
    pub(super) fn bound(&self, limits: &ServerLimits) -> Duration {
        if self.has_served() { limits.idle_timeout } else { limits.header_timeout }
    }

    /// When to look again.
    pub(super) fn patience(&self, limits: &ServerLimits) -> Duration {
        if self.is_busy() {
            return limits.write_timeout.min(Duration::from_secs(5));
        }
        let longest = if self.has_served() { REST_AFTER } else { Duration::from_secs(5) };
        self.bound(limits).saturating_sub(self.idle()).max(Duration::from_millis(50)).min(longest)
    }

    /// How long the piece that has waited longest was not taken off our hands.
    pub(super) fn longest_unsent(&self) -> Duration {
        let unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.values().map(Instant::elapsed).max().unwrap_or_default()
    }
}

/// A request under way, its response body included.
pub(super) struct Busy {
    activity: Arc<Activity>,
    number: usize,
}

impl Busy {
    fn handed_over(&self, piece: bool) {
        // What stalls on HTTP/1.1 stalls the socket, which is timed by itself.
        if !self.activity.is_http2.load(Ordering::Relaxed) {
            return;
        }
        let mut unsent = self.activity.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if piece {
            unsent.insert(self.number, Instant::now());
        } else {
            unsent.remove(&self.number);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.handed_over(false);
        // Over HTTP/1.1 the end of every answer is written, and noted then.
        if self.activity.is_http2.load(Ordering::Relaxed) {
            self.activity.note();
        }
        self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that keeps its connection counted as busy until it ends.
pub(super) struct Counted<B> {
    body: B,
    busy: Busy,
}

impl<B> Counted<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, busy }
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.busy.handed_over(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
