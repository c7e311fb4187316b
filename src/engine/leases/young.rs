//! Streams that were opened a moment ago: nearly every one ends before anybody asks whose it is.
//!
//! Must not know whose a stream is, or when anybody is due.

use std::sync::Arc;

use super::Stream;
use crate::identity::Monotonic;

/// Looked at in one go: every request takes the lock as well.
pub(super) const FEW: usize = 128;

/// Streams that were opened a moment ago, each in a place of its own.
#[derive(Default)]
pub(super) struct Young {
    places: Vec<Option<YoungStream>>,
    free: Vec<usize>,
}

/// One of them.
pub(super) struct YoungStream {
    pub(super) number: u64,
    pub(super) stream: Arc<Stream>,
    pub(super) due: Monotonic,
}

impl Young {
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
        (until < self.places.len()).then_some(until)
    }
}
