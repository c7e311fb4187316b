//! A bound on how many there may be at once, which can be another while they are there.
//!
//! Must not wait: whoever finds no place is told at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    max: Mutex<usize>,
    /// Places that are to go and were taken when the bound was made smaller.
    excess: AtomicUsize,
}

impl Places {
    pub fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(max));
        Self(Arc::new(Inner { free, max: Mutex::new(max), excess: AtomicUsize::new(0) }))
    }

    /// There are as many from now on. Whoever has a place keeps it, and counts.
    pub fn resize(&self, wanted: usize) {
        let inner = &self.0;
        let wanted = wanted.min(Semaphore::MAX_PERMITS);
        let mut max = inner.max.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *max {
            let more = wanted - *max;
            // What was still to go stays instead.
            let owed = inner.excess.swap(0, Ordering::AcqRel);
            inner.excess.fetch_add(owed.saturating_sub(more), Ordering::AcqRel);
            inner.free.add_permits(more.saturating_sub(owed));
        } else {
            inner.excess.fetch_add(*max - wanted, Ordering::AcqRel);
            self.settle();
        }
        *max = wanted;
    }

    /// One of them, if one is free.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        if self.0.excess.load(Ordering::Relaxed) > 0 {
            self.settle();
        }
        Arc::clone(&self.0.free).try_acquire_owned().ok()
    }

    /// Takes away what is to go and is free by now.
    fn settle(&self) {
        let owed = self.0.excess.swap(0, Ordering::AcqRel);
        let gone = self.0.free.forget_permits(owed);
        self.0.excess.fetch_add(owed - gone, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_bound_counts_those_who_are_there() {
        let places = Places::new(4);
        let mut held: Vec<_> = (0..4).map(|_| places.take().unwrap()).collect();
        places.resize(2);
        assert!(places.take().is_none());
        held.truncate(2);
        assert!(places.take().is_none(), "two are there, and two are all there may be");
        held.truncate(1);
        let one = places.take();
        assert!(one.is_some() && places.take().is_none());
        places.resize(5);
        held.extend((0..3).map(|_| places.take().unwrap()));
        assert!(places.take().is_none());
    }

    #[test]
    fn a_bound_that_is_back_before_anybody_left_is_what_it_was() {
        let places = Places::new(3);
        let held: Vec<_> = (0..3).map(|_| places.take().unwrap()).collect();
        places.resize(1);
        places.resize(3);
        assert!(places.take().is_none());
        drop(held);
        assert_eq!((0..9).filter_map(|_| places.take()).collect::<Vec<_>>().len(), 3);
    }
}
