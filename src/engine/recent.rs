//! The tokens verified last, known by their bytes: a look at them costs less than the digest that all others are known by.
//!
//! Must not say whether a token still holds: its dates, keys and rules are looked at on every use, here as elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use super::ManagedNames;
use super::header_edits::Injected;
use super::identify::VerifiedToken;
use crate::identity::Secret;
use crate::session::{ActiveSessions, MemberSession};

/// Sets of two; a power of two. Full of session JWTs they take about 16 MiB, as much again for what is told of their sessions,
/// and the lists those were found in.
const SETS: usize = 4096;

/// A small cache without expiry or bookkeeping. A token can be in one set only, and drives out the one used longer ago.
pub(super) struct RecentTokens(Box<[Set]>);

type Set = Mutex<[Option<Arc<RecentToken>>; 2]>;

/// A token, what verifying it found, and what the origin was told of its caller the last time.
pub(super) struct RecentToken {
    /// Compared whole. A part of a token, its signature even, says nothing of the rest until it is verified.
    token: Secret,
    pub(super) known: Arc<VerifiedToken>,
    told: Mutex<Option<Told>>,
    listed: Mutex<Option<Listed>>,
}

/// The list their session was found in the last time, and the directory's generation before that look.
struct Listed {
    list: Arc<ActiveSessions>,
    generation: u64,
}

struct Told {
    session: Arc<MemberSession>,
    managed: Arc<ManagedNames>,
    headers: Injected,
}

impl RecentToken {
    /// The headers that tell of `session`, if they were written for this very reading of it and by the same rules.
    pub(super) fn told(&self, session: &Arc<MemberSession>, managed: &Arc<ManagedNames>) -> Option<Injected> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.as_ref()?;
        let same = Arc::ptr_eq(&told.session, session) && Arc::ptr_eq(&told.managed, managed);
        same.then(|| Arc::clone(&told.headers))
    }

    /// The list that was found the last time, if the directory says that it still answers.
    pub(super) fn listed(
        &self,
        still_answers: impl FnOnce(&ActiveSessions, u64) -> bool,
    ) -> Option<Arc<ActiveSessions>> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let Listed { list, generation } = listed.as_ref()?;
        still_answers(list, *generation).then(|| Arc::clone(list))
    }

    pub(super) fn list(&self, list: &Arc<ActiveSessions>, generation: u64) {
        let listed = Listed { list: Arc::clone(list), generation };
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed);
    }

    pub(super) fn tell(&self, session: &Arc<MemberSession>, managed: &Arc<ManagedNames>, headers: &Injected) {
        let told =
            Told { session: Arc::clone(session), managed: Arc::clone(managed), headers: Arc::clone(headers) };
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

impl RecentTokens {
    pub(super) fn new() -> Self {
        Self((0..SETS).map(|_| Mutex::default()).collect())
    }

    pub(super) fn get(&self, token: &[u8]) -> Option<Arc<RecentToken>> {
        let mut set = self.set(token)?.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = &mut *set;
        let is = |recent: &Arc<RecentToken>| recent.token.expose().as_bytes() == token;
        if !first.as_ref().is_some_and(is) {
            second.as_ref().filter(|recent| is(recent))?;
            std::mem::swap(first, second);
        }
        first.clone()
    }

    /// Remembers a token that was verified.
    pub(super) fn put(&self, token: &str, known: Arc<VerifiedToken>) -> Arc<RecentToken> {
        let token = Secret::new(token.to_owned());
        let (told, listed) = Default::default();
        let recent = Arc::new(RecentToken { token, known, told, listed });
        let Some(set) = self.set(recent.token.expose().as_bytes()) else { return recent };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = &mut *set;
        // One that was verified anew takes its own place.
        if first.as_ref().is_none_or(|held| held.token != recent.token) {
            std::mem::swap(first, second);
        }
        *first = Some(Arc::clone(&recent));
        drop(set);
        recent
    }

    /// Drops every token that `stands` does not hold of.
    pub(super) fn retain(&self, stands: impl Fn(&VerifiedToken) -> bool) {
        for set in &self.0 {
            let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
            for place in &mut *set {
                if place.as_ref().is_some_and(|recent| !stands(&recent.known)) {
                    *place = None;
                }
            }
        }
    }

    /// By the end of a token: of its signature, where no two are alike.
    fn set(&self, token: &[u8]) -> Option<&Set> {
        let end = u64::from_le_bytes(*token.last_chunk()?);
        let mixed = end.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SETS.ilog2());
        self.0.get(usize::try_from(mixed).ok()?)
    }
}
