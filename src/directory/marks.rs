//! Marks of revocations: each outranks evidence whose lookup was sent before it, however late that evidence lands.
//!
//! Must not forget a mark while evidence it outranks could still be served, nor grow without bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::identity::{MemberRef, Monotonic, SessionId};
use crate::session::{ActiveSessions, Evidence, Revocation, RevocationTarget};

/// Marks kept; past this everything fetched so far is outranked at once.
const MAX_MARKS: usize = 65_536;

/// All marks still worth keeping.
pub(super) struct Marks {
    /// Lets the common case, no mark at all, pass without a lock.
    any: AtomicBool,
    kept: RwLock<Kept>,
    horizon: Duration,
}

#[derive(Default)]
struct Kept {
    by_target: HashMap<RevocationTarget, Monotonic>,
    /// Evidence sent at or before this is outranked, whoever it is about.
    everything: Option<Monotonic>,
}

impl Marks {
    /// `horizon` is the age of the oldest evidence that could still be served.
    pub(super) fn new(horizon: Duration) -> Self {
        Self { any: AtomicBool::new(false), kept: RwLock::new(Kept::default()), horizon }
    }

    pub(super) fn leave(&self, revocation: &Revocation) {
        let now = revocation.at.monotonic;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.by_target.len() >= MAX_MARKS {
            kept.by_target.retain(|_, at| now.since(*at) <= self.horizon);
        }
        if kept.by_target.len() >= MAX_MARKS {
            kept.by_target.clear();
            kept.everything = Some(now);
        }
        let mark = kept.by_target.entry(revocation.target.clone()).or_insert(now);
        *mark = now.max(*mark);
        self.any.store(true, Ordering::Release);
    }

    /// Whether a mark outranks the whole of what was learnt about `member` by a lookup sent at `sent`.
    pub(super) fn outrank_member(&self, member: &MemberRef, sent: Monotonic) -> bool {
        self.read(|kept| {
            kept.everything.is_some_and(|at| sent <= at)
                || kept.outranks(&RevocationTarget::Member(member.member_id.clone()), sent)
                || kept.outranks(&RevocationTarget::Organization(member.organization_id.clone()), sent)
        })
    }

    pub(super) fn outrank_session(&self, session_id: &SessionId, sent: Monotonic) -> bool {
        self.read(|kept| kept.outranks(&RevocationTarget::Session(session_id.clone()), sent))
    }

    /// The evidence without sessions that ended since its lookup was sent; nothing if a mark outranks all of it.
    pub(super) fn filter(&self, asked: &MemberRef, evidence: Evidence) -> Option<Evidence> {
        if !self.any.load(Ordering::Acquire) {
            return Some(evidence);
        }
        let sent = evidence.fetched_at().monotonic;
        let Evidence::Sessions(list) = evidence else {
            return (!self.outrank_member(asked, sent)).then_some(evidence);
        };
        if self.outrank_member(&list.member, sent) {
            return None;
        }
        let ended = |list: &ActiveSessions| {
            list.sessions.iter().any(|session| self.outrank_session(&session.session_id, sent))
        };
        if !ended(&list) {
            return Some(Evidence::Sessions(list));
        }
        let mut remaining = (*list).clone();
        remaining.sessions.retain(|session| !self.outrank_session(&session.session_id, sent));
        Some(Evidence::Sessions(Arc::new(remaining)))
    }

    fn read(&self, look: impl FnOnce(&Kept) -> bool) -> bool {
        self.any.load(Ordering::Acquire) && look(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn outranks(&self, target: &RevocationTarget, sent: Monotonic) -> bool {
        self.by_target.get(target).is_some_and(|at| sent <= *at)
    }
}
