//! What is looked up beside sessions, policies, organizations, app tokens, and one way to keep any of it: fresh, then
//! stale while it is asked for again, then only while the far end fails.
//!
//! Must not keep a verdict, nor let one kind of lookup wait for another's trouble.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::flight::Flights;
use super::{Answer, Breaker, CallOutcome, Clock, DirectoryError};
use crate::identity::{AppToken, Introspection, Monotonic, Now, OrganizationId};
use crate::policy::{Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
use crate::session::Revocation;
use crate::telemetry::Metrics;

/// How long a failed lookup answers for its key: many who ask at once must not each ask again.
const FAILED_FOR: Duration = Duration::from_millis(500);
/// Lookups one question may wait for: another's that turned out too old, and its own.
const MAX_LANDINGS: usize = 2;

/// Where RBAC policies come from.
pub trait RbacSource: Send + Sync + 'static {
    /// The project's policy.
    fn policy(&self, now: Now) -> Answer<Arc<RbacPolicy>>;

    /// The roles an organization adds to it.
    fn organization_roles(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationRoles>>;
}

/// Where the names of organizations come from.
pub trait OrganizationSource: Send + Sync + 'static {
    fn names(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationNames>>;

    /// Drops what is known about an organization that `revocation` names.
    fn forget(&self, revocation: &Revocation);
}

/// Where it is found out whether an app's token still counts.
pub trait AppTokenSource: Send + Sync + 'static {
    /// No older than `freshness` allows, nor than the newest revocation of its member or organization.
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection>;

    fn forget(&self, revocation: &Revocation);
}

/// A source of nothing, where nothing is to be looked up.
pub struct NoFacts;

impl RbacSource for NoFacts {
    fn policy(&self, _now: Now) -> Answer<Arc<RbacPolicy>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn organization_roles(&self, _id: &OrganizationId, _now: Now) -> Answer<Arc<OrganizationRoles>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }
}

impl OrganizationSource for NoFacts {
    fn names(&self, _id: &OrganizationId, _now: Now) -> Answer<Arc<OrganizationNames>> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

impl AppTokenSource for NoFacts {
    fn introspect(&self, _token: &Arc<AppToken>, _freshness: Freshness, _now: Now) -> Answer<Introspection> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

type Lookup<V> = Pin<Box<dyn Future<Output = Result<V, DirectoryError>> + Send>>;
type Ask<K, V> = Box<dyn Fn(&K) -> Lookup<V> + Send + Sync>;

/// A value and when its lookup was sent.
#[derive(Debug, Clone)]
pub struct Fact<V> {
    pub value: V,
    pub sent: Now,
}

/// Facts of one kind, by key. Cheap to clone.
pub struct FactCache<K, V>(Arc<Inner<K, V>>);

impl<K, V> Clone for FactCache<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<K, V> {
    kept: Cache<K, Fact<V>>,
    failed: Cache<K, (Monotonic, DirectoryError)>,
    /// What was sent at or before this about a key does not count any more.
    floors: Cache<K, Monotonic>,
    flights: Flights<K, Fact<V>>,
    ask: Ask<K, V>,
    places: Semaphore,
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

impl<K, V> FactCache<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `ask` makes the call; `operation` names it in metrics.
    pub fn new(
        operation: &'static str,
        bounds: FactBounds,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        ask: impl Fn(&K) -> Lookup<V> + Send + Sync + 'static,
    ) -> Self {
        let state = metrics.directory_breaker_state.with_label_values(&[operation]);
        Self(Arc::new(Inner {
            kept: Cache::builder().max_capacity(bounds.max_entries).time_to_live(bounds.keep_for).build(),
            failed: Cache::builder().max_capacity(1_000).time_to_live(FAILED_FOR * 4).build(),
            floors: Cache::builder().max_capacity(bounds.max_entries).time_to_live(bounds.keep_for).build(),
            flights: Flights::new(),
            ask: Box::new(ask),
            places: Semaphore::new(bounds.max_in_flight),
            deadline: bounds.deadline,
            breaker: Breaker::new(operation, state),
            clock,
        }))
    }

    /// The fact about `key`, as old as `freshness` allows and newer than `newer_than`.
    pub fn get(
        &self,
        key: &K,
        freshness: Freshness,
        newer_than: Option<Monotonic>,
        now: Now,
    ) -> Answer<Fact<V>> {
        let floor = newer_than.max(self.0.floors.get(key));
        let kept = self.0.kept.get(key).filter(|kept| floor.is_none_or(|floor| kept.sent.monotonic > floor));
        let age = kept.as_ref().map(|kept| now.monotonic.since(kept.sent.monotonic));
        match (kept, age) {
            (Some(kept), Some(age)) if age <= freshness.fresh_for.min(freshness.max_staleness) => {
                Answer::Ready(Ok(kept))
            }
            (Some(kept), Some(age)) if age <= freshness.max_staleness => {
                if self.failure(key, now).is_none() {
                    drop(self.0.flights.join(key, || self.lookup(key), |flight| drop(tokio::spawn(flight))));
                }
                Answer::Ready(Ok(kept))
            }
            (kept, age) => {
                let longest = freshness.max_staleness + freshness.stale_if_error;
                let kept = kept.filter(|_| age.is_some_and(|age| age <= longest));
                if let Some(error) = self.failure(key, now) {
                    return Answer::Ready(stands_in(kept, error));
                }
                let (cache, key) = (self.clone(), key.clone());
                Answer::pending(async move { cache.wait(&key, floor, kept).await })
            }
        }
    }

    /// Nothing sent until now about `key` counts any more.
    pub fn forget(&self, key: &K, at: Now) {
        self.0.floors.insert(key.clone(), at.monotonic);
        self.0.kept.invalidate(key);
    }

    /// Asks for `key` anew, whatever is kept.
    pub async fn refresh(&self, key: &K) -> Result<(), DirectoryError> {
        let (flight, _) = self.0.flights.join(key, || self.lookup(key), |flight| drop(tokio::spawn(flight)));
        flight.await.map(drop)
    }

    async fn wait(
        &self,
        key: &K,
        floor: Option<Monotonic>,
        kept: Option<Fact<V>>,
    ) -> Result<Fact<V>, DirectoryError> {
        for _ in 0..MAX_LANDINGS {
            let (flight, _) =
                self.0.flights.join(key, || self.lookup(key), |flight| drop(tokio::spawn(flight)));
            match flight.await {
                Ok(fact) if floor.is_none_or(|floor| fact.sent.monotonic > floor) => return Ok(fact),
                // One that was under way when it was outranked: ask once more.
                Ok(_) => {}
                Err(error) => return stands_in(kept, error),
            }
        }
        Err(DirectoryError::Timeout)
    }

    /// How the last lookup of `key` failed, if it did a moment ago.
    fn failure(&self, key: &K, now: Now) -> Option<DirectoryError> {
        let (at, error) = self.0.failed.get(key)?;
        (now.monotonic.since(at) < FAILED_FOR).then_some(error)
    }

    fn lookup(&self, key: &K) -> impl Future<Output = Result<Fact<V>, DirectoryError>> + Send + 'static {
        let (cache, key) = (self.clone(), key.clone());
        async move {
            let inner = &cache.0;
            let sent = inner.clock.now();
            let result = match tokio::time::timeout(inner.deadline, cache.call(&key)).await {
                Ok(result) => result,
                Err(_) => Err(DirectoryError::Timeout),
            };
            match result {
                Ok(value) => {
                    let fact = Fact { value, sent };
                    inner.kept.insert(key, fact.clone());
                    Ok(fact)
                }
                Err(error) => {
                    inner.failed.insert(key, (inner.clock.now().monotonic, error.clone()));
                    Err(error)
                }
            }
        }
    }

    async fn call(&self, key: &K) -> Result<V, DirectoryError> {
        let inner = &self.0;
        let Ok(_place) = inner.places.acquire().await else { return Err(DirectoryError::Busy) };
        let admission = inner
            .breaker
            .admit(inner.clock.now().monotonic)
            .map_err(|retry_after| DirectoryError::CircuitOpen { retry_after })?;
        // A call that is cut off by the deadline settles nothing by itself, so it has one a little shorter.
        let call = tokio::time::timeout(inner.deadline.mul_f64(0.95), (inner.ask)(key)).await;
        let result = call.unwrap_or(Err(DirectoryError::Timeout));
        if let Some(outcome) = CallOutcome::of(&result) {
            admission.settle(outcome, inner.clock.now().monotonic);
        }
        result
    }
}

/// What is kept in place of what could not be had, while the far end fails.
fn stands_in<V>(kept: Option<Fact<V>>, error: DirectoryError) -> Result<Fact<V>, DirectoryError> {
    match kept {
        Some(kept) if error.is_outage() => Ok(kept),
        _ => Err(error),
    }
}
