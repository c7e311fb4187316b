//! Single flight: however many ask, one lookup runs, in a task of its own that no asker can cancel.
//!
//! Must not be run inside a request: moka's own loaders are, and there a client that disconnects aborts the load.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::DirectoryError;
use super::sync::{Arc, Mutex, PoisonError};
use crate::telemetry::{cause, caused_by};

type Outcome<V> = Result<V, DirectoryError>;
type Board<K, V> = Mutex<HashMap<K, Arc<Landing<V>>>>;

/// The lookups under way, by key.
pub(super) struct Flights<K, V> {
    board: Arc<Board<K, V>>,
}

/// Where one lookup comes down.
struct Landing<V>(Mutex<Arrivals<V>>);

struct Arrivals<V> {
    outcome: Option<Outcome<V>>,
    /// Whoever waits, by the number they were given. Those who leave take their entry along.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + 'static> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self { board: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Joins the lookup for `key`, or has `spawn` run the one that `start` makes. The flag tells whether it was joined.
    pub(super) fn join<F>(
        &self,
        key: &K,
        start: impl FnOnce() -> F,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> (Flight<V>, bool)
    where
        F: Future<Output = Outcome<V>> + Send + 'static,
    {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = board.get(key) {
            return (Flight::of(landing), true);
        }
        let landing =
            Arc::new(Landing(Mutex::new(Arrivals { outcome: None, waiting: BTreeMap::new(), next: 0 })));
        board.insert(key.clone(), Arc::clone(&landing));
        drop(board);
        let flight = Flight::of(&landing);
        // Whoever asks first is who it is done for; the others wait for it.
        let lookup = caused_by(cause(), Box::pin(start()));
        let place = Place { board: Arc::clone(&self.board), key: key.clone(), landing };
        spawn(Box::pin(async move {
            let outcome = lookup.await;
            place.land(outcome);
        }));
        (flight, false)
    }

    pub(super) fn is_under_way(&self, key: &K) -> bool {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A lookup somebody waits for.
pub(super) struct Flight<V> {
    landing: Arc<Landing<V>>,
    number: Option<u64>,
}

impl<V> Flight<V> {
    fn of(landing: &Arc<Landing<V>>) -> Self {
        Self { landing: Arc::clone(landing), number: None }
    }
}

impl<V: Clone> Future for Flight<V> {
    type Output = Outcome<V>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut arrivals = this.landing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &arrivals.outcome {
            return Poll::Ready(outcome.clone());
        }
        let number = *this.number.get_or_insert_with(|| {
            arrivals.next += 1;
            arrivals.next
        });
        arrivals.waiting.insert(number, cx.waker().clone());
        Poll::Pending
    }
}

impl<V> Drop for Flight<V> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut arrivals = self.landing.0.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.waiting.remove(&number);
        }
    }
}

/// A lookup's entry on the board, taken off however its task ends.
struct Place<K: Eq + Hash, V> {
    board: Arc<Board<K, V>>,
    key: K,
    landing: Arc<Landing<V>>,
}

impl<K: Eq + Hash, V> Place<K, V> {
    fn land(&self, outcome: Outcome<V>) {
        // Off the board first: whoever asks after the landing starts a new lookup.
        self.take_off();
        let mut arrivals = self.landing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.outcome.is_none() {
            arrivals.outcome = Some(outcome);
        }
        let waiting = std::mem::take(&mut arrivals.waiting);
        drop(arrivals);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    fn take_off(&self) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        if board.get(&self.key).is_some_and(|landing| Arc::ptr_eq(landing, &self.landing)) {
            board.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        // Landed already, unless the task was dropped or panicked: nobody must wait for it for ever.
        self.land(Err(DirectoryError::Failed { status: 0, retry_after: None }));
    }
}
