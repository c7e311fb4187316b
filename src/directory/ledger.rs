//! What is kept of members' lists, and the marks that outrank it: the part of the memory tier where threads meet.
//!
//! Must not read a clock or ask anybody: dates come with the evidence.

use std::collections::HashMap;
use std::time::Duration;

use super::marks::Marks;
use super::sync::{AtomicBool, AtomicU64, Ordering, PoisonError, RwLock};
use crate::identity::{MemberRef, Monotonic, OrganizationId};
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
    /// Grows with everything that makes what is known worth less at once.
    generation: AtomicU64,
    /// Nanoseconds on the monotonic clock: what was asked for until then is served no longer than it takes to ask again.
    soft: AtomicU64,
    /// The same of single organizations.
    soft_organizations: RwLock<HashMap<OrganizationId, Monotonic>>,
    any_soft_organization: AtomicBool,
}

/// Organizations that are soft on their own; past this everything is.
const MAX_SOFT: usize = 10_000;

impl<L: Shelf, U: Shelf> Ledger<L, U> {
    pub(super) fn new(lists: L, unknown: U, marks: Marks) -> Self {
        Self {
            lists,
            unknown,
            marks,
            generation: AtomicU64::new(0),
            soft: AtomicU64::new(0),
            soft_organizations: RwLock::new(HashMap::new()),
            any_soft_organization: AtomicBool::new(false),
        }
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
        self.marks.salvage(member, evidence, Duration::ZERO)
    }

    /// Keeps `evidence`, unless a mark outranks any of it. True if it was kept. `margin` is what the clock that dated
    /// it may be ahead of the one that dates marks.
    ///
    /// A mark left between the look and the keeping is met by [`remembered`](Self::remembered), which looks again.
    pub(super) fn keep(&self, member: &MemberRef, evidence: &Evidence, margin: Duration) -> bool {
        if self.marks.outrank(member, evidence, margin) {
            return false;
        }
        // What was learnt since stays: a tier below may come back with something older.
        let sent = evidence.fetched_at().monotonic;
        if self.newest(member).is_some_and(|known| known > sent) {
            return true;
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

    /// When the newest that is kept about the member was asked for, outranked or not.
    pub(super) fn newest(&self, member: &MemberRef) -> Option<Monotonic> {
        let date = |evidence: Evidence| evidence.fetched_at().monotonic;
        self.lists.get(member).map(date).max(self.unknown.get(member).map(date))
    }

    pub(super) fn forget(&self, revocation: &Revocation) {
        self.marks.leave(revocation);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Read before a look: what was found then stands for as long as this is the same.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes everything asked for up to `now` soft-stale: served once more while it is asked for again.
    pub(super) fn soften(&self, now: Monotonic) {
        let at = u64::try_from(now.since(Monotonic::default()).as_nanos()).unwrap_or(u64::MAX);
        self.soft.fetch_max(at, Ordering::AcqRel);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`soften`](Self::soften), for one organization.
    pub(super) fn soften_organization(&self, organization_id: &OrganizationId, now: Monotonic) {
        let mut soft = self.soft_organizations.write().unwrap_or_else(PoisonError::into_inner);
        if soft.len() >= MAX_SOFT {
            soft.clear();
            self.soften(now);
        }
        soft.insert(organization_id.clone(), now);
        self.any_soft_organization.store(true, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What a lookup must be newer than: the newest that is kept about the member, the marks over them, and whatever
    /// made them soft.
    pub(super) fn floor(&self, member: &MemberRef) -> Option<Monotonic> {
        let known = self.marks.floor(member).max(self.newest(member));
        known.max(self.soft_at(&member.organization_id))
    }

    pub(super) fn is_soft(&self, evidence: &Evidence) -> bool {
        let sent = evidence.fetched_at().monotonic;
        let of = evidence.list().map(|list| &list.member.organization_id);
        let at = of.map_or_else(|| self.all_soft_at(), |organization_id| self.soft_at(organization_id));
        at.is_some_and(|at| sent <= at)
    }

    fn soft_at(&self, organization_id: &OrganizationId) -> Option<Monotonic> {
        let all = self.all_soft_at();
        if !self.any_soft_organization.load(Ordering::Acquire) {
            return all;
        }
        let organizations = self.soft_organizations.read().unwrap_or_else(PoisonError::into_inner);
        all.max(organizations.get(organization_id).copied())
    }

    fn all_soft_at(&self) -> Option<Monotonic> {
        let soft = self.soft.load(Ordering::Acquire);
        (soft > 0).then(|| Monotonic::at(Duration::from_nanos(soft)))
    }
}
