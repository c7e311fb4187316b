//! Faults that go on for a while: one line when each begins, changes and ends, and the list of those that go on now.
//!
//! Must not hold anything a client chose, nor write a line for every failure of a peer that is away.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The most often that a fault which goes on, or changes its cause, is logged.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The least time between two lines about one fault, however often it comes and goes.
const APART: Duration = Duration::from_secs(10);

/// Everything an operator should act on that is not over. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Conditions(Arc<Inner>);

/// What a fault is known by.
type Key = Cow<'static, str>;

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<Key, Entry>>,
    /// Those that go on: nearly always none, and then an answer clears nothing.
    going_on: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    /// Nothing while it is over.
    going_on: Option<Condition>,
    logged_at: Instant,
    /// The cause that the last line named; nothing if that line said that it was over.
    told: Option<String>,
}

/// A fault that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What does not work, as a sentence without a full stop.
    pub what: String,
    pub cause: String,
    pub since: Timestamp,
}

impl Conditions {
    /// Notes that the fault `key` goes on for this `cause`.
    pub fn raise(&self, key: impl Into<Key>, what: &str, cause: &str) {
        self.raise_at(&key.into(), what, cause, Instant::now());
    }

    /// Notes that the fault `key` is over.
    pub fn clear(&self, key: &str) {
        if self.any() {
            self.clear_at(key, Instant::now());
        }
    }

    /// Whether any goes on, at next to no cost.
    pub fn any(&self) -> bool {
        self.0.going_on.load(Ordering::Relaxed) > 0
    }

    /// Forgets the fault of something that is there no more.
    pub fn forget(&self, key: &str) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.remove(key).is_some_and(|entry| entry.going_on.is_some()) {
            self.0.going_on.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Those that go on, by their keys.
    pub fn list(&self) -> Vec<(String, Condition)> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter_map(|(key, entry)| Some((key.to_string(), entry.going_on.clone()?))).collect()
    }

    /// True if a line was written.
    fn raise_at(&self, key: &Key, what: &str, cause: &str, now: Instant) -> bool {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.get(key);
        let since =
            known.and_then(|entry| Some(entry.going_on.as_ref()?.since)).unwrap_or_else(Timestamp::now);
        let is_due = known.is_none_or(|entry| {
            let is_told = entry.told.as_deref() == Some(cause);
            now.saturating_duration_since(entry.logged_at) >= if is_told { AGAIN_AFTER } else { APART }
        });
        let condition = Condition { what: what.to_owned(), cause: cause.to_owned(), since };
        let entry =
            entries.entry(key.clone()).or_insert(Entry { going_on: None, logged_at: now, told: None });
        if entry.going_on.replace(condition).is_none() {
            self.0.going_on.fetch_add(1, Ordering::Relaxed);
        }
        if is_due {
            (entry.logged_at, entry.told) = (now, Some(cause.to_owned()));
        }
        drop(entries);
        if is_due {
            tracing::warn!(cause, %since, "{what}");
        }
        is_due
    }

    fn clear_at(&self, key: &str, now: Instant) -> bool {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(key) else { return false };
        let Some(Condition { what, since, .. }) = entry.going_on.take() else { return false };
        self.0.going_on.fetch_sub(1, Ordering::Relaxed);
        let was_told = entry.told.take().is_some();
        if was_told {
            entry.logged_at = now;
        }
        drop(entries);
        if was_told {
            tracing::info!(%since, "this is over: {what}");
        }
        was_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_logged_as_it_changes_and_at_a_bounded_rate() {
        let conditions = Conditions::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(conditions.raise_at(&"api".into(), "the API does not answer", "refused", at(0)));
        for second in 1..60 {
            assert!(!conditions.raise_at(&"api".into(), "the API does not answer", "refused", at(second)));
        }
        assert!(conditions.raise_at(&"api".into(), "the API does not answer", "refused", at(60)));
        assert!(
            !conditions.raise_at(&"api".into(), "the API does not answer", "timeout", at(61)),
            "too soon"
        );
        assert!(conditions.raise_at(&"api".into(), "the API does not answer", "timeout", at(71)));
        let (_, known) = conditions.list().remove(0);
        assert_eq!((known.what.as_str(), known.cause.as_str()), ("the API does not answer", "timeout"));
        assert!(conditions.clear_at("api", at(72)));
        assert_eq!(conditions.list(), []);
        // One that comes and goes all the time is a line each ten seconds.
        let flaps = (73..173).filter(|second| {
            let raised =
                conditions.raise_at(&"api".into(), "the API does not answer", "refused", at(*second));
            conditions.clear_at("api", at(*second));
            raised
        });
        assert!(flaps.count() <= 11);
    }
}
