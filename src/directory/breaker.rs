//! The circuit breaker of one operation: closed, open, or recovering by ever more calls at once.
//!
//! Must not know what the operation is, nor read a clock: every look at it says when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use super::DirectoryError;
use crate::identity::Monotonic;

/// Failures in a row that open it.
const IN_A_ROW: u32 = 5;
/// Calls of a window from which on their share of failures counts.
const ENOUGH: u32 = 20;
/// How long a window of calls is.
const WINDOW: Duration = Duration::from_secs(10);
/// The least time between two probes.
const PAUSE: Duration = Duration::from_secs(1);
/// Calls at once from which on it counts as closed again.
const RECOVERED: u32 = 64;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    Success,
    /// It failed, and perhaps said how long to leave it alone.
    Failure(Option<Duration>),
    /// The far end asked to be left alone for so long.
    HoldOff(Duration),
}

impl CallOutcome {
    /// What a call says about the far end; nothing if it never got there.
    pub fn of<T>(result: &Result<T, DirectoryError>) -> Option<Self> {
        match result {
            Ok(_) | Err(DirectoryError::Refused { .. } | DirectoryError::Mismatched) => Some(Self::Success),
            Err(DirectoryError::RateLimited { retry_after }) => {
                // Limits are counted in fixed windows: without a word from the far end, the next second is a new one.
                Some(Self::HoldOff(retry_after.unwrap_or(PAUSE)))
            }
            Err(DirectoryError::Failed { retry_after, .. }) => Some(Self::Failure(*retry_after)),
            Err(DirectoryError::Unreachable | DirectoryError::Timeout | DirectoryError::Malformed(_)) => {
                Some(Self::Failure(None))
            }
            // Our own rejected credentials are probed for by themselves; a list past all bounds is one member's.
            Err(
                DirectoryError::CredentialsRejected
                | DirectoryError::Oversized { .. }
                | DirectoryError::CircuitOpen { .. }
                | DirectoryError::TooManyUnknown { .. }
                | DirectoryError::Busy
                | DirectoryError::NoKeys,
            ) => None,
        }
    }
}

/// A breaker. Cheap to clone.
#[derive(Clone)]
pub struct Breaker(Arc<Inner>);

struct Inner {
    name: &'static str,
    state: Mutex<Standing>,
    gauge: IntGauge,
}

struct Standing {
    state: State,
    /// Grows with every change, so that a call let through under another state settles nothing.
    generation: u64,
}

enum State {
    Closed { in_a_row: u32, window: Window },
    Open { until: Monotonic },
    Recovering { allowed: u32, under_way: u32 },
}

#[derive(Default)]
struct Window {
    began: Monotonic,
    calls: u32,
    failures: u32,
}

/// Leave to make one call. Dropped without an outcome it gives its place back and says nothing.
pub struct Admission {
    breaker: Breaker,
    generation: u64,
    settled: bool,
}

impl Breaker {
    /// `gauge` shows 0 while closed, 1 while open, 2 while recovering.
    pub fn new(name: &'static str, gauge: IntGauge) -> Self {
        gauge.set(0);
        let state = State::Closed { in_a_row: 0, window: Window::default() };
        Self(Arc::new(Inner { name, state: Mutex::new(Standing { state, generation: 0 }), gauge }))
    }

    /// Lets a call through, or says how long to wait.
    pub fn admit(&self, now: Monotonic) -> Result<Admission, Duration> {
        let mut standing = self.lock();
        match &mut standing.state {
            State::Closed { .. } => {}
            State::Open { until } if now < *until => return Err(until.since(now)),
            State::Open { .. } => {
                standing.change(State::Recovering { allowed: 1, under_way: 1 }, &self.0.gauge);
            }
            State::Recovering { allowed, under_way } => {
                if *under_way >= *allowed {
                    return Err(PAUSE);
                }
                *under_way += 1;
            }
        }
        Ok(Admission { breaker: self.clone(), generation: standing.generation, settled: false })
    }

    /// How long no call will be let through, if that is known now.
    pub fn refuses(&self, now: Monotonic) -> Option<Duration> {
        match &self.lock().state {
            State::Open { until } if now < *until => Some(until.since(now)),
            State::Recovering { allowed, under_way } if under_way >= allowed => Some(PAUSE),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Tells what became of the call.
    pub fn settle(mut self, outcome: CallOutcome, now: Monotonic) {
        self.settled = true;
        let inner = &self.breaker.0;
        let mut standing = self.breaker.lock();
        if standing.generation != self.generation {
            return;
        }
        if let CallOutcome::HoldOff(wait) = outcome {
            tracing::warn!(operation = inner.name, ?wait, "asked to hold off");
            standing.open(now.plus(wait.max(jittered(PAUSE))), &inner.gauge);
            return;
        }
        let failed = matches!(outcome, CallOutcome::Failure(_));
        let wait = match outcome {
            CallOutcome::Failure(Some(wait)) => wait.max(jittered(PAUSE)),
            _ => jittered(PAUSE),
        };
        match &mut standing.state {
            State::Closed { in_a_row, window } => {
                *in_a_row = if failed { *in_a_row + 1 } else { 0 };
                if *in_a_row >= IN_A_ROW || window.count(failed, now) {
                    tracing::warn!(operation = inner.name, "too many failures: left alone for a moment");
                    standing.open(now.plus(wait), &inner.gauge);
                }
            }
            State::Recovering { .. } if failed => {
                standing.open(now.plus(wait), &inner.gauge);
            }
            State::Recovering { allowed, under_way } => {
                *under_way = under_way.saturating_sub(1);
                *allowed = allowed.saturating_mul(2);
                if *allowed > RECOVERED {
                    tracing::info!(operation = inner.name, "recovered");
                    let state = State::Closed { in_a_row: 0, window: Window::default() };
                    standing.change(state, &inner.gauge);
                }
            }
            State::Open { .. } => {}
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut standing = self.breaker.lock();
        let same = standing.generation == self.generation;
        if let (true, State::Recovering { under_way, .. }) = (same, &mut standing.state) {
            *under_way = under_way.saturating_sub(1);
        }
    }
}

impl Standing {
    fn open(&mut self, until: Monotonic, gauge: &IntGauge) {
        self.change(State::Open { until }, gauge);
    }

    fn change(&mut self, state: State, gauge: &IntGauge) {
        gauge.set(match state {
            State::Closed { .. } => 0,
            State::Open { .. } => 1,
            State::Recovering { .. } => 2,
        });
        self.state = state;
        self.generation += 1;
    }
}

impl Window {
    /// Counts a call; true if half of enough calls failed.
    fn count(&mut self, failed: bool, now: Monotonic) -> bool {
        if now.since(self.began) > WINDOW {
            *self = Self { began: now, calls: 0, failures: 0 };
        }
        self.calls += 1;
        self.failures += u32::from(failed);
        self.calls >= ENOUGH && self.failures * 2 >= self.calls
    }
}

/// Up to a quarter longer, so that replicas do not probe in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + fastrand::f64() * 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic::at(Duration::from_millis(milliseconds))
    }

    fn breaker() -> Breaker {
        Breaker::new("test", IntGauge::new("test", "test").unwrap())
    }

    fn call(breaker: &Breaker, outcome: CallOutcome, now: Monotonic) -> bool {
        breaker.admit(now).map(|admission| admission.settle(outcome, now)).is_ok()
    }

    #[test]
    fn failures_in_a_row_open_it_and_successes_in_between_do_not() {
        let breaker = breaker();
        for _ in 0..20 {
            for _ in 0..4 {
                assert!(call(&breaker, CallOutcome::Failure(None), at(0)));
            }
            for _ in 0..9 {
                assert!(call(&breaker, CallOutcome::Success, at(0)));
            }
        }
        for _ in 0..5 {
            assert!(call(&breaker, CallOutcome::Failure(None), at(20_000)));
        }
        assert!(!call(&breaker, CallOutcome::Success, at(20_000)));
    }

    #[test]
    fn half_of_enough_calls_failing_opens_it_too() {
        let breaker = breaker();
        for _ in 0..10 {
            assert!(call(&breaker, CallOutcome::Success, at(0)));
            assert!(call(&breaker, CallOutcome::Failure(None), at(0)));
        }
        assert!(breaker.refuses(at(0)).is_some());
    }

    #[test]
    fn while_open_there_is_at_most_one_probe_a_second() {
        let breaker = breaker();
        for _ in 0..5 {
            call(&breaker, CallOutcome::Failure(None), at(0));
        }
        let probes = (0..60_000).filter(|ms| call(&breaker, CallOutcome::Failure(None), at(*ms))).count();
        assert!((40..=60).contains(&probes), "{probes} probes in a minute");
    }

    #[test]
    fn it_recovers_by_ever_more_calls_at_once() {
        let breaker = breaker();
        for _ in 0..5 {
            call(&breaker, CallOutcome::Failure(None), at(0));
        }
        let now = at(2_000);
        let probe = breaker.admit(now).ok().unwrap();
        assert!(breaker.admit(now).is_err(), "one probe at a time");
        probe.settle(CallOutcome::Success, now);
        let pair: Vec<_> = (0..2).map(|_| breaker.admit(now).ok().unwrap()).collect();
        assert!(breaker.admit(now).is_err());
        pair.into_iter().for_each(|call| call.settle(CallOutcome::Success, now));
        for _ in 0..5 {
            assert!(call(&breaker, CallOutcome::Success, now));
        }
        let many: Vec<_> = (0..200).map(|_| breaker.admit(now)).collect();
        assert!(many.iter().all(Result::is_ok), "closed again");
    }

    #[test]
    fn a_call_from_before_settles_nothing_and_one_given_up_gives_its_place_back() {
        let breaker = breaker();
        let early = breaker.admit(at(0)).ok().unwrap();
        call(&breaker, CallOutcome::HoldOff(Duration::from_secs(7)), at(0));
        early.settle(CallOutcome::Success, at(1));
        assert!(breaker.refuses(at(6_900)).is_some_and(|wait| wait <= Duration::from_millis(100)));
        drop(breaker.admit(at(7_000)).ok().unwrap());
        assert!(breaker.admit(at(7_000)).is_ok());
    }
}
