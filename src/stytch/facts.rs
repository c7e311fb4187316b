//! RBAC policies and organizations, asked of the API and kept; and what introspection says of apps' tokens.
//!
//! Must not decide what a policy allows, nor take an answer about another organization or app than asked about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::StytchClient;
use super::exchange::Operation;
use super::policy_wire::{read_introspection, read_organization, read_organization_roles, read_policy};
use super::settings::{AppCredentials, RbacSettings};
use crate::directory::{
    Answer, Clock, DirectoryError, FactBounds, FactCache, OrganizationSource, RbacSource, Standing,
};
use crate::identity::{AppToken, Now, OrganizationId};
use crate::policy::{Fact, Freshness, OrganizationNames, OrganizationRoles, RbacPolicy};
use crate::session::{Revocation, RevocationTarget};
use crate::telemetry::Metrics;
use bytes::Bytes;
use http::Method;

const MAX_ORGANIZATIONS: u64 = 20_000;
const MAX_IN_FLIGHT: usize = 16;
const NAMES_BRIDGED: Duration = Duration::from_secs(300);

/// Policies and organizations. Cheap to clone.
#[derive(Clone)]
pub struct ProjectFacts {
    policy: FactCache<(), (), Arc<RbacPolicy>>,
    roles: FactCache<OrganizationId, OrganizationId, Arc<OrganizationRoles>>,
    names: FactCache<OrganizationId, OrganizationId, Arc<OrganizationNames>>,
    /// Which organization a name is of, as the API resolves it.
    owners: FactCache<Arc<str>, Arc<str>, Option<OrganizationId>>,
    /// The ages of policies where a route allows more.
    policy_ages: Freshness,
    /// The ages of organizations' names: they decide whose data is shown, and are used through an outage no longer than
    /// sessions usually are.
    name_ages: Freshness,
    refresh_every: Duration,
    clock: Arc<dyn Clock>,
    /// Whether anybody ever asked for the policy: one that nobody needs is not fetched.
    wanted: Arc<AtomicBool>,
}

impl ProjectFacts {
    pub fn new(client: &StytchClient, settings: &RbacSettings, metrics: &Metrics) -> Self {
        let policy_ages = settings.ages();
        let name_ages = Freshness { stale_if_error: settings.keep_for.min(NAMES_BRIDGED), ..policy_ages };
        let bounds = |max_entries| FactBounds {
            max_entries,
            keep_for: policy_ages.max_staleness + policy_ages.stale_if_error,
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
            let client = asking.clone();
            let id = id.clone();
            Box::pin(async move {
                let path = format!("/v1/b2b/organizations/{}", encode(id.as_str()));
                match client.fetch(Operation::Organization, &path).await? {
                    Some(body) => match read_organization(&body)? {
                        (found, names) if found == id => Ok(Arc::new(names)),
                        _ => Err(DirectoryError::Mismatched),
                    },
                    None => Ok(Arc::default()),
                }
            }) as _
        };
        let asking = client.clone();
        let owners = move |name: &Arc<str>| {
            let client = asking.clone();
            let path = format!("/v1/b2b/organizations/{}", encode(name));
            Box::pin(async move {
                let body = client.fetch(Operation::Organization, &path).await?;
                body.map(|body| read_organization(&body).map(|(id, _)| id)).transpose()
            }) as _
        };
        let many = bounds(MAX_ORGANIZATIONS);
        Self {
            policy,
            roles: FactCache::new("organization_policy", many, clock(), metrics, roles),
            names: FactCache::new("organization", many, clock(), metrics, names),
            owners: FactCache::new("organization", many, clock(), metrics, owners),
            policy_ages,
            name_ages,
            refresh_every: settings.refresh_every,
            clock: clock(),
            wanted: Arc::default(),
        }
    }

    /// Fetches the policy now if it is `wanted`, and from then on once somebody asked for it; ends only with the runtime.
    pub async fn keep_fresh(self, wanted: bool) {
        self.wanted.fetch_or(wanted, Ordering::Relaxed);
        loop {
            let failed = self.wanted.load(Ordering::Relaxed)
                && self.policy.refresh(&(), &()).await.inspect_err(|error| {
                    tracing::warn!(%error, "the RBAC policy could not be fetched; the last good one is kept");
                }).is_err();
            let pause = if failed { Duration::from_secs(5) } else { self.refresh_every };
            tokio::time::sleep(pause.mul_f64(0.8 + fastrand::f64() * 0.15)).await;
        }
    }
}

impl RbacSource for ProjectFacts {
    fn policy(&self, route: Freshness, now: Now) -> Answer<Fact<Arc<RbacPolicy>>> {
        self.wanted.store(true, Ordering::Relaxed);
        self.policy.get(&(), &(), self.policy_ages.within(route), now)
    }

    fn organization_roles(
        &self,
        id: &OrganizationId,
        route: Freshness,
        now: Now,
    ) -> Answer<Fact<Arc<OrganizationRoles>>> {
        self.roles.get(id, id, self.policy_ages.within(route), now)
    }
}

impl OrganizationSource for ProjectFacts {
    fn names(&self, id: &OrganizationId, route: Freshness, now: Now) -> Answer<Fact<Arc<OrganizationNames>>> {
        self.names.get(id, id, self.name_ages.within(route), now)
    }

    fn resolve(&self, name: &str, route: Freshness, now: Now) -> Answer<Fact<Option<OrganizationId>>> {
        let name = Arc::from(name);
        self.owners.get(&name, &name, self.name_ages.within(route), now)
    }

    fn forget(&self, revocation: &Revocation) {
        if let RevocationTarget::Organization(id) = &revocation.target {
            self.names.forget(id, revocation.at);
            self.roles.forget(id, revocation.at);
            // Which names were its is not known any more.
            self.owners.soften(None, revocation.at);
        }
    }

    fn soften(&self, organization: Option<&OrganizationId>) {
        let now = self.clock.now();
        self.names.soften(organization, now);
        self.roles.soften(organization, now);
        self.owners.soften(None, now);
        if organization.is_none() {
            self.policy.soften(None, now);
        }
    }
}

impl StytchClient {
    /// A good answer's body; nothing where the API says there is no such organization.
    async fn fetch(&self, operation: Operation, path: &str) -> Result<Option<Bytes>, DirectoryError> {
        self.get_or_missing(operation, Method::GET, path, None).await
    }

    /// What the API says of an app's token (RFC 7662).
    ///
    /// Source: `introspect_token_network` of the official SDKs, `POST /v1/public/{project_id}/oauth2/introspect`.
    pub async fn introspect(
        &self,
        token: &AppToken,
        apps: &[AppCredentials],
    ) -> Result<Standing, DirectoryError> {
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
        read_introspection(&answer.ok_or(DirectoryError::Refused { status: 404 })?, token)
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
