//! Session lists, policies and names that were written down, in place of the directory, for explaining decisions.
//!
//! Must not be wired into a gateway that serves: what was written down has no age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::wire::read_session_list;
use crate::directory::{
    Answer, AppTokenSource, Clock, DirectoryError, ManualClock, OrganizationSource, RbacSource,
    SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery,
};
use crate::identity::{AppToken, Introspection, Now, OrganizationId};
use crate::policy::{Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
use crate::session::{Evidence, Revocation};

/// Answers every question for a list with the same one; tokens are resolved by the directory below.
pub struct WrittenList {
    body: Vec<u8>,
    spelling: Spelling,
    below: Arc<dyn SessionDirectory>,
    clock: Arc<dyn Clock>,
    pointers: Arc<[Arc<str>]>,
}

impl WrittenList {
    /// `body` is an answer of `GET /v1/b2b/sessions`.
    pub fn new(
        body: Vec<u8>,
        spelling: Spelling,
        below: Arc<dyn SessionDirectory>,
        clock: Arc<dyn Clock>,
        pointers: Arc<[Arc<str>]>,
    ) -> Self {
        Self { body, spelling, below, clock, pointers }
    }
}

impl SessionDirectory for WrittenList {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let read =
            read_session_list(&self.body, &query.member, self.spelling, self.clock.now(), &self.pointers);
        Answer::Ready(read.map(Evidence::Sessions))
    }

    fn resolve(&self, query: &TokenQuery) -> Answer<TokenOwner> {
        self.below.resolve(query)
    }

    fn forget(&self, _revocation: &Revocation) {}
}

/// Policies, names and the state of an app's token, as somebody wrote them.
#[derive(Debug, Clone, Default)]
pub struct WrittenFacts {
    pub policy: Option<Arc<RbacPolicy>>,
    pub organization_roles: Arc<OrganizationRoles>,
    pub organization_names: Option<Arc<OrganizationNames>>,
    /// Whether apps' tokens are revoked.
    pub revoked: bool,
}

impl RbacSource for WrittenFacts {
    fn policy(&self, _now: Now) -> Answer<Arc<RbacPolicy>> {
        Answer::Ready(self.policy.clone().ok_or(DirectoryError::Unreachable))
    }

    fn organization_roles(&self, _id: &OrganizationId, _now: Now) -> Answer<Arc<OrganizationRoles>> {
        Answer::Ready(Ok(Arc::clone(&self.organization_roles)))
    }
}

impl OrganizationSource for WrittenFacts {
    fn names(&self, _id: &OrganizationId, _now: Now) -> Answer<Arc<OrganizationNames>> {
        Answer::Ready(self.organization_names.clone().ok_or(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

impl AppTokenSource for WrittenFacts {
    fn introspect(&self, _token: &Arc<AppToken>, _freshness: Freshness, now: Now) -> Answer<Introspection> {
        Answer::Ready(Ok(Introspection { active: !self.revoked, fetched_at: now }))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

/// Everything of one case of `portcullis test`: the case that is on.
pub struct WrittenCase {
    clock: ManualClock,
    pointers: Arc<[Arc<str>]>,
    on: Mutex<(Vec<u8>, WrittenFacts)>,
}

impl WrittenCase {
    /// A stand-in for everything, at a time that stands still.
    pub fn at(now: Timestamp, pointers: &Arc<[Arc<str>]>) -> Self {
        Self { clock: ManualClock::at(now), pointers: Arc::clone(pointers), on: Mutex::default() }
    }

    /// From now on this is so: the member's sessions as the API lists them, and what is known besides.
    pub fn is(&self, sessions: Vec<u8>, facts: WrittenFacts) {
        *self.lock() = (sessions, facts);
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, WrittenFacts)> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for WrittenCase {
    fn now(&self) -> Now {
        self.clock.now()
    }
}

impl SessionDirectory for WrittenCase {
    fn active_sessions(&self, query: &SessionQuery) -> Answer<Evidence> {
        let read = read_session_list(
            &self.lock().0,
            &query.member,
            query.spelling,
            self.clock.now(),
            &self.pointers,
        );
        Answer::Ready(read.map(Evidence::Sessions))
    }

    fn resolve(&self, _query: &TokenQuery) -> Answer<TokenOwner> {
        Answer::Ready(Err(DirectoryError::Unreachable))
    }

    fn forget(&self, _revocation: &Revocation) {}
}

impl RbacSource for WrittenCase {
    fn policy(&self, now: Now) -> Answer<Arc<RbacPolicy>> {
        self.lock().1.policy(now)
    }

    fn organization_roles(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationRoles>> {
        self.lock().1.organization_roles(id, now)
    }
}

impl OrganizationSource for WrittenCase {
    fn names(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationNames>> {
        self.lock().1.names(id, now)
    }

    fn forget(&self, _revocation: &Revocation) {}
}

impl AppTokenSource for WrittenCase {
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection> {
        self.lock().1.introspect(token, freshness, now)
    }

    fn forget(&self, _revocation: &Revocation) {}
}
