//! Moments that outrank what was learnt before them, by what they are about.
//!
//! Must not lose one while something older could still be served: when there are too many, the newest holds for everything.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

use crate::identity::Monotonic;

/// More than this and one moment stands for them all.
const MAX_FLOORS: usize = 65_536;

/// The newest moment by key.
pub(super) struct Floors<K>(RwLock<Kept<K>>);

struct Kept<K> {
    by_key: HashMap<K, Monotonic>,
    everything: Option<Monotonic>,
}

impl<K: Eq + Hash + Clone> Floors<K> {
    pub(super) fn new() -> Self {
        Self(RwLock::new(Kept { by_key: HashMap::new(), everything: None }))
    }

    pub(super) fn raise(&self, key: &K, at: Monotonic) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.by_key.len() >= MAX_FLOORS {
            let newest = kept.by_key.values().copied().max();
            kept.everything = kept.everything.max(newest);
            kept.by_key.clear();
        }
        let known = kept.by_key.entry(key.clone()).or_insert(at);
        *known = at.max(*known);
    }

    pub(super) fn raise_all(&self, at: Monotonic) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.everything = kept.everything.max(Some(at));
        kept.by_key.clear();
    }

    /// What was learnt at or before this about `key` is outranked.
    pub(super) fn of(&self, key: &K) -> Option<Monotonic> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.everything.max(kept.by_key.get(key).copied())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn floors_only_rise_and_none_is_lost_to_a_crowd() {
        let at = |second| Monotonic::at(Duration::from_secs(second));
        let floors = Floors::new();
        floors.raise(&0, at(5));
        floors.raise(&0, at(3));
        assert_eq!((floors.of(&0), floors.of(&1)), (Some(at(5)), None));
        for key in 1..=MAX_FLOORS {
            floors.raise(&key, at(7));
        }
        assert!(floors.of(&0) >= Some(at(5)) && floors.of(&MAX_FLOORS) == Some(at(7)));
        floors.raise_all(at(9));
        assert_eq!(floors.of(&3), Some(at(9)));
    }
}
