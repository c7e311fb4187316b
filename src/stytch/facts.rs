//! RBAC policies, organizations' names and the state of apps' tokens, asked of the API and kept.
//!
//! Must not decide what a policy allows, nor take an answer about another organization or app than asked about.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use moka::sync::Cache;

use super::client::StytchClient;
use super::exchange::Operation;
use super::policy_wire::{read_introspection, read_organization, read_organization_roles, read_policy};
use super::settings::{AppCredentials, RbacSettings};
use crate::directory::{
    Answer, AppTokenSource, DirectoryError, FactBounds, FactCache, OrganizationSource, RbacSource,
};
use crate::identity::{AppToken, Introspection, MemberId, Monotonic, Now, OrganizationId};
use crate::policy::{Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
use crate::session::{Revocation, RevocationTarget};
use crate::telemetry::Metrics;

const MAX_ORGANIZATIONS: u64 = 20_000;
const MAX_APP_TOKENS: u64 = 50_000;
const MAX_IN_FLIGHT: usize = 16;

/// Policies and organizations. Cheap to clone.
#[derive(Clone)]
pub struct ProjectFacts {
    policy: FactCache<(), Arc<RbacPolicy>>,
    roles: FactCache<OrganizationId, Arc<OrganizationRoles>>,
    names: FactCache<OrganizationId, Arc<OrganizationNames>>,
    freshness: Freshness,
    /// Whether anybody ever asked for the policy: one that nobody needs is not fetched.
    wanted: Arc<AtomicBool>,
}

impl ProjectFacts {
    pub fn new(client: &StytchClient, settings: &RbacSettings, metrics: &Metrics) -> Self {
        let freshness = Freshness {
            fresh_for: settings.refresh_every,
            max_staleness: settings.refresh_every * 2,
            stale_if_error: settings.keep_for,
        };
        let bounds = |max_entries| FactBounds {
            max_entries,
            keep_for: freshness.max_staleness + freshness.stale_if_error,
            deadline: settings.deadline,
            max_in_flight: MAX_IN_FLIGHT,
        };
        let clock = || Arc::clone(client.clock());
        let asking = client.clone();
        let policy = FactCache::new("policy", bounds(1), clock(), metrics, move |&()| {
            let client = asking.clone();
            Box::pin(async move {
                let answer = client.fetch(Operation::Policy, "/v1/b2b/rbac/policy").await?;
                read_policy(&answer.unwrap_or_default()).map(Arc::new)
            })
        });
        let asking = client.clone();
        let roles = move |id: &OrganizationId| {
            let (client, path) =
                (asking.clone(), format!("/v1/b2b/rbac/organizations/{}", encode(id.as_str())));
            Box::pin(async move {
                match client.fetch(Operation::OrganizationPolicy, &path).await? {
                    Some(body) => read_organization_roles(&body).map(Arc::new),
                    None => Ok(Arc::default()),
                }
            }) as _
        };
        let asking = client.clone();
        let names = move |id: &OrganizationId| {
            let (client, id) = (asking.clone(), id.clone());
            Box::pin(async move {
                let path = format!("/v1/b2b/organizations/{}", encode(id.as_str()));
                match client.fetch(Operation::Organization, &path).await? {
                    Some(body) => read_organization(&body, &id).map(Arc::new),
                    None => Ok(Arc::default()),
                }
            }) as _
        };
        Self {
            policy,
            roles: FactCache::new("organization_policy", bounds(MAX_ORGANIZATIONS), clock(), metrics, roles),
            names: FactCache::new("organization", bounds(MAX_ORGANIZATIONS), clock(), metrics, names),
            freshness,
            wanted: Arc::default(),
        }
    }

    /// Fetches the policy now and from then on, as long as somebody asks for it; ends only with the runtime.
    pub async fn keep_fresh(self, wanted: bool) {
        self.wanted.fetch_or(wanted, Ordering::Relaxed);
        loop {
            let failed = self.wanted.load(Ordering::Relaxed)
                && self.policy.refresh(&()).await.inspect_err(|error| {
                    tracing::warn!(%error, "the RBAC policy could not be fetched; the last good one is kept");
                }).is_err();
            let pause = if failed { Duration::from_secs(5) } else { self.freshness.fresh_for };
            tokio::time::sleep(pause.mul_f64(0.8 + fastrand::f64() * 0.15)).await;
        }
    }
}

impl RbacSource for ProjectFacts {
    fn policy(&self, now: Now) -> Answer<Arc<RbacPolicy>> {
        self.wanted.store(true, Ordering::Relaxed);
        self.policy.get(&(), self.freshness, None, now).map(|fact| fact.value)
    }

    fn organization_roles(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationRoles>> {
        self.roles.get(id, self.freshness, None, now).map(|fact| fact.value)
    }
}

impl OrganizationSource for ProjectFacts {
    fn names(&self, id: &OrganizationId, now: Now) -> Answer<Arc<OrganizationNames>> {
        self.names.get(id, self.freshness, None, now).map(|fact| fact.value)
    }

    fn forget(&self, revocation: &Revocation) {
        if let RevocationTarget::Organization(id) = &revocation.target {
            self.names.forget(id, revocation.at);
            self.roles.forget(id, revocation.at);
        }
    }
}

/// Whether apps' tokens still count. Cheap to clone.
#[derive(Clone)]
pub struct AppTokens {
    tokens: FactCache<ByDigest, bool>,
    members: Cache<MemberId, Monotonic>,
    organizations: Cache<OrganizationId, Monotonic>,
}

/// A token known by its digest.
#[derive(Clone)]
struct ByDigest(Arc<AppToken>);

impl PartialEq for ByDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for ByDigest {}

impl Hash for ByDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl AppTokens {
    /// `apps` are those whose tokens can only be asked about with a secret. `horizon` is the oldest answer any route takes.
    pub fn new(
        client: &StytchClient,
        apps: Arc<[AppCredentials]>,
        horizon: Duration,
        deadline: Duration,
        metrics: &Metrics,
    ) -> Self {
        let keep_for = horizon + Duration::from_secs(60);
        let bounds =
            FactBounds { max_entries: MAX_APP_TOKENS, keep_for, deadline, max_in_flight: MAX_IN_FLIGHT };
        let asking = client.clone();
        let ask = move |key: &ByDigest| {
            let (client, token, apps) = (asking.clone(), Arc::clone(&key.0), Arc::clone(&apps));
            Box::pin(async move {
                let answer = client.introspect(&token, &apps).await?;
                read_introspection(&answer, &token)
            }) as _
        };
        let marks = || keep_for + Duration::from_secs(60);
        Self {
            tokens: FactCache::new("introspect", bounds, Arc::clone(client.clock()), metrics, ask),
            members: Cache::builder().max_capacity(MAX_APP_TOKENS).time_to_live(marks()).build(),
            organizations: Cache::builder().max_capacity(MAX_ORGANIZATIONS).time_to_live(marks()).build(),
        }
    }
}

impl AppTokenSource for AppTokens {
    fn introspect(&self, token: &Arc<AppToken>, freshness: Freshness, now: Now) -> Answer<Introspection> {
        let floor = self.members.get(&token.member.member_id);
        let floor = floor.max(self.organizations.get(&token.member.organization_id));
        let known = self.tokens.get(&ByDigest(Arc::clone(token)), freshness, floor, now);
        known.map(|fact| Introspection { active: fact.value, fetched_at: fact.sent })
    }

    fn forget(&self, revocation: &Revocation) {
        let at = revocation.at.monotonic;
        match &revocation.target {
            RevocationTarget::Member(id) => self.members.insert(id.clone(), at),
            RevocationTarget::Organization(id) => self.organizations.insert(id.clone(), at),
            // An app's token is of no session.
            RevocationTarget::Session(_) => {}
        }
    }
}

impl StytchClient {
    /// A good answer's body; nothing for a 404 in the API's own shape.
    async fn fetch(&self, operation: Operation, path: &str) -> Result<Option<Bytes>, DirectoryError> {
        self.get_or_missing(operation, Method::GET, path, None).await
    }

    /// What the API says of an app's token (RFC 7662).
    ///
    /// Source: `introspect_token_network` of the official SDKs, `POST /v1/public/{project_id}/oauth2/introspect`.
    async fn introspect(&self, token: &AppToken, apps: &[AppCredentials]) -> Result<Bytes, DirectoryError> {
        let mut form = format!(
            "token={}&client_id={}&token_type_hint=access_token",
            encode(token.token.expose()),
            encode(token.client_id.as_str())
        );
        if let Some(app) = apps.iter().find(|app| app.client_id == token.client_id) {
            form.push_str(&format!("&client_secret={}", encode(app.secret.expose())));
        }
        let path = format!("/v1/public/{}/oauth2/introspect", encode(self.project_id().as_str()));
        let body = Some(Bytes::from(form));
        let answer = self.get_or_missing(Operation::Introspect, Method::POST, &path, body).await?;
        answer.ok_or(DirectoryError::Refused { status: 404 })
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
