//! Marks of revocations: each outranks evidence whose lookup was sent before it, however late that evidence lands.
//!
//! Must not forget a mark while evidence it outranks could still be served, nor grow without bound.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::sync::{AtomicBool, AtomicU64, Ordering, PoisonError, RwLock};
use crate::identity::{MemberId, MemberRef, Monotonic, OrganizationId, SessionId};
use crate::session::{ActiveSessions, Evidence, Revocation, RevocationTarget};

/// Marks kept; past this everything fetched so far is outranked at once.
pub(super) const MAX_MARKS: usize = 65_536;
/// Marks newer than a list that are tried one by one before the list is unpacked instead.
const MANY: usize = 8;

/// All marks still worth keeping.
pub(super) struct Marks {
    /// Lets the common case, no mark at all, pass without a lock.
    any: AtomicBool,
    kept: RwLock<Kept>,
    /// In milliseconds; grows, and never shrinks.
    horizon: AtomicU64,
}

/// Marks by what they are of: the same targets, without building one to look it up.
#[derive(Default)]
struct Kept {
    sessions: HashMap<SessionId, Monotonic>,
    members: HashMap<MemberId, Monotonic>,
    organizations: HashMap<OrganizationId, Monotonic>,
    /// All of them in the order of their dates.
    order: VecDeque<(Monotonic, RevocationTarget)>,
    /// Evidence sent at or before this is outranked, whoever it is about.
    everything: Option<Monotonic>,
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl Marks {
    /// `horizon` is the age of the oldest evidence that could still be served.
    pub(super) fn new(horizon: Duration) -> Self {
        Self {
            any: AtomicBool::new(false),
            kept: RwLock::new(Kept::default()),
            horizon: AtomicU64::new(millis(horizon)),
        }
    }

    /// Keeps marks for evidence as old as `horizon` from now on. What was older than the horizon before is not served any
    /// more, so no mark that is gone is missed.
    pub(super) fn keep_for(&self, horizon: Duration) {
        self.horizon.fetch_max(millis(horizon), Ordering::AcqRel);
    }

    pub(super) fn leave(&self, revocation: &Revocation) {
        let at = revocation.at.monotonic;
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let horizon = Duration::from_millis(self.horizon.load(Ordering::Acquire));
        kept.drop_older_than(at.minus(horizon));
        if kept.order.len() >= MAX_MARKS {
            // None of the marks that go may come to less: the newest of them holds for everything.
            let newest = kept.order.back().map(|(at, _)| *at);
            *kept = Kept { everything: kept.everything.max(newest).max(Some(at)), ..Kept::default() };
        }
        kept.leave(&revocation.target, at);
        self.any.store(true, Ordering::Release);
    }

    /// Whether a mark outranks the whole of what was learnt about `member` by a lookup sent at `sent`.
    pub(super) fn outrank_member(&self, member: &MemberRef, sent: Monotonic) -> bool {
        self.read(|kept| kept.over(member).is_some_and(|at| sent <= at)).unwrap_or_default()
    }

    pub(super) fn outrank_session(&self, session_id: &SessionId, sent: Monotonic) -> bool {
        self.read(|kept| kept.ended(session_id, sent)).unwrap_or_default()
    }

    /// Whether a mark outranks any of the evidence, were it sent `margin` earlier: what it says of one session may be
    /// out of date then, and who else that touches is for the directory to say.
    pub(super) fn outrank(&self, asked: &MemberRef, evidence: &Evidence, margin: Duration) -> bool {
        let sent = evidence.fetched_at().monotonic.minus(margin);
        let about = evidence.list().map_or(asked, |list| &list.member);
        let outranked = self.read(|kept| {
            kept.over(about).is_some_and(|at| sent <= at)
                || evidence.list().is_some_and(|list| kept.any_ended(list, sent))
        });
        outranked.unwrap_or_default()
    }

    /// The evidence, unless a mark outranks any of it.
    pub(super) fn filter(&self, asked: &MemberRef, evidence: Evidence) -> Option<Evidence> {
        (!self.outrank(asked, &evidence, Duration::ZERO)).then_some(evidence)
    }

    /// What is left of the evidence without the sessions that ended since its lookup was sent; nothing if a mark
    /// outranks all of it. For when nothing newer can be had.
    pub(super) fn salvage(
        &self,
        asked: &MemberRef,
        evidence: Evidence,
        margin: Duration,
    ) -> Option<Evidence> {
        let sent = evidence.fetched_at().monotonic.minus(margin);
        if self.outrank_member(evidence.list().map_or(asked, |list| &list.member), sent) {
            return None;
        }
        Some(match evidence {
            Evidence::Sessions(list) if list.ids().any(|id| self.outrank_session(&id, sent)) => {
                let remaining = list.without(|session_id| self.outrank_session(session_id, sent));
                Evidence::Sessions(std::sync::Arc::new(remaining))
            }
            other => other,
        })
    }

    /// The newest mark over all that was learnt about `member`.
    pub(super) fn floor(&self, member: &MemberRef) -> Option<Monotonic> {
        self.read(|kept| kept.over(member)).flatten()
    }

    /// The newest mark over all or any of `evidence` about `member`.
    pub(super) fn newest_over(&self, member: &MemberRef, evidence: &Evidence) -> Option<Monotonic> {
        self.read(|kept| {
            let ids = evidence.list().map(|list| list.ids()).into_iter().flatten();
            kept.over(member).max(ids.filter_map(|id| kept.sessions.get(&id).copied()).max())
        })
        .flatten()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).order.len()
    }

    /// Nothing, without a lock, while there are no marks.
    fn read<T>(&self, look: impl FnOnce(&Kept) -> T) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        Some(look(&self.kept.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Kept {
    /// Leaves a mark, unless there is a newer one of the same.
    fn leave(&mut self, target: &RevocationTarget, at: Monotonic) {
        let mark = match target {
            RevocationTarget::Session(id) => self.sessions.entry(id.clone()).or_default(),
            RevocationTarget::Member(id) => self.members.entry(id.clone()).or_default(),
            RevocationTarget::Organization(id) => self.organizations.entry(id.clone()).or_default(),
        };
        let before = std::mem::replace(mark, at.max(*mark));
        if before >= at {
            return;
        }
        let first = self.order.partition_point(|(known, _)| *known < before);
        let old = self.order.range(first..).take_while(|(known, _)| *known == before);
        if let Some(place) = old.map(|(_, known)| known).position(|known| known == target) {
            self.order.remove(first + place);
        }
        // Nearly always at the end: marks come as they are made, save those read out of a log.
        let place = self.order.partition_point(|(known, _)| *known <= at);
        self.order.insert(place, (at, target.clone()));
    }

    fn drop_older_than(&mut self, least: Monotonic) {
        while self.order.front().is_some_and(|(at, _)| *at < least) {
            match self.order.pop_front().map(|(_, target)| target) {
                Some(RevocationTarget::Session(id)) => drop(self.sessions.remove(&id)),
                Some(RevocationTarget::Member(id)) => drop(self.members.remove(&id)),
                Some(RevocationTarget::Organization(id)) => drop(self.organizations.remove(&id)),
                None => {}
            }
        }
    }

    /// The newest mark over all about `member`.
    fn over(&self, member: &MemberRef) -> Option<Monotonic> {
        let by_member = self.members.get(&member.member_id).copied();
        self.everything.max(by_member).max(self.organizations.get(&member.organization_id).copied())
    }

    fn ended(&self, session_id: &SessionId, sent: Monotonic) -> bool {
        self.sessions.get(session_id).is_some_and(|at| sent <= *at)
    }

    /// Marks newer than the list are looked up in it, not the other way round: there are seldom many since a lookup.
    fn any_ended(&self, list: &ActiveSessions, sent: Monotonic) -> bool {
        let since = self.order.iter().rev().take_while(|(at, _)| sent <= *at);
        for (looked_at, (_, target)) in since.enumerate() {
            if looked_at >= MANY {
                return list.ids().any(|id| self.ended(&id, sent));
            }
            if matches!(target, RevocationTarget::Session(id) if list.contains(id)) {
                return true;
            }
        }
        false
    }
}
