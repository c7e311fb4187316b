//! The tier in memory: ages of section 4.3, one lookup however many ask, and marks that outrank what is older.
//!
//! Must not serve evidence past its bound, nor let moka decide an age: both ages are read off the value.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use prometheus::IntCounterVec;

use super::flight::Flights;
use super::marks::Marks;
use super::{
    Answer, Clock, DirectoryError, MemorySettings, SessionDirectory, SessionQuery, TokenOwner, TokenQuery,
};
use crate::identity::{CredentialDigest, MemberRef, Monotonic};
use crate::session::{Evidence, Revocation};
use crate::telemetry::Metrics;

/// The least time between two lookups of one member made only because older evidence would refuse.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// Lookups one question may wait for: another's that turned out too old, and its own after a revocation.
const MAX_LANDINGS: usize = 3;

/// The memory tier. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    next: Arc<dyn SessionDirectory>,
    clock: Arc<dyn Clock>,
    settings: MemorySettings,
    lists: Cache<MemberRef, Evidence>,
    /// Members the directory does not know, apart so that they cannot push out those it does.
    unknown: Cache<MemberRef, Evidence>,
    /// As written to canonical.
    aliases: Cache<MemberRef, MemberRef>,
    /// When a member was last asked about, whatever came of it.
    asked: Cache<MemberRef, Monotonic>,
    owners: Cache<CredentialDigest, TokenOwner>,
    nobodies: Cache<CredentialDigest, TokenOwner>,
    marks: Marks,
    list_flights: Flights<MemberRef, Evidence>,
    token_flights: Flights<CredentialDigest, TokenOwner>,
    lookups: IntCounterVec,
}

impl Memory {
    pub fn new(
        next: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        settings: MemorySettings,
        metrics: &Metrics,
    ) -> Self {
        let few = (settings.max_entries / 10).max(1_000);
        let list_life = settings.horizon.max(settings.negative_for) + Duration::from_secs(60);
        let binding_life = settings.token_binding_for + Duration::from_secs(1);
        Self(Arc::new(Inner {
            lists: bounded(settings.max_entries, list_life),
            unknown: bounded(few, list_life),
            aliases: bounded(few, list_life),
            asked: bounded(settings.max_entries, CONFIRM_EVERY * 2),
            owners: bounded(settings.max_entries, binding_life),
            nobodies: bounded(few, settings.negative_for + Duration::from_secs(1)),
            marks: Marks::new(settings.horizon.max(settings.token_binding_for) + Duration::from_secs(60)),
            list_flights: Flights::new(),
            token_flights: Flights::new(),
            lookups: metrics.session_lookups.clone(),
            next,
            clock,
            settings,
        }))
    }

    /// Members whose list is cached.
    pub fn entries(&self) -> u64 {
        self.0.lists.run_pending_tasks();
        self.0.lists.entry_count()
    }

    /// Lookups under way.
    pub fn in_flight(&self) -> usize {
        self.0.list_flights.len()
    }
}

impl SessionDirectory for Memory {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let inner = &self.0;
        if let Some(evidence) = inner.remembered(query) {
            let is_list = matches!(evidence, Evidence::Sessions(_));
            if inner.is_fresh(&evidence, query) {
                inner.count(if is_list { "hit" } else { "negative" });
                return Answer::Ready(Ok(evidence));
            }
            if is_list && evidence.age(query.now.monotonic) <= query.freshness.max_staleness {
                inner.count("stale");
                inner.refresh(query);
                return Answer::Ready(Ok(evidence));
            }
        }
        let (inner, query) = (Arc::clone(inner), query.clone());
        Answer::pending(async move { inner.ask(query).await })
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        if let Some(owner) = self.0.remembered_owner(query) {
            return Answer::Ready(Ok(owner));
        }
        let (inner, query) = (Arc::clone(&self.0), query.clone());
        Answer::pending(async move {
            let fetch = Arc::clone(&inner);
            let (flight, _) = inner.token_flights.join(&query.digest.clone(), || fetch.fetch_owner(query));
            flight.land().await
        })
    }

    fn forget(&self, revocation: &Revocation) {
        // The mark first: a lookup that lands between the two is outranked by it.
        self.0.marks.leave(revocation);
        self.0.next.forget(revocation);
    }
}

impl Inner {
    /// What is kept about the member, unless a mark outranks it or the question wants something newer.
    fn remembered(&self, query: &SessionQuery) -> Option<Evidence> {
        let member = self.canonical(query);
        let evidence = self.lists.get(&member).or_else(|| self.unknown.get(&member))?;
        let sent = evidence.fetched_at().monotonic;
        if query.newer_than.is_some_and(|than| sent <= than) {
            return None;
        }
        self.marks.filter(&member, evidence)
    }

    fn canonical(&self, query: &SessionQuery) -> MemberRef {
        match query.spelling {
            super::Spelling::Canonical => query.member.clone(),
            super::Spelling::AsWritten => {
                self.aliases.get(&query.member).unwrap_or_else(|| query.member.clone())
            }
        }
    }

    /// Waits for a lookup that is new enough; while the directory fails, falls back as far as the route allows.
    async fn ask(self: Arc<Self>, query: SessionQuery) -> Result<Evidence, DirectoryError> {
        let bound = query.freshness.max_staleness;
        for _ in 0..MAX_LANDINGS {
            let (flight, joined) = self.join(&query);
            self.count(if joined { "coalesced" } else { "miss" });
            let evidence = match flight.land().await {
                Ok(evidence) => evidence,
                Err(error) => return self.fall_back(&query, error),
            };
            let sent = evidence.fetched_at().monotonic;
            let new_enough = query.newer_than.is_none_or(|than| sent > than);
            let Some(evidence) = self.marks.filter(&query.member, evidence).filter(|_| new_enough) else {
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

    fn fall_back(&self, query: &SessionQuery, error: DirectoryError) -> Result<Evidence, DirectoryError> {
        let bound = query.freshness.max_staleness.saturating_add(query.freshness.stale_if_error);
        let now = self.clock.now().monotonic;
        // Our own crowd is no failure of the directory's.
        let failing = error != DirectoryError::Busy;
        match self.remembered(query) {
            Some(Evidence::Sessions(list)) if failing && list.age(now) <= bound => {
                self.count("stale_error");
                Ok(Evidence::Sessions(list))
            }
            _ => {
                self.count("error");
                Err(error)
            }
        }
    }

    /// Starts a lookup nobody waits for, unless one was tried a moment ago: while the directory fails, every request
    /// would start another.
    fn refresh(self: &Arc<Self>, query: &SessionQuery) {
        let tried = self.asked.get(&self.canonical(query));
        if tried.is_none_or(|at| query.now.monotonic.since(at) >= CONFIRM_EVERY) {
            self.join(query);
        }
    }

    /// Joins the member's lookup, or starts it: in a task of its own, so that it outlives whoever asked.
    fn join(self: &Arc<Self>, query: &SessionQuery) -> (super::flight::Flight<Evidence>, bool) {
        let member = self.canonical(query);
        let inner = Arc::clone(self);
        let query = query.clone();
        self.list_flights.join(&member, || async move {
            if query.newer_than.is_some() {
                let now = inner.clock.now().monotonic;
                let since =
                    inner.asked.get(&inner.canonical(&query)).map_or(CONFIRM_EVERY, |at| now.since(at));
                tokio::time::sleep(CONFIRM_EVERY.saturating_sub(since)).await;
            }
            inner.fetch(query).await
        })
    }

    /// Asks the next tier, again if a revocation arrived while the lookup was under way, and keeps the answer.
    async fn fetch(self: Arc<Self>, mut query: SessionQuery) -> Result<Evidence, DirectoryError> {
        // A lookup may have landed between looking here and taking off.
        if let Some(evidence) = self.remembered(&query).filter(|evidence| self.is_fresh(evidence, &query)) {
            return Ok(evidence);
        }
        for _ in 0..MAX_LANDINGS {
            query.now = self.clock.now();
            self.asked.insert(self.canonical(&query), query.now.monotonic);
            let evidence = self.next.active_sessions(&query).wait().await?;
            let member = match &evidence {
                Evidence::Sessions(list) => list.member.clone(),
                Evidence::NoSuchMember(_) => query.member.clone(),
            };
            if self.marks.outrank_member(&member, evidence.fetched_at().monotonic) {
                continue;
            }
            self.keep(&query.member, member, &evidence);
            return Ok(evidence);
        }
        Err(DirectoryError::Busy)
    }

    /// Whether the evidence is young enough to be served without asking.
    fn is_fresh(&self, evidence: &Evidence, query: &SessionQuery) -> bool {
        let bound = match evidence {
            Evidence::Sessions(_) => query.freshness.fresh_for.min(query.freshness.max_staleness),
            Evidence::NoSuchMember(_) => self.settings.negative_for,
        };
        evidence.age(query.now.monotonic) <= bound
    }

    fn keep(&self, asked: &MemberRef, member: MemberRef, evidence: &Evidence) {
        if *asked != member {
            self.aliases.insert(asked.clone(), member.clone());
        }
        match evidence {
            Evidence::Sessions(_) => {
                self.unknown.invalidate(&member);
                self.lists.insert(member, evidence.clone());
            }
            Evidence::NoSuchMember(_) => {
                self.lists.invalidate(&member);
                self.unknown.insert(member, evidence.clone());
            }
        }
    }

    fn remembered_owner(&self, query: &TokenQuery) -> Option<TokenOwner> {
        let now = query.now;
        match self.owners.get(&query.digest).or_else(|| self.nobodies.get(&query.digest))? {
            TokenOwner::Session(binding) => {
                let sent = binding.resolved_at.monotonic;
                let valid = binding.expires_at > now.wall
                    && now.monotonic.since(sent) <= self.settings.token_binding_for
                    && !self.marks.outrank_session(&binding.session_id, sent)
                    && !self.marks.outrank_member(&binding.member, sent);
                valid.then_some(TokenOwner::Session(binding))
            }
            TokenOwner::Nobody { asked_at } => {
                let age = now.monotonic.since(asked_at.monotonic);
                (age <= self.settings.negative_for).then_some(TokenOwner::Nobody { asked_at })
            }
        }
    }

    async fn fetch_owner(self: Arc<Self>, query: TokenQuery) -> Result<TokenOwner, DirectoryError> {
        if let Some(owner) = self.remembered_owner(&query) {
            return Ok(owner);
        }
        let owner = self.next.resolve(&query).wait().await?;
        match &owner {
            TokenOwner::Session(_) => {
                self.nobodies.invalidate(&query.digest);
                self.owners.insert(query.digest, owner.clone());
            }
            TokenOwner::Nobody { .. } => {
                self.owners.invalidate(&query.digest);
                self.nobodies.insert(query.digest, owner.clone());
            }
        }
        Ok(owner)
    }

    fn count(&self, result: &str) {
        self.lookups.with_label_values(&["memory", result]).inc();
    }
}

/// A bounded cache. Its time to live only frees memory; ages are read off the values.
fn bounded<K, V>(capacity: u64, life: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(capacity).time_to_live(life).build()
}

#[cfg(test)]
mod tests;
