//! Whether apps' tokens still count: one answer per token, kept by its digest, outranked by revocations of its member or
//! organization.
//!
//! Must not keep a token.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::fact_cache::{FactBounds, FactCache};
use super::floors::Floors;
use super::{Answer, AppTokenSource, Clock, DirectoryError};
use crate::identity::{AppToken, CredentialDigest, Introspection, MemberId, Now, OrganizationId, Scopes};
use crate::policy::Freshness;
use crate::session::{Revocation, RevocationTarget};
use crate::telemetry::Metrics;

const MAX_TOKENS: u64 = 100_000;
const MAX_IN_FLIGHT: usize = 16;

/// What introspection says of a token: whether it is active, and its scopes if it says them.
pub type Standing = (bool, Option<Scopes>);
type Asked = Pin<Box<dyn Future<Output = Result<Standing, DirectoryError>> + Send>>;

/// The tier in front of introspection.
pub struct AppTokens {
    tokens: FactCache<CredentialDigest, Arc<AppToken>, Standing>,
    floors: Arc<RevocationFloors>,
    clock: Arc<dyn Clock>,
}

struct RevocationFloors {
    members: Floors<MemberId>,
    organizations: Floors<OrganizationId>,
}

impl AppTokens {
    /// `horizon` is the oldest answer any route takes; `ask` introspects.
    pub fn new(
        horizon: Duration,
        deadline: Duration,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        ask: impl Fn(&Arc<AppToken>) -> Asked + Send + Sync + 'static,
    ) -> Self {
        let keep_for = horizon + Duration::from_secs(60);
        let bounds = FactBounds { max_entries: MAX_TOKENS, keep_for, deadline, max_in_flight: MAX_IN_FLIGHT };
        let floors = Arc::new(RevocationFloors { members: Floors::new(), organizations: Floors::new() });
        let over = Arc::clone(&floors);
        let floor_of = move |token: &Arc<AppToken>| {
            let member = &token.member;
            over.members.of(&member.member_id).max(over.organizations.of(&member.organization_id))
        };
        let tokens = FactCache::under("introspect", bounds, Arc::clone(&clock), metrics, ask, floor_of);
        Self { tokens, floors, clock }
    }
}

impl AppTokenSource for AppTokens {
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection> {
        // An answer has no ages of its own: it is kept as long as a session list.
        self.tokens.get(&token.digest, token, freshness.within(freshness), now).map(|fact| {
            let (active, scopes) = fact.value;
            Introspection { active, scopes, fetched_at: fact.sent, good_until: fact.good_until }
        })
    }

    fn forget(&self, revocation: &Revocation) {
        let at = revocation.at.monotonic;
        match &revocation.target {
            RevocationTarget::Member(id) => self.floors.members.raise(id, at),
            RevocationTarget::Organization(id) => self.floors.organizations.raise(id, at),
            // An app's token is of no session.
            RevocationTarget::Session(_) => {}
        }
    }

    fn soften(&self) {
        self.tokens.soften(None, self.clock.now());
    }
}
