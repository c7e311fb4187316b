//! Marks of revocations: each outranks evidence whose lookup was sent before it, however late that evidence lands.
//!
//! Must not forget a mark while evidence it outranks could still be served, nor grow without bound.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::sync::{AtomicBool, Ordering, PoisonError, RwLock};
use crate::identity::{MemberRef, Monotonic, SessionId};
use crate::session::{ActiveSessions, Evidence, Revocation, RevocationTarget};

/// Marks kept; past this everything fetched so far is outranked at once.
const MAX_MARKS: usize = 65_536;
/// Session marks newer than a list that are tried one by one before the list is unpacked instead.
const MANY: usize = 8;

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
    /// The session marks in the order of their dates.
    sessions: VecDeque<(Monotonic, SessionId)>,
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
        if kept.len() >= MAX_MARKS {
            kept.by_target.retain(|_, at| now.since(*at) <= self.horizon);
            kept.sessions.retain(|(at, _)| now.since(*at) <= self.horizon);
        }
        if kept.len() >= MAX_MARKS {
            // None of the marks that go may come to less: the newest of them holds for everything.
            let newest = kept.by_target.values().max().copied();
            kept.everything = kept.everything.max(newest).max(Some(now));
            kept.by_target.clear();
            kept.sessions.clear();
        }
        if let Some(before) = kept.by_target.get(&revocation.target).copied() {
            if before >= now {
                return;
            }
            if let RevocationTarget::Session(session_id) = &revocation.target {
                let first = kept.sessions.partition_point(|(at, _)| *at < before);
                let place = kept.sessions.iter().skip(first).position(|(_, id)| id == session_id);
                place.map(|place| kept.sessions.remove(first + place));
            }
        }
        if let RevocationTarget::Session(session_id) = &revocation.target {
            // Nearly always at the end: marks come as they are made, save those read out of a log.
            let place = kept.sessions.partition_point(|(at, _)| *at <= now);
            kept.sessions.insert(place, (now, session_id.clone()));
        }
        kept.by_target.insert(revocation.target.clone(), now);
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

    /// The evidence, unless a mark outranks any of it: what it says of one session may be out of date then, and who
    /// else that touches is for the directory to say.
    pub(super) fn filter(&self, asked: &MemberRef, evidence: Evidence) -> Option<Evidence> {
        if !self.any.load(Ordering::Acquire) {
            return Some(evidence);
        }
        let sent = evidence.fetched_at().monotonic;
        let about = evidence.list().map_or(asked, |list| &list.member);
        let outranked = self.outrank_member(about, sent)
            || evidence.list().is_some_and(|list| self.any_session_ended(list, sent));
        (!outranked).then_some(evidence)
    }

    /// What is left of the evidence without the sessions that ended since its lookup was sent; nothing if a mark
    /// outranks all of it. For when nothing newer can be had.
    pub(super) fn salvage(&self, asked: &MemberRef, evidence: Evidence) -> Option<Evidence> {
        let sent = evidence.fetched_at().monotonic;
        if self.outrank_member(evidence.list().map_or(asked, |list| &list.member), sent) {
            return None;
        }
        Some(match evidence {
            Evidence::Sessions(list) if self.any_session_ended(&list, sent) => {
                let remaining = list.without(|session_id| self.outrank_session(session_id, sent));
                Evidence::Sessions(std::sync::Arc::new(remaining))
            }
            other => other,
        })
    }

    /// Session marks are looked up in the list, not the other way round: there are seldom many since a lookup.
    fn any_session_ended(&self, list: &ActiveSessions, sent: Monotonic) -> bool {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let since = kept.sessions.iter().rev().take_while(|(at, _)| sent <= *at);
        for (looked_at, (_, session_id)) in since.enumerate() {
            if looked_at >= MANY {
                return list.ids().any(|id| kept.outranks(&RevocationTarget::Session(id), sent));
            }
            if list.contains(session_id) {
                return true;
            }
        }
        false
    }

    /// The newest mark over all that was learnt about `member`.
    pub(super) fn floor(&self, member: &MemberRef) -> Option<Monotonic> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let of = |target: &RevocationTarget| kept.by_target.get(target).copied();
        let member_id = of(&RevocationTarget::Member(member.member_id.clone()));
        let organization = of(&RevocationTarget::Organization(member.organization_id.clone()));
        kept.everything.max(member_id).max(organization)
    }

    /// The newest mark over all or any of `evidence` about `member`.
    pub(super) fn newest_over(&self, member: &MemberRef, evidence: &Evidence) -> Option<Monotonic> {
        let floor = self.floor(member);
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let ids = evidence.list().map(|list| list.ids()).into_iter().flatten();
        floor.max(ids.filter_map(|id| kept.by_target.get(&RevocationTarget::Session(id)).copied()).max())
    }

    fn read(&self, look: impl FnOnce(&Kept) -> bool) -> bool {
        self.any.load(Ordering::Acquire) && look(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn len(&self) -> usize {
        self.by_target.len().max(self.sessions.len())
    }

    fn outranks(&self, target: &RevocationTarget, sent: Monotonic) -> bool {
        self.by_target.get(target).is_some_and(|at| sent <= *at)
    }
}
