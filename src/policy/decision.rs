//! The decision: a permit that only this file can make, or a refusal with its reason.
//!
//! Must not let a `Permit` be built, cloned from parts or changed anywhere else.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::evaluate::{SKEW, evaluate};
use super::steps::{Challenge, refusal_of, unmet};
use super::subject::Case;
use super::{Access, Environment, NamesNeeded, Reason, Requirement, Route, Subject, Truth};
use crate::identity::{AppToken, Bound, Introspection, MachineToken, MemberPrincipal, Now};
use crate::session::{ActiveSessions, Evidence, MemberSession};

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    Allow(Permit),
    Refuse(Refusal),
}

/// Proof that a request may reach the origin of its route.
#[derive(Debug)]
pub struct Permit {
    route: Arc<Route>,
    caller: Option<Caller>,
}

/// Who was let through, and on what evidence.
#[derive(Debug, Clone)]
pub struct Caller {
    pub subject: Subject,
    /// Age of the oldest evidence at the decision, facts about the organization and the project included.
    pub evidence_age: Duration,
}

/// What a request showed for its caller, each with what was found out about it.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// No credential that could be looked at.
    Nothing,
    Member(&'a MemberPrincipal, &'a Evidence),
    /// A machine's token is its own evidence until it expires.
    Machine(&'a Arc<MachineToken>),
    App(&'a Arc<AppToken>, &'a Introspection),
}

impl Permit {
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Nobody on a public route.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }
}

/// A refusal: one reason, and what the answer needs besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub challenge: Option<Challenge>,
    /// The parts of the requirement that a verified caller does not meet, in words.
    pub unmet: Vec<String>,
    pub retry_after: Option<Duration>,
    /// For a 405: what the route takes.
    pub allowed_methods: Vec<Method>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, challenge: None, unmet: Vec::new(), retry_after: None, allowed_methods: Vec::new() }
    }
}

/// Decides on `route` for a verified caller and the evidence about them, or for nobody on a public route.
pub fn decide(
    route: &Arc<Route>,
    presented: Presented<'_>,
    environment: Environment<'_>,
    now: Now,
) -> Decision {
    let requirement = match &route.access {
        Access::Public => {
            return Decision::Allow(Permit { route: Arc::clone(route), caller: None });
        }
        Access::Require(requirement) => requirement,
    };
    match judge(requirement, presented, environment, now) {
        Ok(caller) => Decision::Allow(Permit { route: Arc::clone(route), caller: Some(caller) }),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// What would come of `requirement` in place of the route's own, for the same caller: no permit, only the refusal.
pub fn judge(
    requirement: &Requirement,
    presented: Presented<'_>,
    environment: Environment<'_>,
    now: Now,
) -> Result<Caller, Refusal> {
    match presented {
        Presented::Nothing => Err(Reason::CredentialMissing.into()),
        Presented::Member(principal, evidence) => {
            let list = evidence.list().ok_or(Reason::MemberNotFound)?;
            // A wall clock set back since the lookup must not bring an expired session or a stale factor back to life.
            let now = now.no_earlier_than(list.fetched_at);
            let subject = judge_sessions(requirement, &principal.bound, list, environment, now)?;
            let age = with_facts(list.age(now.monotonic), requirement, environment, now);
            Ok(Caller { subject, evidence_age: age })
        }
        Presented::Machine(token) => {
            let subject = Subject::Machine(Arc::clone(token));
            if !takes(requirement, &subject) {
                return Err(Reason::CredentialKind.into());
            }
            let age = now.age_of(token.issued_at, SKEW).unwrap_or_default();
            Ok(Caller { subject: judge_token(requirement, subject, environment, now)?, evidence_age: age })
        }
        Presented::App(token, introspection) => {
            let subject = Subject::App(Arc::clone(token));
            if !takes(requirement, &subject) {
                return Err(Reason::CredentialKind.into());
            }
            // Before anything of the route is told: a revoked token is nobody's.
            if !introspection.active {
                return Err(Reason::TokenInactive.into());
            }
            let now = now.no_earlier_than(introspection.fetched_at);
            let age = now.monotonic.since(introspection.fetched_at.monotonic);
            let evidence_age = with_facts(age, requirement, environment, now);
            Ok(Caller { subject: judge_token(requirement, subject, environment, now)?, evidence_age })
        }
    }
}

/// The age of the oldest evidence: the caller's own, or a fact that `requirement` rests on (invariant 7).
fn with_facts(own: Duration, requirement: &Requirement, environment: Environment<'_>, now: Now) -> Duration {
    environment.facts.oldest_age(requirement, now.monotonic).map_or(own, |age| age.max(own))
}

/// Judges a machine or an app, which pass only where the requirement asks for their kind and that part is met: whatever
/// else is true of a token of another kind, it opens nothing.
fn judge_token(
    requirement: &Requirement,
    subject: Subject,
    environment: Environment<'_>,
    now: Now,
) -> Result<Subject, Refusal> {
    if subject.expires_at() <= now.wall {
        return Err(Reason::CredentialExpired.into());
    }
    let case = Case { subject: &subject, environment, now };
    if evaluate(requirement, case) == Truth::True {
        return if is_admitted(requirement, case) { Ok(subject) } else { Err(Reason::ScopeMissing.into()) };
    }
    let (reason, _) = refusal_of(requirement, case);
    Err(Refusal { unmet: unmet(requirement, case), ..Refusal::from(reason) })
}

/// Whether `requirement` asks for the subject's kind anywhere but under `not`.
pub(super) fn takes(requirement: &Requirement, subject: &Subject) -> bool {
    match (requirement, subject) {
        (Requirement::Not(_), _) => false,
        (Requirement::Machine { .. }, Subject::Machine(_)) | (Requirement::App { .. }, Subject::App(_)) => {
            true
        }
        _ => requirement.parts().iter().any(|part| takes(part, subject)),
    }
}

/// Whether the part that asks for the subject's kind is met, and is what the requirement's being met rests on.
fn is_admitted(requirement: &Requirement, case: Case<'_>) -> bool {
    let met = |part: &Requirement| evaluate(part, case).is_true();
    match requirement {
        Requirement::Machine { .. } | Requirement::App { .. } => met(requirement),
        Requirement::All(parts) => parts.iter().any(|part| is_admitted(part, case)),
        Requirement::Any(parts) => parts.iter().any(|part| met(part) && is_admitted(part, case)),
        Requirement::Named { requirement, .. } => is_admitted(requirement, case),
        Requirement::Authenticated
        | Requirement::Role(_)
        | Requirement::Permission(_)
        | Requirement::Factor(_)
        | Requirement::Mfa { .. }
        | Requirement::Organization(_)
        | Requirement::OrganizationFrom(_)
        | Requirement::SessionAge { .. }
        | Requirement::Claim(_)
        | Requirement::Impersonated(_)
        | Requirement::ClientIp(_)
        | Requirement::ClientCertificate(_)
        | Requirement::Not(_) => false,
    }
}

/// Finds the one session that answers for the caller and meets everything (invariant 8).
fn judge_sessions(
    requirement: &Requirement,
    bound: &Bound,
    list: &ActiveSessions,
    environment: Environment<'_>,
    now: Now,
) -> Result<Subject, Refusal> {
    match bound {
        Bound::Session(session_id) => {
            let session = list.find(session_id).ok_or(Reason::SessionNotFound)?;
            judge_session(requirement, session, environment, now)
        }
        Bound::AnySession => {
            let mut best: Option<Refusal> = None;
            for session in list.sessions() {
                match judge_session(requirement, Arc::new(session), environment, now) {
                    Ok(session) => return Ok(session),
                    // The session that comes nearest to an allow answers: a step-up before a flat no.
                    Err(refusal) if best.as_ref().is_none_or(|best| nearer(&refusal, best)) => {
                        best = Some(refusal);
                    }
                    Err(_) => {}
                }
            }
            Err(best.unwrap_or_else(|| Reason::SessionNotFound.into()))
        }
    }
}

fn nearer(one: &Refusal, other: &Refusal) -> bool {
    (one.challenge.is_some(), one.reason != Reason::SessionExpired)
        > (other.challenge.is_some(), other.reason != Reason::SessionExpired)
}

fn judge_session(
    requirement: &Requirement,
    session: Arc<MemberSession>,
    environment: Environment<'_>,
    now: Now,
) -> Result<Subject, Refusal> {
    if !session.is_live(now.wall) {
        return Err(Reason::SessionExpired.into());
    }
    let subject = Subject::Member(session);
    let case = Case { subject: &subject, environment, now };
    if evaluate(requirement, case).is_true() {
        return Ok(subject);
    }
    let (reason, challenge) = refusal_of(requirement, case);
    Err(Refusal { challenge, unmet: unmet(requirement, case), ..Refusal::from(reason) })
}

/// What must be looked up about organizations to hold `requirement` against what was presented.
pub fn names_needed(
    requirement: &Requirement,
    presented: Presented<'_>,
    environment: &Environment<'_>,
) -> NamesNeeded {
    let needed = |subject: &Subject| super::organization::names_needed(requirement, subject, environment);
    match presented {
        Presented::Nothing | Presented::Machine(_) => NamesNeeded::default(),
        Presented::App(token, _) => needed(&Subject::App(Arc::clone(token))),
        Presented::Member(principal, evidence) => {
            let Some(list) = evidence.list() else { return NamesNeeded::default() };
            let needed = |session| needed(&Subject::Member(session));
            match &principal.bound {
                Bound::Session(session_id) => list.find(session_id).map(needed).unwrap_or_default(),
                Bound::AnySession => {
                    list.sessions().map(Arc::new).map(needed).fold(NamesNeeded::default(), NamesNeeded::and)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
