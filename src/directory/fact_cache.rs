//! One way to keep any fact: fresh, then stale while it is asked for again, then only while the far end fails.
//!
//! Must not keep a verdict, serve what a revocation outranks, however late it lands, nor let a crowd of ours look like the
//! far end's trouble.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::flight::Flights;
use super::floors::Floors;
use super::{Answer, Breaker, CallOutcome, Clock, DirectoryError};
use crate::identity::{Monotonic, Now};
use crate::policy::{Fact, Freshness};
use crate::telemetry::Metrics;

/// How long a failed lookup answers for its key: many who ask at once must not each ask again.
const FAILED_FOR: Duration = Duration::from_millis(500);
/// Lookups one question may wait for: another's that turned out too old, and its own.
const MAX_LANDINGS: usize = 2;
/// Lookups that may wait for each that runs.
const WAITING_PER_PLACE: usize = 16;

type Lookup<V> = Pin<Box<dyn Future<Output = Result<V, DirectoryError>> + Send>>;
type Ask<I, V> = Box<dyn Fn(&I) -> Lookup<V> + Send + Sync>;
type FloorOf<I> = Box<dyn Fn(&I) -> Option<Monotonic> + Send + Sync>;

/// A value and when its lookup was sent.
#[derive(Debug, Clone)]
struct Answered<V> {
    value: V,
    sent: Now,
}

impl<V> Answered<V> {
    fn usable_for(self, span: Duration) -> Fact<V> {
        Fact { value: self.value, good_until: self.sent.monotonic.plus(span), sent: self.sent }
    }
}

/// Facts of one kind, by key; what is asked about is told apart from the key it is kept by. Cheap to clone.
pub struct FactCache<K, I, V>(Arc<Inner<K, I, V>>);

impl<K, I, V> Clone for FactCache<K, I, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<K, I, V> {
    kept: Cache<K, Answered<V>>,
    failed: Cache<K, (Monotonic, DirectoryError)>,
    /// What was sent at or before this about a key does not count any more.
    floors: Floors<K>,
    /// What was sent at or before this is asked for again, and stands in while that fails.
    soft: Floors<K>,
    /// A floor that is kept elsewhere.
    floor_of: FloorOf<I>,
    flights: Flights<K, Answered<V>>,
    ask: Ask<I, V>,
    places: Semaphore,
    waiting: Semaphore,
    deadline: Duration,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
}

/// The bounds of one cache.
#[derive(Debug, Clone, Copy)]
pub struct FactBounds {
    pub max_entries: u64,
    /// Nothing older could be served by any question.
    pub keep_for: Duration,
    /// For one lookup, waiting included.
    pub deadline: Duration,
    pub max_in_flight: usize,
}

impl<K, I, V> FactCache<K, I, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    I: Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `ask` makes the call; `operation` names it in metrics.
    pub fn new(
        operation: &'static str,
        bounds: FactBounds,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        ask: impl Fn(&I) -> Lookup<V> + Send + Sync + 'static,
    ) -> Self {
        Self::under(operation, bounds, clock, metrics, ask, |_| None)
    }

    /// The same with a further floor, read anew every time it matters.
    pub(super) fn under(
        operation: &'static str,
        bounds: FactBounds,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        ask: impl Fn(&I) -> Lookup<V> + Send + Sync + 'static,
        floor_of: impl Fn(&I) -> Option<Monotonic> + Send + Sync + 'static,
    ) -> Self {
        let state = metrics.directory_breaker_state.with_label_values(&[operation]);
        Self(Arc::new(Inner {
            kept: Cache::builder().max_capacity(bounds.max_entries).time_to_live(bounds.keep_for).build(),
            failed: Cache::builder().max_capacity(1_000).time_to_live(FAILED_FOR * 4).build(),
            floors: Floors::new(),
            soft: Floors::new(),
            floor_of: Box::new(floor_of),
            flights: Flights::new(),
            ask: Box::new(ask),
            places: Semaphore::new(bounds.max_in_flight),
            waiting: Semaphore::new(bounds.max_in_flight * WAITING_PER_PLACE),
            deadline: bounds.deadline,
            breaker: Breaker::new(operation, state),
            clock,
        }))
    }

    /// The fact about `input`, kept by `key`, as old as `freshness` allows: [`Freshness::within`] joins the fact's own ages
    /// with the route's.
    pub fn get(&self, key: &K, input: &I, freshness: Freshness, now: Now) -> Answer<Fact<V>> {
        let kept = self.kept(key, input);
        let age = kept.as_ref().map(|kept| now.monotonic.since(kept.sent.monotonic));
        let is_soft =
            |kept: &Answered<V>| self.0.soft.of(key).is_some_and(|soft| kept.sent.monotonic <= soft);
        match (kept.filter(|kept| !is_soft(kept)), age) {
            (Some(kept), Some(age)) if age <= freshness.fresh_for => {
                Answer::Ready(Ok(kept.usable_for(freshness.max_staleness)))
            }
            (Some(kept), Some(age)) if age <= freshness.max_staleness => {
                if self.failure(key, now).is_none() {
                    drop(self.join(key, input));
                }
                Answer::Ready(Ok(kept.usable_for(freshness.max_staleness)))
            }
            _ => {
                if let Some(error) = self.failure(key, now) {
                    return Answer::Ready(self.stand_in(key, input, freshness, error));
                }
                let cache = self.clone();
                let key = key.clone();
                let input = input.clone();
                Answer::pending(async move { cache.wait(&key, &input, freshness).await })
            }
        }
    }

    /// Nothing sent until `at` about `key` counts any more.
    pub fn forget(&self, key: &K, at: Now) {
        self.0.floors.raise(key, at.monotonic);
        self.0.kept.invalidate(key);
    }

    /// What was sent until `at` about `key` is asked for again; about everything without a key.
    pub fn soften(&self, key: Option<&K>, at: Now) {
        match key {
            Some(key) => self.0.soft.raise(key, at.monotonic),
            None => self.0.soft.raise_all(at.monotonic),
        }
    }

    /// Asks for `key` anew, whatever is kept.
    pub async fn refresh(&self, key: &K, input: &I) -> Result<(), DirectoryError> {
        self.join(key, input).await.map(drop)
    }

    async fn wait(&self, key: &K, input: &I, freshness: Freshness) -> Result<Fact<V>, DirectoryError> {
        for _ in 0..MAX_LANDINGS {
            match self.join(key, input).await {
                Ok(fact) if self.counts(key, input, &fact) => {
                    let age = self.0.clock.now().monotonic.since(fact.sent.monotonic);
                    // With a bound shorter than the far end takes there is no answer that is new enough.
                    return if age <= freshness.max_staleness {
                        Ok(fact.usable_for(freshness.max_staleness))
                    } else {
                        Err(DirectoryError::Timeout)
                    };
                }
                // One that was under way when it was outranked: ask once more.
                Ok(_) => {}
                Err(error) => return self.stand_in(key, input, freshness, error),
            }
        }
        Err(DirectoryError::Timeout)
    }

    /// What is kept and nothing outranks.
    fn kept(&self, key: &K, input: &I) -> Option<Answered<V>> {
        self.0.kept.get(key).filter(|kept| self.counts(key, input, kept))
    }

    fn counts(&self, key: &K, input: &I, fact: &Answered<V>) -> bool {
        let floor = self.0.floors.of(key).max((self.0.floor_of)(input));
        floor.is_none_or(|floor| fact.sent.monotonic > floor)
    }

    /// What is kept in place of what could not be had, while the far end fails.
    fn stand_in(
        &self,
        key: &K,
        input: &I,
        freshness: Freshness,
        error: DirectoryError,
    ) -> Result<Fact<V>, DirectoryError> {
        let longest = freshness.max_staleness + freshness.stale_if_error;
        let now = self.0.clock.now().monotonic;
        let age = |kept: &Answered<V>| now.since(kept.sent.monotonic);
        match self.kept(key, input) {
            Some(kept) if error.is_outage() && age(&kept) <= longest => Ok(kept.usable_for(longest)),
            // It was asked for again because something may have changed, and our own crowd was in the way: not a reason to
            // refuse what is young enough.
            Some(kept) if error == DirectoryError::Busy && age(&kept) <= freshness.max_staleness => {
                Ok(kept.usable_for(freshness.max_staleness))
            }
            _ => Err(error),
        }
    }

    /// How the last lookup of `key` failed, if it did a moment ago.
    fn failure(&self, key: &K, now: Now) -> Option<DirectoryError> {
        let (at, error) = self.0.failed.get(key)?;
        (now.monotonic.since(at) < FAILED_FOR).then_some(error)
    }

    fn join(
        &self,
        key: &K,
        input: &I,
    ) -> impl Future<Output = Result<Answered<V>, DirectoryError>> + Send + use<K, I, V> {
        let start = || {
            let cache = self.clone();
            let key = key.clone();
            let input = input.clone();
            async move { cache.lookup(key, input).await }
        };
        let (flight, _) = self.0.flights.join(key, start, |flight| drop(tokio::spawn(flight)));
        flight
    }

    async fn lookup(self, key: K, input: I) -> Result<Answered<V>, DirectoryError> {
        let inner = &self.0;
        match self.call(&input).await {
            Ok(fact) => {
                inner.kept.insert(key, fact.clone());
                Ok(fact)
            }
            Err(error) => {
                inner.failed.insert(key, (inner.clock.now().monotonic, error.clone()));
                Err(error)
            }
        }
    }

    async fn call(&self, input: &I) -> Result<Answered<V>, DirectoryError> {
        let inner = &self.0;
        let until = tokio::time::Instant::now() + inner.deadline;
        let Ok(_waiting) = inner.waiting.try_acquire() else { return Err(DirectoryError::Busy) };
        // Waiting for a place is our crowd's doing, and says nothing about the far end.
        let turn = tokio::time::timeout_at(until, inner.places.acquire()).await;
        let Ok(Ok(_place)) = turn else { return Err(DirectoryError::Busy) };
        let admission = inner
            .breaker
            .admit(inner.clock.now().monotonic)
            .map_err(|retry_after| DirectoryError::CircuitOpen { retry_after })?;
        let sent = inner.clock.now();
        let called = tokio::time::timeout_at(until, (inner.ask)(input)).await;
        let result = called.unwrap_or(Err(DirectoryError::Timeout));
        if let Some(outcome) = CallOutcome::of(&result) {
            admission.settle(outcome, inner.clock.now().monotonic);
        }
        result.map(|value| Answered { value, sent })
    }
}

#[cfg(test)]
mod tests;
