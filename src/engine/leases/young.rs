//! Streams that were opened a moment ago: nearly every one ends before anybody asks whose it is.
//!
//! Must not know whose a stream is, or when anybody is due.

use std::sync::Arc;

use super::{GROWN_AFTER, Stream};
use crate::identity::Monotonic;

/// Looked at in one go: every request takes the lock as well.
pub(super) const FEW: usize = 128;

/// Streams that were opened a moment ago, each in a place of its own.
#[derive(Default)]
pub(super) struct Young {
    places: Vec<Option<YoungStream>>,
    free: Vec<usize>,
    /// When all were last to be kept by whose they are.
    grown_at: Monotonic,
}

/// One of them.
pub(super) struct YoungStream {
    pub(super) number: u64,
    pub(super) stream: Arc<Stream>,
    pub(super) due: Monotonic,
}

impl Young {
    /// Whether those that are young have been for long enough; then it is said no more for a while.
    pub(super) fn is_time(&mut self, now: Monotonic) -> bool {
        let is_time = now.since(self.grown_at) >= GROWN_AFTER / 2;
        if is_time {
            self.grown_at = now;
        }
        is_time
    }

    pub(super) fn put(&mut self, young: YoungStream) -> usize {
        let free = self.free.pop();
        if let Some((at, place)) = free.and_then(|at| Some((at, self.places.get_mut(at)?))) {
            *place = Some(young);
            return at;
        }
        self.places.push(Some(young));
        self.places.len() - 1
    }

    /// The stream, if it is still there.
    pub(super) fn take(&mut self, at: usize, number: u64) -> Option<YoungStream> {
        let young = self.places.get_mut(at)?.take_if(|young| young.number == number)?;
        self.free.push(at);
        Some(young)
    }

    /// Takes the streams at a few places from `from` on. Where to go on, unless that was the end.
    pub(super) fn take_some(&mut self, from: usize, taken: &mut Vec<YoungStream>) -> Option<usize> {
        let until = (from + FEW).min(self.places.len());
        for (at, place) in self.places.iter_mut().enumerate().take(until).skip(from) {
            if let Some(young) = place.take() {
                taken.push(young);
                self.free.push(at);
            }
        }
        if until < self.places.len() {
            return Some(until);
        }
        if self.free.len() == self.places.len() {
            // After a crowd, nobody looks through its empty places.
            self.places.clear();
            self.free.clear();
        }
        None
    }
}
