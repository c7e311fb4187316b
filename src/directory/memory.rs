//! The tier in memory: ages of section 4.3, one lookup however many ask, and marks that outrank what is older.
//!
//! Must not serve evidence past its bound, nor let moka decide an age: both ages are read off the value.

mod bounds;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;

use self::bounds::Bounds;
use super::flight::{Flight, Flights};
use super::ledger::Ledger;
use super::lookups::Lookups;
use super::marks::Marks;
use super::owners::Owners;
use super::shelf::{Lists, Unknown, bounded};
use super::{
    Answer, Attempts, Clock, DirectoryError, MemorySettings, SessionDirectory, SessionQuery, Spelling,
    TokenOwner, TokenQuery,
};
use crate::identity::{MemberRef, Monotonic, OrganizationId};
use crate::policy::Freshness;
use crate::session::{ActiveSessions, Evidence, Revocation};
use crate::telemetry::Metrics;

/// The least time between two lookups of one member made only because older evidence would refuse.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// Lookups one question may wait for: another's that turned out too old, and its own after a revocation.
const MAX_LANDINGS: usize = 3;
/// How long a failed lookup answers for its member: many who ask at once must not each ask again.
const FAILED_FOR: Duration = Duration::from_millis(250);
/// Clock difference forgiven between us and whoever dates credentials (section 4.3).
const SKEW: Duration = Duration::from_secs(2);

/// The memory tier. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    next: Arc<dyn SessionDirectory>,
    clock: Arc<dyn Clock>,
    settings: MemorySettings,
    ledger: Arc<LedgerOnMoka>,
    /// As written to canonical.
    aliases: Cache<MemberRef, MemberRef>,
    /// When a lookup about a member last failed, and how; one that did not left its date with the evidence.
    failed: Cache<MemberRef, (Monotonic, DirectoryError)>,
    owners: Arc<Owners>,
    flights: Flights<MemberRef, Evidence>,
    refreshes: Arc<Semaphore>,
    lookups: Lookups,
    /// Sets this replica's moments of refreshing apart from others'.
    jitter: u64,
    /// Those that are in force: they change with the configuration.
    bounds: Mutex<Bounds>,
}

/// The ledger as it is kept here, and a share of it for its marks' sake.
type LedgerOnMoka = Ledger<Lists, Unknown>;

struct SharedMarks(Arc<LedgerOnMoka>);

impl AsRef<Marks> for SharedMarks {
    fn as_ref(&self) -> &Marks {
        &self.0.marks
    }
}

impl Memory {
    pub fn new(
        next: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        settings: MemorySettings,
        attempts: Arc<Attempts>,
        metrics: &Metrics,
    ) -> Self {
        let few = (settings.max_entries / 10).max(1_000);
        let bounds = Bounds::of(&settings);
        let list_life = bounds.list_life(&settings);
        let marks_life = bounds.marks_life(&settings);
        let marks = Marks::new(marks_life);
        let lists = Lists::new(settings.max_entries, settings.max_bytes, list_life);
        let ledger = Ledger::new(lists, Unknown(bounded(few, list_life)), marks);
        Self(Arc::new(Inner {
            ledger: Arc::new(ledger),
            aliases: bounded(few, list_life),
            failed: bounded(few, CONFIRM_EVERY * 2),
            owners: Arc::new(Owners::new(&settings, attempts, few)),
            flights: Flights::new(),
            refreshes: Arc::new(Semaphore::new(settings.max_refreshes)),
            lookups: Lookups::new(metrics),
            jitter: fastrand::u64(..),
            bounds: Mutex::new(bounds),
            next,
            clock,
            settings,
        }))
    }

    /// Lookups under way.
    pub fn in_flight(&self) -> usize {
        self.0.flights.len()
    }

    /// Makes everything known so far soft-stale: it is served once more while it is asked for again, within the
    /// bounds of the guard. For when something may have been missed, and nobody knows about whom.
    pub fn soften(&self) {
        self.0.ledger.soften(self.0.clock.now().monotonic);
    }

    /// As [`soften`](Self::soften), for one organization.
    pub fn soften_organization(&self, organization_id: &OrganizationId) {
        self.0.ledger.soften_organization(organization_id, self.0.clock.now().monotonic);
    }
}

impl SessionDirectory for Memory {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let inner = &self.0;
        if let Some(evidence) = inner.remembered(query) {
            let is_list = matches!(evidence, Evidence::Sessions(_));
            if inner.is_fresh(&evidence, query) {
                if is_list { &inner.lookups.hit } else { &inner.lookups.negative }.inc();
                if is_list && inner.is_nearly_stale(&evidence, query) {
                    inner.refresh(query, &evidence);
                }
                return Answer::Ready(Ok(evidence));
            }
            if is_list && !query.settled && evidence.age(query.now.monotonic) <= query.freshness.max_staleness
            {
                inner.lookups.stale.inc();
                inner.refresh(query, &evidence);
                return Answer::Ready(Ok(evidence));
            }
        }
        let inner = Arc::clone(inner);
        let query = query.clone();
        Answer::pending(async move { inner.ask(query).await })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        let inner = &self.0;
        if let Some(owner) = inner.owners.remembered(query, &inner.ledger.marks) {
            return Answer::Ready(Ok(owner));
        }
        // Nothing is asked until somebody waits for the answer.
        let inner = Arc::clone(inner);
        let query = query.clone();
        Answer::pending(async move {
            let marks = SharedMarks(Arc::clone(&inner.ledger));
            Owners::ask(&inner.owners, &query, marks, &inner.next, &inner.clock).wait().await
        })
    }

    fn generation(&self) -> u64 {
        self.0.ledger.generation()
    }

    fn still_answers(
        &self,
        list: &ActiveSessions,
        generation: u64,
        freshness: Freshness,
        now: Monotonic,
    ) -> bool {
        let inner = &self.0;
        let bound = freshness.fresh_for.min(freshness.max_staleness);
        // Later it may be time to refresh ahead, which a question sees to.
        let is_young = now.since(list.fetched_at.monotonic).saturating_mul(4) <= bound.saturating_mul(3);
        let answers = is_young && generation == inner.ledger.generation() && !list.is_superseded();
        if answers {
            inner.lookups.hit.inc();
        }
        answers
    }

    fn is_soft(&self, evidence: &Evidence) -> bool {
        self.0.ledger.is_soft(evidence)
    }

    fn forget(&self, revocation: &Revocation) {
        // The mark first: a lookup that lands between the two is outranked by it.
        self.0.ledger.forget(revocation);
        self.0.next.forget(revocation);
    }
}

impl Inner {
    /// What is kept about the member, unless a mark outranks it or the question wants something newer.
    fn remembered(&self, query: &SessionQuery) -> Option<Evidence> {
        self.ledger.remembered(&self.canonical(query), query.newer_than)
    }

    fn canonical(&self, query: &SessionQuery) -> MemberRef {
        match query.spelling {
            Spelling::Canonical => query.member.clone(),
            Spelling::AsWritten => self.aliases.get(&query.member).unwrap_or_else(|| query.member.clone()),
        }
    }

    /// Waits for a lookup that is new enough; while the directory fails, falls back as far as the route allows.
    async fn ask(self: Arc<Self>, query: SessionQuery) -> Result<Evidence, DirectoryError> {
        let bound = query.freshness.max_staleness;
        let member = self.canonical(&query);
        if let Some((at, error)) = self.failed.get(&member)
            && query.now.monotonic.since(at) < FAILED_FOR
        {
            return self.fall_back(&query, error).await;
        }
        if query.newer_than.is_some() {
            // Here and not in the lookup: those who need not wait for their turn may join it at once.
            let known = self.ledger.newest(&member);
            let since = self.since_asked(&member, known, self.clock.now().monotonic);
            let wait = CONFIRM_EVERY.saturating_sub(since);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        for _ in 0..MAX_LANDINGS {
            let (flight, joined) = self.start(&member, &query);
            if joined { &self.lookups.coalesced } else { &self.lookups.miss }.inc();
            let evidence = match flight.await {
                Ok(evidence) => evidence,
                Err(error) => return self.fall_back(&query, error).await,
            };
            let sent = evidence.fetched_at().monotonic;
            let new_enough = query.newer_than.is_none_or(|than| sent > than)
                && !(query.settled && self.ledger.is_soft(&evidence));
            let evidence = self.ledger.marks.filter(&query.member, evidence).filter(|_| new_enough);
            let Some(evidence) = evidence else {
                continue;
            };
            if evidence.age(self.clock.now().monotonic) <= bound {
                return Ok(evidence);
            }
            if sent >= query.now.monotonic {
                // Our own lookup took longer than the route lets evidence age.
                return Err(DirectoryError::Timeout);
            }
        }
        Err(DirectoryError::Busy)
    }

    async fn fall_back(
        &self,
        query: &SessionQuery,
        error: DirectoryError,
    ) -> Result<Evidence, DirectoryError> {
        let bound = query.freshness.max_staleness.saturating_add(query.freshness.stale_if_error);
        if error.is_outage() {
            let mut known = self.ledger.salvaged(&self.canonical(query), query.newer_than);
            if (known.is_none() || query.vouched.is_some()) && !bound.is_zero() {
                known = self.left_by_others(query).await.or(known);
            }
            let now = self.clock.now().monotonic;
            if let Some(vouched) = self.vouched(query, known.as_ref(), bound, now) {
                self.lookups.jwt_evidence.inc();
                return Ok(vouched);
            }
            if let Some(evidence) = known
                && evidence.age(now) <= bound
            {
                self.lookups.stale_error.inc();
                return Ok(evidence);
            }
        }
        self.lookups.error.inc();
        Err(error)
    }

    /// Reads the member's list from the shared tier if it is newer than the one here. During an outage a list that was marked
    /// stale may still be used; one that a revocation outranks may not.
    async fn left_by_others(&self, query: &SessionQuery) -> Option<Evidence> {
        let newer_than = query.newer_than.max(self.ledger.newest(&query.member));
        let newer_than = newer_than.max(self.ledger.marks.floor(&query.member));
        let wanted = SessionQuery { newer_than, now: self.clock.now(), ..query.clone() };
        let left = self.next.last_known(&wanted).wait().await.ok()??;
        self.ledger.keep(&query.member, &left, SKEW);
        self.ledger.marks.salvage(&query.member, left, SKEW)
    }

    /// What the caller's own token says, if nothing known is dated after it was made (section 4.8).
    fn vouched(
        &self,
        query: &SessionQuery,
        known: Option<&Evidence>,
        bound: Duration,
        now: Monotonic,
    ) -> Option<Evidence> {
        let vouched = query.vouched.as_ref().filter(|vouched| vouched.member == query.member)?;
        let made = vouched.fetched_at.monotonic;
        let least = made.minus(SKEW);
        let marks = &self.ledger.marks;
        let ended = marks.outrank_member(&vouched.member, least)
            || vouched.ids().any(|session_id| marks.outrank_session(&session_id, least));
        let known = known.map(|known| known.fetched_at().monotonic);
        let listed = self.ledger.newest(&query.member).max(known);
        let listed_since = listed.is_some_and(|listed| listed >= least);
        (!ended && !listed_since && now.since(made) <= bound).then(|| Evidence::Vouched(Arc::clone(vouched)))
    }

    /// Starts a lookup nobody waits for, unless one was tried a moment ago, or enough are under way: those somebody
    /// waits for come first.
    fn refresh(self: &Arc<Self>, query: &SessionQuery, known: &Evidence) {
        let member = self.canonical(query);
        let sent = known.fetched_at().monotonic;
        if self.since_asked(&member, Some(sent), query.now.monotonic) < CONFIRM_EVERY {
            return;
        }
        let Ok(place) = Arc::clone(&self.refreshes).try_acquire_owned() else { return };
        let wanted = SessionQuery { newer_than: query.newer_than.max(Some(sent)), ..query.clone() };
        let (flight, joined) = self.start(&member, &wanted);
        if !joined {
            tokio::spawn(async move {
                let _place = place;
                drop(flight.await);
            });
        }
    }

    /// How long ago the directory was asked about the member, whatever came of it.
    fn since_asked(&self, member: &MemberRef, known: Option<Monotonic>, now: Monotonic) -> Duration {
        let failed = self.failed.get(member).map(|(at, _)| at);
        failed.max(known).map_or(Duration::MAX, |at| now.since(at))
    }

    /// Joins the member's lookup, or starts it: in a task of its own, so that it outlives whoever asked.
    fn start(self: &Arc<Self>, member: &MemberRef, query: &SessionQuery) -> (Flight<Evidence>, bool) {
        let inner = Arc::clone(self);
        let query = query.clone();
        let lookup = || async move { inner.fetch(query).await };
        self.flights.join(member, lookup, |lookup| drop(tokio::spawn(lookup)))
    }

    /// Asks the next tier, again if a revocation arrived while the lookup was under way, and keeps the answer.
    async fn fetch(self: Arc<Self>, mut query: SessionQuery) -> Result<Evidence, DirectoryError> {
        // A lookup may have landed between looking here and taking off.
        if let Some(evidence) = self.remembered(&query).filter(|evidence| self.is_fresh(evidence, &query)) {
            return Ok(evidence);
        }
        for _ in 0..MAX_LANDINGS {
            query.now = self.clock.now();
            // A tier below must not answer with what a mark outranks here, what is older than what is known, or what
            // is from before something changed.
            query.newer_than = query.newer_than.max(self.ledger.floor(&query.member));
            let evidence = match self.next.active_sessions(&query).wait().await {
                Ok(evidence) => evidence,
                Err(error) => {
                    let at = self.clock.now().monotonic;
                    self.failed.insert(self.canonical(&query), (at, error.clone()));
                    return Err(error);
                }
            };
            let member = match &evidence {
                Evidence::Sessions(list) | Evidence::Vouched(list) => list.member.clone(),
                Evidence::NoSuchMember(_) => query.member.clone(),
            };
            // What was not asked for just now was dated by another replica's clock (`Shared` sees to that).
            let from_others = evidence.fetched_at().monotonic < query.now.monotonic;
            let margin = if from_others { SKEW } else { Duration::ZERO };
            if !self.ledger.keep(&member, &evidence, margin) {
                query.newer_than = query.newer_than.max(self.ledger.marks.newest_over(&member, &evidence));
                continue;
            }
            if query.member != member {
                self.aliases.insert(query.member.clone(), member);
            }
            return Ok(evidence);
        }
        Err(DirectoryError::Busy)
    }

    /// Whether the evidence is young enough to be served without asking.
    fn is_fresh(&self, evidence: &Evidence, query: &SessionQuery) -> bool {
        let bound = match evidence {
            Evidence::Sessions(_) | Evidence::Vouched(_) => {
                query.freshness.fresh_for.min(query.freshness.max_staleness)
            }
            Evidence::NoSuchMember(_) => self.settings.negative_for,
        };
        evidence.age(query.now.monotonic) <= bound && !self.ledger.is_soft(evidence)
    }

    /// Whether fresh evidence will not be for long: somewhere in the last quarter of its time, elsewhere for every
    /// record and replica, so that they are not refreshed in step.
    fn is_nearly_stale(&self, evidence: &Evidence, query: &SessionQuery) -> bool {
        let bound = query.freshness.fresh_for.min(query.freshness.max_staleness);
        let sent = evidence.fetched_at().monotonic.since(Monotonic::default());
        let mixed = (sent.as_nanos() as u64 ^ self.jitter).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let share = 0.75 + 0.2 * f64::from((mixed >> 32) as u32) / f64::from(u32::MAX);
        evidence.age(query.now.monotonic) > bound.mul_f64(share)
    }
}

#[cfg(test)]
mod tests;
