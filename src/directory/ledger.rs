//! What is kept of members' lists, and the marks that outrank it: the part of the memory tier where threads meet.
//!
//! Must not read a clock or ask anybody: dates come with the evidence.

use super::marks::Marks;
use super::sync::{AtomicU64, Ordering};
use crate::identity::{MemberRef, Monotonic};
use crate::session::{Evidence, Revocation};

/// Where evidence is kept. Bounds and evictions are its own business.
pub(super) trait Shelf: Send + Sync {
    fn get(&self, member: &MemberRef) -> Option<Evidence>;
    fn put(&self, member: MemberRef, evidence: Evidence);
    fn take_off(&self, member: &MemberRef);
}

/// The shelves and the marks over them.
pub(super) struct Ledger<L, U> {
    lists: L,
    /// Members the directory does not know, apart so that they cannot push out those it does.
    unknown: U,
    pub(super) marks: Marks,
    /// Nanoseconds after the start: what was asked for until then is served no longer than it takes to ask again.
    soft: AtomicU64,
}

impl<L: Shelf, U: Shelf> Ledger<L, U> {
    pub(super) fn new(lists: L, unknown: U, marks: Marks) -> Self {
        Self { lists, unknown, marks, soft: AtomicU64::new(0) }
    }

    pub(super) fn lists(&self) -> &L {
        &self.lists
    }

    /// What is kept about the member, unless a mark outranks it or it is no newer than `newer_than`.
    pub(super) fn remembered(&self, member: &MemberRef, newer_than: Option<Monotonic>) -> Option<Evidence> {
        let evidence = self.lists.get(member).or_else(|| self.unknown.get(member))?;
        let sent = evidence.fetched_at().monotonic;
        if newer_than.is_some_and(|than| sent <= than) {
            return None;
        }
        self.marks.filter(member, evidence)
    }

    /// As [`remembered`](Self::remembered), with what can still be used of it where nothing newer can be had.
    pub(super) fn salvaged(&self, member: &MemberRef, newer_than: Option<Monotonic>) -> Option<Evidence> {
        let evidence = self.lists.get(member)?;
        let sent = evidence.fetched_at().monotonic;
        if newer_than.is_some_and(|than| sent <= than) {
            return None;
        }
        self.marks.salvage(member, evidence)
    }

    /// Keeps `evidence`, unless a mark outranks any of it. True if it was kept.
    ///
    /// A mark left between the look and the keeping is met by [`remembered`](Self::remembered), which looks again.
    pub(super) fn keep(&self, member: &MemberRef, evidence: &Evidence) -> bool {
        if self.marks.filter(member, evidence.clone()).is_none() {
            return false;
        }
        match evidence {
            Evidence::NoSuchMember(_) => {
                self.lists.take_off(member);
                self.unknown.put(member.clone(), evidence.clone());
            }
            Evidence::Sessions(_) => {
                self.unknown.take_off(member);
                self.lists.put(member.clone(), evidence.clone());
            }
            // A token's own word is no list.
            Evidence::Vouched(_) => {}
        }
        true
    }

    pub(super) fn forget(&self, revocation: &Revocation) {
        self.marks.leave(revocation);
    }

    /// Makes everything asked for up to `now` soft-stale: served once more while it is asked for again.
    pub(super) fn soften(&self, now: Monotonic) {
        let at = u64::try_from(now.since(Monotonic::default()).as_nanos()).unwrap_or(u64::MAX);
        self.soft.fetch_max(at, Ordering::AcqRel);
    }

    pub(super) fn is_soft(&self, evidence: &Evidence) -> bool {
        let sent = evidence.fetched_at().monotonic.since(Monotonic::default());
        sent.as_nanos() <= u128::from(self.soft.load(Ordering::Acquire))
            && self.soft.load(Ordering::Acquire) > 0
    }
}
