//! Single flight: however many ask, one lookup runs, in a task of its own that no asker can cancel.
//!
//! Must not be run inside a request: moka's own loaders are, and there a client that disconnects aborts the load.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::DirectoryError;

type Landing<V> = watch::Receiver<Option<Result<V, DirectoryError>>>;

/// The lookups under way, by key.
pub(super) struct Flights<K, V> {
    running: Arc<Mutex<HashMap<K, Landing<V>>>>,
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self { running: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Joins the lookup for `key`, or starts one. The flag tells whether it was joined.
    pub(super) fn join<F>(&self, key: &K, start: impl FnOnce() -> F) -> (Flight<V>, bool)
    where
        F: Future<Output = Result<V, DirectoryError>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = running.get(key) {
            return (Flight(landing.clone()), true);
        }
        let (sender, landing) = watch::channel(None);
        running.insert(key.clone(), landing.clone());
        drop(running);
        let place = Place { running: Arc::clone(&self.running), key: key.clone() };
        let lookup = start();
        tokio::spawn(async move {
            let result = lookup.await;
            // Off the board first: whoever asks after the landing starts a new lookup.
            drop(place);
            sender.send_replace(Some(result));
        });
        (Flight(landing), false)
    }

    pub(super) fn len(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A lookup somebody waits for.
pub(super) struct Flight<V>(Landing<V>);

impl<V: Clone> Flight<V> {
    pub(super) async fn land(mut self) -> Result<V, DirectoryError> {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            // The task ended without a word, which only a panic does.
            Ok(None) | Err(_) => Err(DirectoryError::Failed { status: 0 }),
        }
    }
}

/// A lookup's entry on the board, taken off however its task ends.
struct Place<K: Eq + Hash, V> {
    running: Arc<Mutex<HashMap<K, Landing<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
