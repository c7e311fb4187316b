//! Holding a route against a caller who is known: evidence, facts, policy; once more with fresher evidence before a
//! refusal.
//!
//! Must not stand on an old reading of the clock after it waited, nor refuse anybody on evidence older than they are.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::check::Engine;
use super::record::{Findings, ShadowDifference};
use super::snapshot::Snapshot;
use super::{AccessRequest, Waits};
use crate::directory::{DirectoryError, SessionQuery, Spelling};
use crate::identity::{AppToken, Bound, Introspection, MemberPrincipal, MemberRef, Now, Principal};
use crate::policy::{
    Access, CanonicalPath, Decision, Environment, Facts, HostName, NamesNeeded, Presented, Reason, Refusal,
    Requirement, Route, decide, judge, names_needed,
};
use crate::session::Evidence;

/// Facts that are waited for before evidence is asked for again; after that they are at hand.
const MAX_LOOKS: usize = 2;
/// Clock difference between us and whoever dates credentials (section 4.3).
const SKEW: Duration = Duration::from_secs(2);

/// What a requirement may look at of the request.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) host: &'a HostName,
    pub(super) path: &'a CanonicalPath,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) certificate_names: &'a [String],
    pub(super) waits: Waits<'a>,
}

impl<'a> Place<'a> {
    pub(super) fn of(request: &AccessRequest<'a>) -> Self {
        let certificate_names = request.peer.certificate_names;
        Self {
            host: request.host,
            path: request.path,
            client_ip: request.client_ip,
            certificate_names,
            waits: request.waits,
        }
    }

    fn environment(self, route: &'a Route, facts: &'a Facts) -> Environment<'a> {
        let Place { host, path, client_ip, certificate_names, waits: _ } = self;
        Environment { client_ip, certificate_names, host, path, patterns: &route.matches.paths, facts }
    }
}

/// The decision on a public route, which asks nothing.
pub(super) fn open_to_all(route: &Arc<Route>, request: &AccessRequest<'_>, now: Now) -> Decision {
    let facts = Facts::default();
    decide(route, Presented::Nothing, Place::of(request).environment(route, &facts), now)
}

impl Engine {
    /// Evidence and policy for the caller who is known by now.
    pub(super) async fn authorize(
        &self,
        route: &Arc<Route>,
        place: Place<'_>,
        snapshot: &Snapshot,
        findings: &mut Findings,
    ) -> Result<Decision, Refusal> {
        match findings.principal.clone() {
            None => Err(Reason::CredentialMissing.into()),
            Some(Principal::Member(principal)) => {
                self.authorize_member(route, &principal, place, snapshot, findings).await
            }
            Some(Principal::Machine(token)) => {
                Ok(self.evaluate(route, Presented::Machine(&token), place, findings, self.clock.now()))
            }
            Some(Principal::App(token)) => Box::pin(self.authorize_app(route, &token, place, findings)).await,
        }
    }

    async fn authorize_member(
        &self,
        route: &Arc<Route>,
        principal: &MemberPrincipal,
        place: Place<'_>,
        snapshot: &Snapshot,
        findings: &mut Findings,
    ) -> Result<Decision, Refusal> {
        let mut query = SessionQuery {
            member: principal.member.clone(),
            spelling: match principal.bound {
                Bound::Session(_) => Spelling::Canonical,
                Bound::AnySession => Spelling::AsWritten,
            },
            freshness: route.freshness,
            settled: findings.asked_again.is_some(),
            newer_than: None,
            vouched: findings.vouched.clone(),
            now: findings.asked_again.or(findings.reading).unwrap_or_else(|| self.clock.now()),
        };
        let (mut evidence, mut now) = self.known_evidence(&query, findings, place.waits).await?;
        if findings.asked_again.is_some() {
            // The turn of the member's streams began a while ago; what was new enough then may not be now.
            now = self.clock.now();
            if evidence.age(now.monotonic) > route.freshness.max_staleness {
                query.now = now;
                (evidence, now) = self.evidence(&query, place.waits).await?;
            }
        }
        if findings.named.is_some() || asks_facts(route) {
            let with_facts = self.with_facts(route, principal, evidence, &mut query, place, findings);
            evidence = Box::pin(with_facts).await?;
            now = self.clock.now();
        }
        let presented = Presented::Member(principal, &evidence);
        let decision = self.evaluate(route, presented, place, findings, now);

        // Whoever is calling had the credential when the request came, so a list asked for since cannot be older.
        let asked_since = evidence.fetched_at().monotonic >= query.now.monotonic;
        // While the directory fails there is nothing newer to be had than what stands in for it.
        let stands_in = matches!(evidence, Evidence::Vouched(_));
        if asked_since || stands_in || !should_confirm(&decision, principal, &evidence, snapshot, now) {
            findings.evidence = Some(evidence);
            return Ok(decision);
        }
        // Newer than the request, not than the list: a lookup already in the air may have been answered before the
        // caller signed in.
        query.newer_than = Some(query.now.monotonic);
        query.now = now;
        findings.evidence = Some(evidence);
        let (evidence, _) = self.evidence(&query, place.waits).await?;
        let with_facts = self.with_facts(route, principal, evidence, &mut query, place, findings);
        let evidence = Box::pin(with_facts).await?;
        let presented = Presented::Member(principal, &evidence);
        let decision = self.evaluate(route, presented, place, findings, self.clock.now());
        findings.evidence = Some(evidence);
        Ok(decision)
    }

    /// Looks up the facts that the route needs, then reads the evidence again if that took time, so that it is still fresh and
    /// not revoked. If a trusted peer named a member too, checks that it is the same member.
    async fn with_facts(
        &self,
        route: &Route,
        principal: &MemberPrincipal,
        mut evidence: Evidence,
        query: &mut SessionQuery,
        place: Place<'_>,
        findings: &mut Findings,
    ) -> Result<Evidence, Refusal> {
        if let Some(named) = findings.named.clone() {
            let named = SessionQuery {
                member: named,
                spelling: Spelling::AsWritten,
                // That is the caller's own word, and this is about whom somebody else named.
                vouched: None,
                now: self.clock.now(),
                ..query.clone()
            };
            let (found, _) = self.evidence(&named, place.waits).await?;
            if found.list().map(|list| &list.member) != Some(&principal.member) {
                return Err(Reason::CredentialsDisagree.into());
            }
        }
        for _ in 0..MAX_LOOKS {
            let presented = Presented::Member(principal, &evidence);
            let waited = self.look_up(route, presented, place, findings).await?;
            if !waited {
                break;
            }
            query.now = self.clock.now();
            (evidence, _) = self.evidence(query, place.waits).await?;
        }
        Ok(evidence)
    }

    async fn authorize_app(
        &self,
        route: &Arc<Route>,
        token: &Arc<AppToken>,
        place: Place<'_>,
        findings: &mut Findings,
    ) -> Result<Decision, Refusal> {
        let now = self.clock.now();
        // Nobody is asked about a token of a kind that neither the route nor what is tried on it takes.
        let takes = match &route.access {
            Access::Public => false,
            Access::Require(requirement) => requirement.takes_apps(),
        };
        let unasked =
            Introspection { active: false, scopes: None, fetched_at: now, good_until: now.monotonic };
        if !takes && !route.shadow.as_ref().is_some_and(Requirement::takes_apps) {
            return Ok(self.evaluate(route, Presented::App(token, &unasked), place, findings, now));
        }
        // One that has ended by now, on a stream that is looked at again, is never sent upstream.
        if takes && token.expires_at <= now.wall {
            return Err(Reason::CredentialExpired.into());
        }
        let mut freshness = route.freshness;
        if findings.asked_again.is_some() {
            // An open stream is not served what is only served while it is asked for again.
            let settled = freshness.fresh_for.min(freshness.max_staleness);
            freshness.stale_if_error += freshness.max_staleness - settled;
            freshness.max_staleness = settled;
        }
        let ask = async || {
            let answer = self.sources.apps.introspect(token, freshness, self.clock.now());
            place.waits.check(&answer, &token.member)?;
            answer.wait().await.map_err(refused)
        };
        let mut introspection = match ask().await {
            // What is only tried on the route fails nobody, and comes to nothing.
            Err(_) if !takes => {
                let unasked = Presented::App(token, &unasked);
                let decision = self.evaluate(route, unasked, place, findings, self.clock.now());
                findings.shadow = None;
                return Ok(decision);
            }
            asked => asked?,
        };
        let mut narrowed = introspection.narrow(token);
        for _ in 0..MAX_LOOKS {
            if !self.look_up(route, Presented::App(&narrowed, &introspection), place, findings).await? {
                break;
            }
            introspection = match ask().await {
                Err(_) if !takes => break,
                asked => asked?,
            };
            narrowed = introspection.narrow(token);
        }
        let presented = Presented::App(&narrowed, &introspection);
        let now = self.clock.now();
        if introspection.good_until < now.monotonic {
            // It grew too old while facts were waited for.
            return Err(refused(DirectoryError::Timeout));
        }
        let decision = self.evaluate(route, presented, place, findings, now);
        findings.introspection = Some(introspection);
        Ok(decision)
    }

    /// Has the policy decide, and the shadow requirement beside it.
    fn evaluate(
        &self,
        route: &Arc<Route>,
        presented: Presented<'_>,
        place: Place<'_>,
        findings: &mut Findings,
        now: Now,
    ) -> Decision {
        findings.facts.expire(now.monotonic);
        let environment = place.environment(route, &findings.facts);
        let decision = decide(route, presented, environment, now);
        findings.found = match &decision {
            Decision::Allow(permit) => permit.caller().and_then(|caller| {
                let session = caller.subject.session()?;
                Some((session.member.clone(), session.session_id.clone()))
            }),
            Decision::Refuse(_) => None,
        };
        findings.shadow = route.shadow.as_ref().map(|shadow| {
            let would = judge(shadow, presented, environment, now).err().map(|refusal| refusal.reason);
            let enforced = match &decision {
                Decision::Allow(_) => None,
                Decision::Refuse(refusal) => Some(refusal.reason),
            };
            let result = match (enforced, would) {
                (None, None) => "same",
                (None, Some(_)) => "would_refuse",
                (Some(_), None) => "would_allow",
                (Some(one), Some(other)) if one == other => "same",
                (Some(_), Some(_)) => "other_reason",
            };
            ShadowDifference { result, reason: would, enforced }
        });
        decision
    }

    /// What the route asks about besides the session, as far as it can be had; what cannot stays unknown and refuses. True if
    /// it had to be waited for.
    async fn look_up(
        &self,
        route: &Route,
        presented: Presented<'_>,
        place: Place<'_>,
        findings: &mut Findings,
    ) -> Result<bool, Refusal> {
        let Access::Require(requirement) = &route.access else { return Ok(false) };
        let requirements = || std::iter::once(requirement).chain(&route.shadow);
        let permission = asks(route, Requirement::is_permission);
        let organization = asks(route, Requirement::is_organization);
        if !permission && !organization {
            return Ok(false);
        }
        let Some(member) = member_of(presented) else { return Ok(false) };
        let id = &member.organization_id;
        let now = self.clock.now();
        let mut waited = false;
        findings.facts.expire(now.monotonic);
        let ages = route.freshness;
        if permission {
            let policy = self.sources.rbac.policy(ages, now);
            let roles = self.sources.rbac.organization_roles(id, ages, now);
            place.waits.check(&policy, &member)?;
            place.waits.check(&roles, &member)?;
            waited |= policy.is_pending() || roles.is_pending();
            // Together: neither needs the other.
            let (policy, roles) = tokio::join!(policy.wait(), roles.wait());
            findings.facts.policy = known("policy", policy);
            findings.facts.organization_roles = known("organization's policy", roles);
        }
        if organization {
            let needs = |facts: &Facts| {
                let environment = place.environment(route, facts);
                let needs =
                    requirements().map(|requirement| names_needed(requirement, presented, &environment));
                needs.fold(NamesNeeded::default(), NamesNeeded::and)
            };
            if needs(&findings.facts).own {
                let names = self.sources.organizations.names(id, ages, now);
                place.waits.check(&names, &member)?;
                waited |= names.is_pending();
                findings.facts.organization_names = known("organization", names.wait().await);
            }
            // Only a name that is the caller's own is asked about: nobody makes us look up what they made up.
            for name in needs(&findings.facts).owners_of {
                let owner = self.sources.organizations.resolve(&name, ages, now);
                place.waits.check(&owner, &member)?;
                waited |= owner.is_pending();
                if let Some(owner) = known("organization by name", owner.wait().await) {
                    findings.facts.owners.retain(|(known, _)| *known != name);
                    findings.facts.owners.push((name, owner));
                }
            }
        }
        Ok(waited)
    }
}

/// Whether a refusal rests on evidence that is older than the credential, or than `negative_for` (section 4.3).
fn should_confirm(
    decision: &Decision,
    principal: &MemberPrincipal,
    evidence: &Evidence,
    snapshot: &Snapshot,
    now: Now,
) -> bool {
    let Decision::Refuse(refusal) = decision else {
        return false;
    };
    refusal.reason.rests_on_evidence()
        && (evidence.age(now.monotonic) > snapshot.negative_for
            || principal.issued_at.is_some_and(|issued_at| evidence.may_predate(issued_at, SKEW, now))
            || principal.seen_at.is_some_and(|seen_at| evidence.fetched_at().monotonic < seen_at))
}

/// Whether the route asks about anything besides the session.
fn asks_facts(route: &Route) -> bool {
    asks(route, |part| part.is_permission() || part.is_organization())
}

fn asks(route: &Route, test: fn(&Requirement) -> bool) -> bool {
    let Access::Require(requirement) = &route.access else { return false };
    std::iter::once(requirement).chain(&route.shadow).any(|requirement| requirement.any_part(&test))
}

/// Whose organization is asked about, in the directory's own spelling.
fn member_of(presented: Presented<'_>) -> Option<MemberRef> {
    match presented {
        Presented::Member(_, evidence) => evidence.list().map(|list| list.member.clone()),
        Presented::App(token, _) => Some(token.member.clone()),
        Presented::Machine(_) | Presented::Nothing => None,
    }
}

fn known<T>(what: &'static str, found: Result<T, DirectoryError>) -> Option<T> {
    found.inspect_err(|error| tracing::debug!(what, %error, "could not be looked up")).ok()
}

fn refused(error: DirectoryError) -> Refusal {
    error.refusal()
}
