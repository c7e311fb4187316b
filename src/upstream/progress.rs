//! How the upload of a request is going: what moved last, whose turn it is, how it ended.
//!
//! Must not touch the body: whoever passes it on says what happens to it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How the upload of a request is going: when something last moved, whose turn it is, how it ended.
#[derive(Debug)]
pub struct UploadProgress {
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

impl UploadProgress {
    /// `client_patience` is how long the client may take for each piece.
    pub fn new(began: Instant, client_patience: Duration) -> Self {
        Self {
            began,
            moved: AtomicU64::new(0),
            awaiting_client: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            failure: OnceLock::new(),
            client_patience,
        }
    }

    /// Something moved just now.
    pub fn note(&self) {
        self.note_at(Instant::now());
    }

    pub(super) fn note_at(&self, now: Instant) {
        let now = now.saturating_duration_since(self.began).as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
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

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Whether the client owes the next piece.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaiting_client.load(Ordering::Relaxed) && !self.is_finished()
    }

    fn still_for(&self, now: Instant) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(moved)
    }

    /// At `now`, how much longer an origin may take that has `response_timeout` once everything is sent.
    pub(super) fn remaining(&self, response_timeout: Duration, now: Instant) -> Duration {
        let bound =
            if self.awaits_client() { response_timeout + self.client_patience } else { response_timeout };
        bound.saturating_sub(self.still_for(now))
    }
}
