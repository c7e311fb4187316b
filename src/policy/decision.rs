//! The decision: a permit that only this file can make, or a refusal with its reason.
//!
//! Must not let a `Permit` be built, cloned from parts or changed anywhere else.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::evaluate::{Step, evaluate, refusal_of};
use super::{Access, Reason, Requirement, Route};
use crate::identity::{Bound, Now, Principal};
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
    pub session: Arc<MemberSession>,
    /// Age of the evidence at the decision.
    pub evidence_age: Duration,
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
    pub retry_after: Option<Duration>,
    /// For a 405: what the route takes.
    pub allowed_methods: Vec<Method>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, challenge: None, retry_after: None, allowed_methods: Vec::new() }
    }
}

/// What a step-up must achieve (RFC 9470 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The most that may have passed since the factor was proven.
    pub max_age: Option<Duration>,
    /// `urn:portcullis:factor:<type>` or `urn:portcullis:mfa`, each once.
    pub acr_values: Vec<String>,
}

impl Challenge {
    pub(super) fn for_steps(steps: &[Step<'_>]) -> Self {
        let mut acr_values: Vec<String> = Vec::new();
        for value in steps.iter().filter_map(Step::acr_value) {
            if !acr_values.contains(&value) {
                acr_values.push(value);
            }
        }
        Self { max_age: steps.iter().filter_map(Step::max_age).min(), acr_values }
    }
}

/// Decides on `route` for a verified caller and the evidence about them, or for nobody on a public route.
///
/// `caller` is `None` when the request carried no credential that could be looked at.
pub fn decide(route: &Arc<Route>, caller: Option<(&Principal, &Evidence)>, now: Now) -> Decision {
    let requirement = match &route.access {
        Access::Public => {
            return Decision::Allow(Permit { route: Arc::clone(route), caller: None });
        }
        Access::Require(requirement) => requirement,
    };
    let Some((principal, evidence)) = caller else {
        return Decision::Refuse(Reason::CredentialMissing.into());
    };
    let Some(list) = evidence.list() else {
        return Decision::Refuse(Reason::MemberNotFound.into());
    };
    // A wall clock set back since the lookup must not bring an expired session or a stale factor back to life.
    let now = now.no_earlier_than(list.fetched_at);
    match judge(requirement, &principal.bound, list, now) {
        Ok(session) => {
            let caller = Caller { session: Arc::new(session), evidence_age: list.age(now.monotonic) };
            Decision::Allow(Permit { route: Arc::clone(route), caller: Some(caller) })
        }
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// Finds the one session that answers for the caller and meets everything (invariant 8).
fn judge(
    requirement: &Requirement,
    bound: &Bound,
    list: &ActiveSessions,
    now: Now,
) -> Result<MemberSession, Refusal> {
    match bound {
        Bound::Session(session_id) => {
            let session = list.find(session_id).ok_or(Reason::SessionNotFound)?;
            judge_one(requirement, session, now)
        }
        Bound::AnySession => {
            let mut best: Option<Refusal> = None;
            for session in list.sessions() {
                match judge_one(requirement, session, now) {
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

fn judge_one(requirement: &Requirement, session: MemberSession, now: Now) -> Result<MemberSession, Refusal> {
    if !session.is_live(now.wall) {
        return Err(Reason::SessionExpired.into());
    }
    if evaluate(requirement, &session, now).is_true() {
        return Ok(session);
    }
    let (reason, challenge) = refusal_of(requirement, &session, now);
    Err(Refusal { challenge, ..Refusal::from(reason) })
}

#[cfg(test)]
mod tests;
