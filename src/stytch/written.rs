//! Session lists, policies and names that were written down, in place of the directory, for explaining decisions.
//!
//! Must not be wired into a gateway that serves: what was written down has no age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::wire::read_session_list;
use crate::directory::{
    Answer, AppTokenSource, Clock, DirectoryError, ManualClock, OrganizationSource, RbacSource,
    SessionDirectory, SessionQuery, Spelling, TokenOwner, TokenQuery,
};
use crate::identity::{AppToken, Introspection, Monotonic, Now, OrganizationId};
use crate::policy::{Fact, Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
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
    pub organization_roles: Option<Arc<OrganizationRoles>>,
    pub organization_names: Option<Arc<OrganizationNames>>,
    /// Whose roles and names those are.
    pub organization: Option<OrganizationId>,
    /// Whether apps' tokens are revoked.
    pub revoked: bool,
}

fn written_if_any<V: Clone>(value: &Option<V>, now: Now) -> Answer<Fact<V>> {
    Answer::Ready(value.clone().map(|value| Fact::written(value, now)).ok_or(DirectoryError::Unreachable))
}

impl RbacSource for WrittenFacts {
    fn policy(&self, _route: Freshness, now: Now) -> Answer<Fact<Arc<RbacPolicy>>> {
        written_if_any(&self.policy, now)
    }

    fn organization_roles(
        &self,
        _id: &OrganizationId,
        _route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>> {
        written_if_any(&self.organization_roles, now)
    }
}

impl OrganizationSource for WrittenFacts {
    fn names(
        &self,
        _id: &OrganizationId,
        _route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationNames>>> {
        written_if_any(&self.organization_names, now)
    }

    /// What is written is about one organization: its names are its own.
    fn resolve(&self, name: &str, _route: Freshness, now: Now) -> Answer<Fact<Option<OrganizationId>>> {
        let names = self.organization_names.as_deref();
        let is_own = names.is_some_and(|names| {
            [&names.slug, &names.external_id].into_iter().flatten().any(|known| &**known == name)
        });
        Answer::Ready(Ok(Fact::written(self.organization.clone().filter(|_| is_own), now)))
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self, _organization: Option<&OrganizationId>) {}
}

impl AppTokenSource for WrittenFacts {
    fn introspect(&self, _token: &Arc<AppToken>, _freshness: Freshness, now: Now) -> Answer<Introspection> {
        let active = !self.revoked;
        Answer::Ready(Ok(Introspection {
            active,
            scopes: None,
            fetched_at: now,
            good_until: Monotonic::at(Duration::MAX),
        }))
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self) {}
}

/// A project's policy that was written down, before a source of everything else.
pub struct WrittenPolicy {
    policy: Arc<RbacPolicy>,
    below: Arc<dyn RbacSource>,
}

impl WrittenPolicy {
    pub fn new(policy: Arc<RbacPolicy>, below: Arc<dyn RbacSource>) -> Self {
        Self { policy, below }
    }
}

impl RbacSource for WrittenPolicy {
    fn policy(&self, _route: Freshness, now: Now) -> Answer<Fact<Arc<RbacPolicy>>> {
        Answer::Ready(Ok(Fact::written(Arc::clone(&self.policy), now)))
    }

    fn organization_roles(
        &self,
        id: &OrganizationId,
        route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>> {
        self.below.organization_roles(id, route, now)
    }
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
    fn policy(&self, route: Freshness, now: Now) -> Answer<Fact<Arc<RbacPolicy>>> {
        self.lock().1.policy(route, now)
    }

    fn organization_roles(
        &self,
        id: &OrganizationId,
        route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>> {
        self.lock().1.organization_roles(id, route, now)
    }
}

impl OrganizationSource for WrittenCase {
    fn names(&self, id: &OrganizationId, route: Freshness, now: Now) -> Answer<Fact<Arc<OrganizationNames>>> {
        self.lock().1.names(id, route, now)
    }

    fn resolve(&self, name: &str, route: Freshness, now: Now) -> Answer<Fact<Option<OrganizationId>>> {
        self.lock().1.resolve(name, route, now)
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self, _organization: Option<&OrganizationId>) {}
}

impl AppTokenSource for WrittenCase {
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection> {
        self.lock().1.introspect(token, freshness, now)
    }

    fn forget(&self, _revocation: &Revocation) {}

    fn soften(&self) {}
}
