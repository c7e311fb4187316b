//! The tokens verified last, known by their bytes: a look at them costs less than the digest that all others are known by.
//!
//! Must not say whether a token still holds: its dates, keys and rules are looked at on every use, here as elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use super::identify::VerifiedToken;
use crate::identity::Secret;

/// Sets of two; a power of two. Full of session JWTs they take about 16 MiB.
const SETS: usize = 4096;

/// A small cache without expiry or bookkeeping. A token can be in one set only, and drives out the one used longer ago.
pub(super) struct RecentTokens(Box<[Mutex<[Option<Recent>; 2]>]>);

struct Recent {
    /// Compared whole. A part of a token, its signature even, says nothing of the rest until it is verified.
    token: Secret,
    known: Arc<VerifiedToken>,
}

impl RecentTokens {
    pub(super) fn new() -> Self {
        Self((0..SETS).map(|_| Mutex::default()).collect())
    }

    pub(super) fn get(&self, token: &str) -> Option<Arc<VerifiedToken>> {
        let mut set = self.set(token)?.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = &mut *set;
        let is = |recent: &Recent| recent.token.expose() == token;
        if !first.as_ref().is_some_and(is) {
            second.as_ref().filter(|recent| is(recent))?;
            std::mem::swap(first, second);
        }
        first.as_ref().map(|recent| Arc::clone(&recent.known))
    }

    /// Remembers a token that was verified.
    pub(super) fn put(&self, token: &str, known: &Arc<VerifiedToken>) {
        let Some(set) = self.set(token) else { return };
        let recent = Recent { token: Secret::new(token.to_owned()), known: Arc::clone(known) };
        let dropped = {
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            let [first, second] = &mut *set;
            // One that was verified anew takes its own place.
            let place = if first.as_ref().is_some_and(|held| held.token == recent.token) {
                first
            } else {
                std::mem::swap(first, second);
                first
            };
            place.replace(recent)
        };
        drop(dropped);
    }

    /// By the end of a token: of its signature, where no two are alike.
    fn set(&self, token: &str) -> Option<&Mutex<[Option<Recent>; 2]>> {
        let end = u64::from_le_bytes(*token.as_bytes().last_chunk()?);
        let mixed = end.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SETS.ilog2());
        self.0.get(usize::try_from(mixed).ok()?)
    }
}
