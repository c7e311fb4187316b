//! The tier in front of the network: a deadline for every call, a bound on how many run and wait, one more try where
//! that is safe, and a breaker, each per operation.
//!
//! Must not remember answers, and must not let one operation's trouble close another.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::breaker::{Breaker, CallOutcome};
use super::{
    Answer, Attempts, Clock, DirectoryError, GuardSettings, SessionDirectory, SessionQuery, TokenOwner,
    TokenQuery,
};
use crate::identity::Monotonic;
use crate::session::{Evidence, Revocation};
use crate::telemetry::Metrics;

/// Tries again per call, as a share: more than this and trying again would add to the trouble.
const RETRY_SHARE: f64 = 0.1;
/// Tries that may be saved up.
const MAX_SAVED: f64 = 10.0;

/// How many different members or tokens must get nonsense for an answer within how long before it is taken for the API's
/// trouble: what cannot be read of one alone says nothing about the others.
const NONSENSE_ABOUT: usize = 3;
const NONSENSE_WITHIN: Duration = Duration::from_secs(10);

/// How long unknown tokens are held back, at least, after the API limited a session list.
const HOLD_BACK_FOR: Duration = Duration::from_secs(10);

/// Bounds the calls to the next tier.
pub struct Guard {
    next: Arc<dyn SessionDirectory>,
    list: Gate,
    authenticate: Gate,
    /// Told when session lists are limited: the API counts a project's calls together.
    attempts: Arc<Attempts>,
    clock: Arc<dyn Clock>,
}

/// The bounds of one operation.
#[derive(Clone)]
struct Gate {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    deadline: Duration,
    breaker: Breaker,
    nonsense: Arc<Mutex<Nonsense>>,
    /// Tries again that are left; none for an operation that is not safe to repeat.
    retries: Option<Arc<Mutex<f64>>>,
    clock: Arc<dyn Clock>,
}

/// Whom answers that could not be read were about, the latest of each.
#[derive(Default)]
struct Nonsense(Vec<(u64, Monotonic)>);

impl Nonsense {
    /// Notes one more, and tells about how many there were lately.
    fn note(&mut self, about: u64, now: Monotonic) -> usize {
        self.0.retain(|(known, at)| *known != about && now.since(*at) <= NONSENSE_WITHIN);
        // More than enough says no more than enough.
        if self.0.len() >= NONSENSE_ABOUT {
            self.0.remove(0);
        }
        self.0.push((about, now));
        self.0.len()
    }
}

/// Tells members and tokens apart; a collision counts two as one.
fn about(subject: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    hasher.finish()
}

impl Guard {
    pub fn new(
        next: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        settings: &GuardSettings,
        attempts: Arc<Attempts>,
        metrics: &Metrics,
    ) -> Self {
        let gate = |operation, safe: bool| Gate {
            running: Arc::new(Semaphore::new(settings.max_in_flight)),
            waiting: Arc::new(Semaphore::new(settings.max_in_flight + settings.max_waiting)),
            deadline: settings.deadline,
            breaker: Breaker::new(operation, metrics.directory_breaker_state.with_label_values(&[operation])),
            nonsense: Arc::default(),
            retries: safe.then(|| Arc::new(Mutex::new(MAX_SAVED))),
            clock: Arc::clone(&clock),
        };
        Self { next, list: gate("list", true), authenticate: gate("authenticate", false), attempts, clock }
    }
}

impl SessionDirectory for Guard {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let next = Arc::clone(&self.next);
        let query = query.clone();
        let clock = Arc::clone(&self.clock);
        let attempts = Arc::clone(&self.attempts);
        self.list.pass(about(&query.member), move || {
            let answer = next.active_sessions(&SessionQuery { now: clock.now(), ..query.clone() });
            let attempts = Arc::clone(&attempts);
            let clock = Arc::clone(&clock);
            async move {
                let answer = answer.wait().await;
                if let Err(DirectoryError::RateLimited { retry_after }) = &answer {
                    let wait = retry_after.unwrap_or_default().max(HOLD_BACK_FOR);
                    attempts.hold_back(clock.now().monotonic.plus(wait));
                }
                answer
            }
        })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        let next = Arc::clone(&self.next);
        let query = query.clone();
        let clock = Arc::clone(&self.clock);
        self.authenticate.pass(about(&query.digest), move || {
            let answer = next.resolve(&TokenQuery { now: clock.now(), ..query.clone() });
            async move { answer.wait().await }
        })
    }

    fn forget(&self, revocation: &Revocation) {
        self.next.forget(revocation);
    }
}

impl Gate {
    /// Makes a call about one member or token.
    fn pass<T, F>(&self, about: u64, call: impl Fn() -> F + Send + Sync + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DirectoryError>> + Send,
    {
        if let Some(retry_after) = self.breaker.refuses(self.clock.now().monotonic) {
            return Answer::Ready(Err(DirectoryError::CircuitOpen { retry_after }));
        }
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return Answer::Ready(Err(DirectoryError::Busy));
        };
        let gate = self.clone();
        let deadline = tokio::time::Instant::now() + self.deadline;
        Answer::pending(async move {
            let _place = place;
            // Closed never; a wait that lasts the whole deadline means the calls before it hang.
            let turn = tokio::time::timeout_at(deadline, gate.running.acquire()).await;
            let Ok(Ok(_turn)) = turn else {
                return Err(DirectoryError::Timeout);
            };
            let first = gate.call(about, &call, deadline).await;
            match &first {
                // One that asks to be left alone is.
                Err(DirectoryError::Unreachable | DirectoryError::Failed { retry_after: None, .. })
                    if gate.breaker.refuses(gate.clock.now().monotonic).is_none() && gate.may_retry() =>
                {
                    let pause = Duration::from_millis(fastrand::u64(20..100));
                    if tokio::time::timeout_at(deadline, tokio::time::sleep(pause)).await.is_err() {
                        return first;
                    }
                    gate.call(about, &call, deadline).await
                }
                _ => first,
            }
        })
    }

    async fn call<T, F>(
        &self,
        about: u64,
        call: &(impl Fn() -> F + Send + Sync),
        deadline: tokio::time::Instant,
    ) -> Result<T, DirectoryError>
    where
        F: Future<Output = Result<T, DirectoryError>>,
    {
        let admission = self
            .breaker
            .admit(self.clock.now().monotonic)
            .map_err(|retry_after| DirectoryError::CircuitOpen { retry_after })?;
        let began = tokio::time::Instant::now();
        let result = tokio::time::timeout_at(deadline, call()).await.unwrap_or(Err(DirectoryError::Timeout));
        // A call that had little time left after it waited for its turn says nothing about the far end.
        let too_short = matches!(result, Err(DirectoryError::Timeout)) && began.elapsed() < self.deadline / 2;
        let is_one_alone = matches!(result, Err(DirectoryError::Malformed(_))) && !self.is_nonsense(about);
        if let Some(outcome) = CallOutcome::of(&result).filter(|_| !too_short && !is_one_alone) {
            admission.settle(outcome, self.clock.now().monotonic);
        }
        self.save();
        result
    }

    /// Whether nonsense was answered about so many different members or tokens lately that the API itself is in trouble.
    fn is_nonsense(&self, about: u64) -> bool {
        let mut nonsense = self.nonsense.lock().unwrap_or_else(PoisonError::into_inner);
        nonsense.note(about, self.clock.now().monotonic) >= NONSENSE_ABOUT
    }

    /// Every call saves a share of a second try, up to a few.
    fn save(&self) {
        if let Some(retries) = &self.retries {
            let mut left = retries.lock().unwrap_or_else(PoisonError::into_inner);
            *left = (*left + RETRY_SHARE).min(MAX_SAVED);
        }
    }

    fn may_retry(&self) -> bool {
        let Some(retries) = &self.retries else { return false };
        let mut left = retries.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *left >= 1.0;
        if enough {
            *left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_the_apis_once_three_different_ones_got_it_within_ten_seconds() {
        let at = |seconds| Monotonic::at(Duration::from_secs(seconds));
        let mut nonsense = Nonsense::default();
        for second in 0..100 {
            assert_eq!(nonsense.note(1, at(second)), 1, "one member, however often");
        }
        assert_eq!(nonsense.note(2, at(100)), 2);
        assert_eq!(nonsense.note(3, at(111)), 1, "the others are too long ago");
        assert_eq!(nonsense.note(1, at(112)), 2);
        assert_eq!(nonsense.note(2, at(113)), 3);
        for other in 4..1_000 {
            assert_eq!(nonsense.note(other, at(114)), 3);
        }
        assert_eq!(nonsense.0.len(), 3);
    }
}
